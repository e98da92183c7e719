"""The cases on which two devices are compared, and one side of the comparison.

    python acceptance_world.py --device cpu --out FOLDER [--name NAME] [--static]

A side plays and trains every case once on its device and writes FOLDER/NAME.pt. With --static it
decodes in fixed shapes, as CUDA does, without in shapes that follow the responses. The side that is
there first also writes the episodes it played; the other one trains on these, so that both update
from the same tokens. Weights are random, a function of the case alone, made on the CPU.

Shape suffixes: S samples (turns), R response tokens.
"""

import argparse
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from step_world import Skills, World, lengths, make_tokenizer, tasks
from transformers import AutoConfig, AutoModelForCausalLM

from sdar.clock import PhaseClock
from sdar.config import ExperimentConfig, parse_config
from sdar.policy.log_probs import PolicyScorer
from sdar.policy.paths import set_fp32_head
from sdar.policy.probe import find_scoring_path
from sdar.policy.reproducible import make_reproducible
from sdar.rollout.settings import longest_sequence
from sdar.training.learner import Learner
from sdar.training.parts import Parts, make_accelerator, trained_method
from sdar.training.trainer import training_step

EPISODES = "episodes.pt"
CONTEXT = 1 << 13
QWEN3 = {
    "model_type": "qwen3",
    "vocab_size": 768,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "tie_word_embeddings": True,
}
# Deep enough that the last layer is not shortened; with biases, and six queries to a key.
QWEN2 = {
    "model_type": "qwen2",
    "vocab_size": 768,
    "hidden_size": 192,
    "intermediate_size": 384,
    "num_hidden_layers": 10,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}
LORA = {"rank": 8, "alpha": 16}


@dataclass(frozen=True)
class Case:
    """One policy, one method, and what differs from the usual training."""

    name: str
    shape: dict[str, Any]
    method: str
    training: dict[str, Any] = field(default_factory=dict)
    rollout: dict[str, Any] = field(default_factory=dict)
    policy: dict[str, Any] = field(default_factory=dict)


CASES = (
    Case("grpo", QWEN3, "grpo"),
    Case("sdar", QWEN2, "sdar"),
    Case("whole-distribution", QWEN3, "reverse_kl_full"),
    Case("recomputation", QWEN2, "sdar", {"activation_checkpointing": True}),
    Case("adapters", QWEN2, "sdar", {"lora": LORA}),
    Case("reference-on-host", QWEN3, "sdar", {"reference": "host"}),
    Case("continuous", QWEN2, "grpo", rollout={"schedule": "continuous"}),
)


def configuration(
    case: Case, device: str, prompt: int, taught: int, static: bool | None
) -> ExperimentConfig:
    """The case's training on a device: one step, one minibatch."""
    training = {
        "steps": 2,
        "tasks_per_step": 2,
        "group_size": 4,
        "minibatch": 64,
        "micro_batch": 4,
        "learning_rate": 1e-3,
        "warmup_ratio": 0.0,
    }
    return parse_config(
        {
            "experiment": "acceptance",
            "environment": {"max_turns": 2, "history": 0, "success_reward": 10.0},
            "policy": {
                "context": CONTEXT,
                "max_prompt_tokens": prompt,
                "max_teacher_prompt_tokens": taught,
                "max_response_tokens": 16,
                **case.policy,
            },
            "rollout": {"batch": 8, "static_decode": static, **case.rollout},
            "training": training | case.training,
            "execution": {"device": device},
            "tracking": {"enabled": False},
        }
    )


def random_model(shape: dict[str, Any], seed: int = 0) -> Any:
    """A model with random weights in float32 on the CPU, a function of shape and seed. They are
    larger than usual, so that its distributions are not all alike."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**shape, max_position_embeddings=CONTEXT),
        dtype=torch.float32,
        attn_implementation="sdpa",
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.mul_(3.0)
    return model.eval()


def open_case(
    case: Case,
    device: str,
    model: Any = None,
    tokenizer: Any = None,
    static: bool | None = None,
) -> Learner:
    """A learner of the case on a device. `model` and `tokenizer`: others than random ones;
    `static`: `rollout.static_decode`."""
    tokenizer = make_tokenizer(case.shape["vocab_size"]) if tokenizer is None else tokenizer
    seen, told = lengths(tokenizer, 200, 60)
    config = configuration(case, device, 300, 420, static)
    make_reproducible(1 if device == "cpu" else 8)
    accelerator = make_accelerator(config)
    if model is None:
        model = random_model(case.shape)
    model = model.to(accelerator.device)
    set_fp32_head(model, config.policy.fp32_head)
    find_scoring_path(model, PolicyScorer, longest_sequence(config))
    parts = Parts(model, tokenizer, World(2, seen), tasks(8), Skills(told), {})
    learner = Learner.prepare(parts, config, trained_method(case.method), 0, accelerator)
    # Random weights hardly ever end a response: let one token in eight do it.
    learner.engine.ends = frozenset(range(0, len(tokenizer), 8))
    return learner


def play_and_train(
    case: Case, device: str, episodes: Any = None, static: bool | None = None
) -> dict[str, Any]:
    """What one side computes of a case; `episodes` to train on, None: those it plays."""
    learner = open_case(case, device, static=static)
    before = weights(learner.parts.model)
    played = learner.rollout(0, PhaseClock())
    prompts = [turn.prompt.token_ids for episode in played for turn in episode.turns]
    greedy = learner.engine.generate(
        prompts,
        [(0, 0, slot, 0) for slot in range(len(prompts))],
        max_new_tokens=16,
        temperature=0.0,
    )
    learned_from = played if episodes is None else episodes
    learner.rollout = lambda *_: learned_from  # type: ignore[method-assign]
    done = training_step(learner, 0)
    learner.close()
    return {
        "path": getattr(learner.engine, "path", ""),
        "episodes": played,
        "tokens": [turn.response_ids for episode in played for turn in episode.turns],
        "engine": [turn.log_probs for episode in played for turn in episode.turns],
        "greedy": [generation.token_ids for generation in greedy],
        "old": done.old_SR,
        "student": done.student_SR,
        "teacher": done.teacher_SR,
        "reference": done.reference_SR,
        "metrics": {k: v for k, v in done.metrics.items() if isinstance(v, float)},
        "before": before,
        "after": weights(learner.parts.model),
    }


def weights(model: Any) -> torch.Tensor:
    """All trained values in one vector, on the CPU."""
    trained = [p.detach().float().cpu().flatten() for p in model.parameters() if p.requires_grad]
    return torch.cat(trained).clone()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", required=True, choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", help="of the file; default: the device")
    parser.add_argument("--static", action="store_true", help="decode in fixed shapes")
    parser.add_argument("--only", nargs="+", help="cases by name")
    options = parser.parse_args()
    shared = options.out / EPISODES
    episodes = torch.load(shared, weights_only=False) if shared.is_file() else {}
    results, failed = {}, []
    for case in CASES:
        if options.only and case.name not in options.only:
            continue
        try:
            results[case.name] = play_and_train(
                case, options.device, episodes.get(case.name), options.static
            )
        except Exception:  # the others are compared all the same
            failed.append(case.name)
            traceback.print_exc()
        print(f"{options.device}: {case.name}", flush=True)
    if not shared.is_file():
        torch.save({name: result["episodes"] for name, result in results.items()}, shared)
    torch.save(results, options.out / f"{options.name or options.device}.pt")
    if failed:
        sys.exit(f"{options.device}: failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
