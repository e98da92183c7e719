"""What a decoded token costs beside arithmetic: operations, casts, weights cast, reads by the host.

    python benchmarks/decode_ops.py [--layers 24] [--rows 4] [--tokens 32] [--dtype bfloat16]

A random Qwen2 of few numbers and many layers decodes on the CPU; what a GPU would be asked to do is
counted, not timed. Counts are of the tokens after the first 8, each decoded for all rows at once.
`static` is what CUDA launches as one graph per token; `nothing kept`: autocast converts weights
anew whenever they are used, as in inference mode.
"""

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from measuring import OperationCounts
from transformers import AutoModelForCausalLM, Qwen2Config

from sdar.rollout.engines.transformers_continuous import ContinuousTransformersEngine

PROMPT, SKIPPED = 40, 8


def random_model(layers: int) -> Any:
    """As Qwen2.5 in all but its width."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=512,
        hidden_size=56,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()


def in_turns(engine: Any, rows: int, tokens: int) -> None:
    """`rollout.schedule: turns`."""
    prompts = [[row + 1] * (PROMPT + row) for row in range(rows)]
    keys = [(0, 0, row, 0) for row in range(rows)]
    engine.generate(prompts, keys, max_new_tokens=tokens, temperature=1.0)


def continuously(engine: Any, rows: int, tokens: int) -> None:
    """`rollout.schedule: continuous`."""
    for row in range(rows):
        engine.submit(
            row,
            [row + 1] * (PROMPT + row),
            (0, 0, row, 0),
            max_new_tokens=tokens,
            temperature=1.0,
        )
    while len(engine.advance()) < rows:
        pass


def counts_per_token(
    work: Callable[[Any, int, int], None],
    model: Any,
    rows: int,
    tokens: int,
    dtype: str,
    keep: bool = True,
    **options: Any,
) -> dict[str, float]:
    """Of a token after the first ones: the difference between a long and a short response."""
    found = []
    for length in (SKIPPED, SKIPPED + tokens):
        engine = ContinuousTransformersEngine(model, None, ends=frozenset(), **options)
        if not keep:
            engine._computing = lambda **_: nullcontext()
        half = torch.autocast(
            "cpu", torch.bfloat16, enabled=dtype == "bfloat16", cache_enabled=keep
        )
        with half, OperationCounts(model) as counts:
            work(engine, rows, length)
        engine.close()
        found.append(counts)
    names = ("operations", "casts", "weight_casts", "host_reads")
    return {name: (getattr(found[1], name) - getattr(found[0], name)) / tokens for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    options = parser.parse_args()
    model = random_model(options.layers)
    sizes = (model, options.rows, options.tokens, options.dtype)
    print("| schedule | decoding | operations | casts | weights cast | host reads |")
    print("|---|---|--:|--:|--:|--:|")
    for schedule, work in (("turns", in_turns), ("continuous", continuously)):
        for name, how in (
            ("fast, nothing kept", {"path": "fast", "keep": False}),
            ("fast", {"path": "fast"}),
            ("static", {"path": "static"}),
        ):
            cells = " | ".join(
                f"{each:g}" for each in counts_per_token(work, *sizes, **how).values()
            )
            print(f"| {schedule} | {name} | {cells} |")


if __name__ == "__main__":
    main()
