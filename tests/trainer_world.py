"""A training run small enough for a test: random policy, scripted world. Also run as a script:

python trainer_world.py ROOT METHOD SEED [--kill-at-call N] [--values JSON]

With `--kill-at-call N` the process kills itself (SIGKILL) in the Nth call of the world's `step`.
The values are laid over the configuration.
"""

import argparse
import json
import os
import signal
from pathlib import Path
from typing import Any

import scripted
from double_precision import double_precision, in_double

from sdar.config import ExperimentConfig, Layout, parse_config
from sdar.environments.base import Task
from sdar.policy.reproducible import make_reproducible
from sdar.policy.weights import policy_digest
from sdar.training.parts import Parts, make_accelerator
from sdar.training.trainer import train_with


class Skills:
    """A skill a task type, as `SkillLibrary` gives them."""

    def for_task(self, task: Task) -> Any:
        task_type = task.task_type
        text = f"The key of {task_type} is usually in the fridge."
        return type("Skill", (), {"name": task_type, "text": text, "digest": str(len(text))})


class MortalPool(scripted.ScriptedPool):
    """Kills its process in the middle of a step."""

    def __init__(self, kill_at_call: int | None) -> None:
        super().__init__(modulus=3)
        self.left = kill_at_call
        self.calls = 0

    def step(self, actions: dict[int, str]) -> dict[int, Any]:
        self.calls += 1
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().step(actions)


def configuration(
    values: dict[str, dict[str, Any]] | None = None, **training: Any
) -> ExperimentConfig:
    """The world's, with `values` over its sections, and keys of `training`."""
    usual = {
        "steps": 5,
        "tasks_per_step": 2,
        "group_size": 3,
        "minibatch": 8,
        "micro_batch": 4,
        "learning_rate": 1e-3,
        "checkpoint_every": 2,
        "record_tokens_every": 2,
        "recorded_episodes": 2,
    }
    sections: dict[str, Any] = {
        "environment": {"max_turns": 3},
        "policy": {"max_prompt_tokens": 480, "max_response_tokens": 8},
        "tracking": {"enabled": False},
        "execution": {"device": "cpu"},
        "training": {**usual, **training},
    }
    for name, section in (values or {}).items():
        sections[name] = sections.get(name, {}) | section
    return parse_config({"experiment": "world", **sections})


def parts(kill_at_call: int | None = None, seed: int = 0) -> Parts:
    model = scripted.policy(seed=seed)
    return Parts(
        model=model,
        tokenizer=scripted.tokenizer(),
        pool=MortalPool(kill_at_call),
        tasks=scripted.tasks(5),
        skills=Skills(),
        inputs={"policy": policy_digest(model)},
    )


def run(
    root: Path,
    method: str = "sdar",
    seed: int = 0,
    kill_at_call: int | None = None,
    given: Parts | None = None,
    values: dict[str, dict[str, Any]] | None = None,
    **training: Any,
) -> Path:
    """Train in `root`; the run's folder."""
    config = configuration(values, **training)
    make_reproducible(config.execution.threads)
    layout = Layout(root, config.experiment)
    made = given or parts(kill_at_call)
    train_with(made, config, layout, method, seed, make_accelerator(config))
    return layout.run(method, seed)


def run_in_double(root: Path, method: str = "sdar", **training: Any) -> Path:
    """As `run`, in double precision, where AdamW turns no rounding into a step."""
    with double_precision():
        given = parts()
        given.model = in_double(given.model)
        return run(root, method, given=given, **training)


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("root", type=Path)
    arguments.add_argument("method")
    arguments.add_argument("seed", type=int)
    arguments.add_argument("--kill-at-call", type=int)
    arguments.add_argument("--values", type=json.loads)
    asked = arguments.parse_args()
    run(asked.root, asked.method, asked.seed, asked.kill_at_call, values=asked.values)


if __name__ == "__main__":
    main()
