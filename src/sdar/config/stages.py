"""What each stage's result depends on.

Snakemake, DVC, checkpoints, the warm start, evaluations, the sweep's variants and MLflow all ask
here. There are three kinds of keys (`section.Changes`). Where a change alters the *result*, it
makes another run. Where it alters only the *rounding*, what is finished stays, a run under way
continues, and `provenance.json` says what was computed with which. The rest alter *nothing*.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from sdar.config.models import ExperimentConfig
from sdar.environments.packages import skills_folder
from sdar.files.digest import parts_digest
from sdar.files.paths import model_folder
from sdar.files.remembered import content_digest

Stage = Literal[
    "tasks",
    "demonstrations",
    "warm_start",
    "train",
    "evaluate",
    "compare",
    "report",
    "compare_sweep",
]

# A section stands for all of its keys.
STAGES: dict[Stage, tuple[str, ...]] = {
    # Of real data, only the splits that are played become tasks.
    "tasks": ("environment", "evaluation.panels"),
    # Demonstrations and the warm start go by type, whatever `skills.retrieval` says.
    "demonstrations": (
        *("environment", "skills.library", "policy.tiny", "warm_start.demonstrations"),
        *("policy.model", "policy.trust_remote_code"),
        *("policy.max_prompt_tokens", "policy.max_teacher_prompt_tokens"),
    ),
    "warm_start": (
        *("environment", "skills.library", "policy", "warm_start", "training.micro_batch"),
        *("rollout.temperature", "rollout.batch", "rollout.engine", "rollout.vllm"),
        "rollout.static_decode",
        *("execution.warm_start_threads", "execution.device", "execution.threads"),
        *("execution.nodes", "execution.processes", "execution.accelerate"),
        "execution.deterministic",
    ),
    "train": (
        *("environment", "skills", "policy", "warm_start.enabled", "rollout", "training"),
        *("execution.threads", "execution.device", "execution.nodes", "execution.processes"),
        *("execution.accelerate", "execution.deterministic"),
    ),
    "evaluate": (
        *("environment", "skills", "policy", "warm_start.enabled", "evaluation"),
        *("rollout.engine", "rollout.schedule", "rollout.answer_after", "rollout.batch"),
        *("rollout.static_decode", "rollout.vllm"),
        # The gates that recorded episodes show.
        *("training.distillation.gate", "training.distillation.beta"),
        *("execution.threads", "execution.device", "execution.deterministic"),
    ),
    "compare": ("methods", "seeds", "evaluation"),
    "report": ("methods", "seeds", "evaluation", "training.distillation"),
    "compare_sweep": ("sweep", "seeds", "training.steps", "evaluation"),
}

PROMPT_LIMITS = ("policy.max_prompt_tokens", "policy.max_teacher_prompt_tokens")

DEVICE = "device used"
"""What `execution.device: auto` came to, beside the keys of `computed_with`: `cpu`, or a GPU's
name."""

Content = Mapping[str, str]
"""Digests of what a key names, to stand for the name: an edited skill counts like a changed key, a
folder that has moved does not count."""


def depends_on(
    config: ExperimentConfig, stage: Stage, content: Content | None = None
) -> dict[str, Any]:
    """The keys that decide the result of `stage`, in dotted form, with their values.

    Args:
        content: digests that take the place of the values of these keys, where the stage has them.
    """
    decisive = _keys(config, stage, "result")
    return {key: (content or {}).get(key, value) for key, value in decisive.items()}


def computed_with(config: ExperimentConfig, stage: Stage) -> dict[str, Any]:
    """The keys that decide how the sums of `stage` are rounded, with their values."""
    return _keys(config, stage, "rounding")


def fingerprint(config: ExperimentConfig, stage: Stage, content: Content | None = None) -> str:
    """`depends_on` as one comparable text."""
    return json.dumps(depends_on(config, stage, content), sort_keys=True)


def differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The keys that are not the same in both, sorted."""
    return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """The keys that differ with both values, for people: `training.steps (30, now 40)`."""
    return ", ".join(
        f"{key} ({_shown(before, key)}, now {_shown(after, key)})"
        for key in differing(before, after)
    )


def compact_keys(config: ExperimentConfig, stages: Iterable[Stage]) -> list[str]:
    """The keys that decide the results of these stages, a section's name where all of its do."""
    kinds = {key: kind for key, _, kind in config.leaves()}
    decisive = {key for stage in stages for key in depends_on(config, stage)}

    def fold(prefix: str) -> list[str]:
        names = dict.fromkeys(
            prefix + key.removeprefix(prefix).split(".")[0]
            for key in kinds
            if key.startswith(prefix)
        )
        folded = []
        for name in names:
            inside = {key for key in kinds if key == name or key.startswith(f"{name}.")}
            if inside <= decisive:
                folded.append(name)
            elif inside & decisive:
                folded += fold(f"{name}.")
        return folded

    return fold("")


def skill_library(config: ExperimentConfig) -> Path:
    """The folder of the skills: the configured one, or the one that comes with sdar."""
    if config.skills.library is not None:
        return config.skills.library
    return skills_folder(config.environment.name)


def data_paths(config: ExperimentConfig) -> dict[str, list[Path]]:
    """The files and folders that keys name and stages read, by key: the data of the environment,
    and a model in a folder. (Skills are digested by their texts.)"""
    splits = ("train", *config.evaluation.panels)
    paths = {
        f"environment.{key}": named for key, named in config.environment.data_paths(splits).items()
    }
    folder = None if config.policy.model == "tiny" else model_folder(config.policy.model)
    if folder is not None and folder.is_dir():
        # What lies deeper, such as another format of the weights, is not loaded.
        named = [path for path in sorted(folder.iterdir()) if path.is_file()]
        paths["policy.model"] = [path for path in named if not path.name.startswith(".")]
    return paths


def played_data(config: ExperimentConfig, splits: Sequence[str]) -> dict[str, str]:
    """The digest of `environment.data` as far as episodes of these splits are played from it, under
    the name `data`; empty where they are played from the tasks' folder alone."""
    environment = config.environment
    paths = environment.data_paths(splits).get("data", [])
    if not paths or environment.tasks_hold_data:
        return {}
    return {"data": content_digest(paths)[:16]}


def content_digests(config: ExperimentConfig) -> dict[str, str]:
    """What the files that a configuration names hold, for `depends_on`: the texts of the skills,
    and the content of `data_paths`. Files that have not changed since the last time are not read.
    """
    folder = skill_library(config)
    parts = (
        f"{path.relative_to(folder).as_posix()}\0".encode() + path.read_bytes() + b"\0"
        for path in sorted(folder.rglob("*.md"))
    )
    named = {key: content_digest(paths)[:16] for key, paths in data_paths(config).items()}
    return {"skills.library": parts_digest(parts)[:16], **named}


def _keys(config: ExperimentConfig, stage: Stage, kind: str) -> dict[str, Any]:
    roots = STAGES[stage]
    unread = [] if config.policy.model == "tiny" else ["policy.tiny"]
    if stage == "tasks" and config.environment.data is None:
        unread.append("evaluation.panels")
    if stage == "demonstrations" and config.policy.model == "tiny":
        unread += ["policy.trust_remote_code", *PROMPT_LIMITS]
    chosen: dict[str, Any] = {}
    if stage == "warm_start":
        unread += _unread_by_warm_start(config)
        # What null stands for, so that a key that says the same changes nothing.
        chosen = {f"warm_start.{key}": v for key, v in config.chosen_warm_start.keys().items()}
    return {
        key: chosen.get(key, value)
        for key, value, changes in config.leaves()
        if changes == kind and _below(key, roots) and not _below(key, unread)
    }


def _unread_by_warm_start(config: ExperimentConfig) -> list[str]:
    """A tiny policy's is one process on a CPU, and its prompts are never cut; a pretrained model's
    has the training's ranks, and plays only in rounds of relabelling."""
    if config.policy.model == "tiny":
        # The limits only refuse demonstrations that are too long.
        trainer = ["rollout.engine", "rollout.vllm", "rollout.static_decode"]
        ranks = [f"execution.{name}" for name in ("threads", "nodes", "processes", "accelerate")]
        return [*PROMPT_LIMITS, *trainer, "training.micro_batch", *ranks]
    plays = config.chosen_warm_start.dagger_rounds > 0
    return ["execution.warm_start_threads", *([] if plays else ["rollout", *PROMPT_LIMITS])]


def _below(key: str, roots: Iterable[str]) -> bool:
    return any(key == root or key.startswith(f"{root}.") for root in roots)


def _shown(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key]) if key in values else "not set"
