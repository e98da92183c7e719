"""Which families of models does sdar score and sample exactly, and on which path?

    python benchmarks/model_families.py             # the table, on the terminal
    python benchmarks/model_families.py --write     # into docs/models.md
    python benchmarks/model_families.py gemma3_text gpt2

Of each family a random model of a few layers is made, whose norms, biases and scales are no
identities, and tried as a policy is when it is loaded (`policy.probe`, `rollout.engines.probe`).
"Apart" is the largest difference of any log-prob, in nats, from the model's own plain forward, by
code of its own; some prompts begin alike. "Shares": whether what they begin with is computed once.
On one core some minutes.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from sdar.errors import SdarError
from sdar.policy.log_probs import PolicyScorer, score_responses
from sdar.policy.paths import scoring_path
from sdar.policy.probe import find_scoring_path, plain_ids, windows
from sdar.policy.sharing_probe import find_sharing
from sdar.rollout.engines.probe import find_sampling_path
from sdar.rollout.engines.transformers_continuous import ContinuousTransformersEngine

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "models.md"
START, END = "<!-- table: python benchmarks/model_families.py --write -->", "<!-- /table -->"
SMALL: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_WINDOW: dict[str, Any] = {"sliding_window": 12}
_EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}
_LATENT: dict[str, Any] = {
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "num_key_value_heads": 4,
    "head_dim": 8,
}
_MAMBA: dict[str, Any] = {
    "mamba_d_ssm": 64,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 16,
    "mamba_expand": 1,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": _WINDOW,
    "ministral": {**_WINDOW, "layer_types": ["sliding_attention", "full_attention"]},
    "mixtral": {**_EXPERTS, **_WINDOW},
    "qwen2": {},
    "qwen2_moe": {**_EXPERTS, "decoder_sparse_step": 1},
    "qwen3": {},
    "qwen3_moe": {**_EXPERTS, "decoder_sparse_step": 1},
    "qwen3_next": {
        **_EXPERTS,
        "num_hidden_layers": 4,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
    },
    "phi": {},
    "phi3": _WINDOW,
    "phimoe": {**_EXPERTS, **_WINDOW},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 64},
    "gpt2": {"n_positions": 512},
    "gpt_bigcode": {"n_positions": 512},
    "gpt_neo": {
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 12,
    },
    "gpt_neox": {},
    "gptj": {"n_positions": 512, "rotary_dim": 8},
    "gpt_oss": {**_EXPERTS, **_WINDOW},
    "codegen": {"n_positions": 512, "rotary_dim": 8},
    "bloom": {},
    "mpt": {"d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 512},
    "falcon": {"num_kv_heads": 2, "head_dim": None},
    "falcon_h1": {
        **_MAMBA,
        "lm_head_multiplier": 0.4,
        "embedding_multiplier": 1.5,
        "key_multiplier": 0.7,
    },
    "gemma": {},
    "gemma2": {**_WINDOW, "query_pre_attn_scalar": 16},
    "gemma3_text": {**_WINDOW, "query_pre_attn_scalar": 16},
    "gemma3": {
        "text_config": {**SMALL, **_WINDOW, "query_pre_attn_scalar": 16},
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        "mm_tokens_per_image": 4,
        "image_token_id": 159,
    },
    "granite": {"logits_scaling": 4.0, "embedding_multiplier": 2.0, "residual_multiplier": 0.5},
    "granitemoe": {**_EXPERTS, "logits_scaling": 4.0},
    "granitemoehybrid": {
        **_EXPERTS,
        **_MAMBA,
        "mamba_expand": 2,
        "mamba_d_head": 32,
        "logits_scaling": 4.0,
        "layer_types": ["linear_attention", "full_attention"],
        "shared_intermediate_size": 32,
    },
    "cohere": {"logit_scale": 0.25},
    "cohere2": {"logit_scale": 0.25, **_WINDOW},
    "smollm3": {},
    "glm": {},
    "glm4": {},
    "glm4_moe": {**_EXPERTS, "first_k_dense_replace": 1},
    "olmo": {},
    "olmo2": {},
    "olmo3": {**_WINDOW, "layer_types": ["sliding_attention", "full_attention"]},
    "olmoe": _EXPERTS,
    "stablelm": {},
    "starcoder2": _WINDOW,
    "exaone4": {**_WINDOW, "layer_types": ["sliding_attention", "full_attention"]},
    "ernie4_5": {},
    "seed_oss": {},
    "nemotron": {},
    "helium": {},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "mamba": {"state_size": 8},
    "mamba2": {"num_heads": 8, "head_dim": 16, "state_size": 8, "n_groups": 1, "chunk_size": 16},
    "falcon_mamba": {"state_size": 8},
    "bamba": {**_MAMBA, "mamba_expand": 2, "mamba_d_head": 32, "attn_layer_indices": [1]},
    "jamba": {
        **_EXPERTS,
        "mamba_d_state": 8,
        "mamba_dt_rank": 8,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "use_mamba_kernels": False,
    },
    "recurrent_gemma": {
        "num_hidden_layers": 3,
        "attention_window_size": 12,
        "lru_width": 64,
        "logits_soft_cap": 3.0,
    },
    "rwkv": {"attention_hidden_size": 64, "context_length": 512},
    "minicpm3": _LATENT,
    "deepseek_v2": {**_LATENT, **_EXPERTS, "first_k_dense_replace": 1, "topk_group": 1},
    "deepseek_v3": {
        **_LATENT,
        **_EXPERTS,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
    },
}
"""What a small model of each family takes beside `SMALL`; None: not this key of it."""


class Found(NamedTuple):
    """A row of the table."""

    scoring: str
    sampling: str
    apart: float | None
    shares: bool
    why: str


def make_model(family: str, seed: int = 0, **more: Any) -> Any:
    """A random model: matrices, norms, biases and whatever else is a parameter."""
    values = dict(FAMILIES.get(family, {}))
    values = (values if "text_config" in values else SMALL | values) | more
    given = {key: value for key, value in values.items() if value is not None}
    config = AutoConfig.for_model(family, **given)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0.0, 0.15)
                else:
                    parameter += 0.2 * torch.randn_like(parameter)
    return model.float().eval()


def look_at(family: str) -> Found:
    """Try a model of the family."""
    model = make_model(family)
    try:
        against = find_scoring_path(model, PolicyScorer)
        path, against_sampling = find_sampling_path(ContinuousTransformersEngine, model)
    except SdarError as error:
        return Found("refused", "refused", None, False, str(error))
    alone = find_sharing(model, PolicyScorer)
    why = [f"scoring {path}: {said}" for path, said in against.items()]
    why += [f"sampling {path}: {said}" for path, said in against_sampling.items()]
    if alone is not None:
        why.append(f"sharing: {alone}")
    return Found(scoring_path(model), path, apart(model, path), alone is None, "; ".join(why))


def apart(model: Any, path: Any) -> float:
    """Largest difference of scorer's and engine's log-probs from the plain forward's, in nats."""
    long = max(windows(model.config), default=20) + 9
    lengths = (5, long, 9, 9, 14)
    ids = plain_ids(model, sum(lengths) + 30)
    prompts = [ids[sum(lengths[:row]) :][:length] for row, length in enumerate(lengths)]
    responses = [ids[-6 * row - 6 :][: row + 2] for row in range(len(lengths))]
    # Many that begin alike, for the models that share.
    prompts += [[*prompts[1], *prompts[0][:row]] for row in range(4)]
    responses += responses[1:]
    scores_SR = score_responses(PolicyScorer(model), prompts, responses).log_probs
    pairs = [
        (prompt, response, scores_SR[row, : len(response)])
        for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True))
    ]
    engine = ContinuousTransformersEngine(model, None, ends=frozenset(range(0, 160, 5)), path=path)
    keys = [(7, 0, row, 0) for row in range(len(prompts))]
    for prompt, said in zip(
        prompts, engine.generate(prompts, keys, max_new_tokens=8, temperature=1.0), strict=True
    ):
        pairs.append((prompt, said.token_ids, torch.tensor(said.log_probs)))
    most = 0.0
    for prompt, response, found in pairs:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + response]), use_cache=False).logits
        every = logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
        own = every[torch.arange(len(response)), torch.tensor(response)]
        most = max(most, float((own - found).abs().max()))
    return most


def table(families: list[str]) -> str:
    """As Markdown."""
    lines = ["| Family | Scoring | Sampling | Apart (nats) | Shares | Why not quicker |"]
    lines.append("|---|---|---|---|---|---|")
    for family in families:
        print(f"{family} ...", file=sys.stderr, end=" ", flush=True)
        found = look_at(family)
        print(found, file=sys.stderr)
        apart = "" if found.apart is None else f"{found.apart:.0e}"
        shares, why = "yes" if found.shares else "no", found.why.replace("|", "/")
        cells = (family, found.scoring, found.sampling, apart, shares, why)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("families", nargs="*", help="as transformers calls them; none: all")
    parser.add_argument("--write", action="store_true", help="put the table into docs/models.md")
    options = parser.parse_args()
    logging.set_verbosity_error()
    made = table(options.families or list(FAMILIES))
    if not options.write:
        print(made)
        return
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2]
    DOCUMENT.write_text(f"{before}{START}\n{made}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
