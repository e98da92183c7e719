"""Our decode loop against `model.generate`, and the two schedules of a rollout against each other.

    python benchmarks/rollout_speed.py [--threads 1] [--prompts 64] [--distinct 64] [--new 12]

First the decode loop: same process, same prompts, same number of tokens. Responses run to the full
length in both, so the work is equal; in training ours also gains from rows that finish early. Then
whole rollouts (rollout_schedules.py), one line of JSON each: `turns` and `continuous` on the same
episodes.
"""

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import torch
from rollout_schedules import measure
from transformers import PretrainedConfig, Qwen3Config, Qwen3ForCausalLM

from sdar.rollout.engines.transformers import TransformersEngine


def tiny_policy() -> Qwen3ForCausalLM:
    """A random policy of the default configuration's shape."""
    config: PretrainedConfig = Qwen3Config(
        vocab_size=704,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    return Qwen3ForCausalLM(config).eval()


def best_of(repeats: int, run: Callable[[], object]) -> float:
    """Seconds of the fastest of several runs, after one to warm up."""
    run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--distinct", type=int, default=64, help="distinct prompts among them")
    parser.add_argument("--new", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rollouts", type=int, default=3, help="repeats of a rollout; 0: none")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = tiny_policy()
    random = np.random.Generator(np.random.Philox(7))
    distinct = [
        random.integers(3, 704, size=length).tolist()
        for length in random.integers(130, 250, size=options.distinct)
    ]
    prompts = [distinct[i % options.distinct] for i in range(options.prompts)]
    engine = TransformersEngine(model, None, ends=frozenset({-1}))
    keys = [(0, 0, slot, 0) for slot in range(options.prompts)]

    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])

    ours = best_of(
        options.repeats,
        lambda: engine.generate(prompts, keys, max_new_tokens=options.new, temperature=1.0),
    )
    theirs = best_of(
        options.repeats,
        lambda: model.generate(
            ids,
            attention_mask=mask,
            do_sample=True,
            top_k=0,
            max_new_tokens=options.new,
            min_new_tokens=options.new,
            pad_token_id=0,
        ),
    )
    total = options.prompts * options.new
    print(
        json.dumps(
            {
                "threads": options.threads,
                "prompts": options.prompts,
                "distinct": options.distinct,
                "new_tokens": options.new,
                "ours_seconds": round(ours, 4),
                "generate_seconds": round(theirs, 4),
                "ours_new_tokens_per_second": round(total / ours),
                "generate_new_tokens_per_second": round(total / theirs),
                "speedup": round(theirs / ours, 2),
            },
            indent=2,
        )
    )
    for line in measure(options.rollouts) if options.rollouts else ():
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
