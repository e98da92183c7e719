"""What the steps of passes_speed.py are made from: an experiment whose warm start is complete, the
source of an older commit, and TRL's Python."""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from proof_runs import ProofError, git, open_tree
from step_protocol import python_with

from sdar.config import ExperimentConfig, Layout, parse_config
from sdar.config.load import read_values

REPOSITORY = Path(__file__).resolve().parent.parent
SECTIONS = ("experiment", "environment", "skills", "policy", "rollout", "training", "execution")
"""What a step reads of a configuration."""
LATER = ("content",)
"""Fields of tasks that the older commit does not know."""


@dataclass
class World:
    """The experiment in a folder of our own, so that nothing is written where it was prepared."""

    values: dict[str, Any]
    step: int
    folder: Path
    older: str
    """The commit that is compared with."""
    trl_folder: Path

    @property
    def config(self) -> ExperimentConfig:
        return parse_config(self.values)

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def policy(self) -> Path:
        return Layout(self.root, self.config.experiment).warm_start / "policy"

    def trl_python(self) -> Path:
        return self.trl_folder / "bin" / "python"

    def lacks(self, *, before: bool = False, trl: bool = False) -> str | None:
        """Why steps by the older commit, or by TRL, cannot be had; None where they can."""
        if trl and not self.trl_python().is_file():
            return f"no TRL in {self.trl_folder}: `make bench-trl` installs it"
        return self._older[1] if before else None

    @property
    def source_before(self) -> Path:
        return self._older[0] / "src"

    @cached_property
    def root_before(self) -> Path:
        """The experiment as the older commit reads it."""
        root = self.folder / "root-before"
        shutil.copytree(self.root, root, symlinks=True)
        tasks = Layout(root, self.config.experiment).tasks / "tasks.jsonl"
        lines = [json.loads(line) for line in tasks.read_text(encoding="utf-8").splitlines()]
        kept = [{k: v for k, v in line.items() if k not in LATER} for line in lines]
        tasks.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        return root

    @cached_property
    def _older(self) -> tuple[Path, str | None]:
        """Its worktree, made when it is first needed, or why it cannot be."""
        try:
            return open_tree(self.folder / "worktrees", self.older).root, None
        except ProofError as error:
            return Path(), f"the commit {self.older} is not in this checkout ({error})"

    def remove_worktree(self) -> None:
        made = self.__dict__.get("_older")
        if made is not None and made[1] is None:
            git("worktree", "remove", "--force", str(made[0]))


@contextmanager
def open_world(options: argparse.Namespace) -> Iterator[World]:
    """The experiment of --config in a temporary folder: copied from --prepared, or made, which
    takes minutes. All is removed at the end."""
    values = differing(parse_config(read_values(options.config) or {}))
    with tempfile.TemporaryDirectory(prefix="sdar-bench-") as name:
        world = World(values, options.step, Path(name), options.before, options.trl)
        if options.prepared is None:
            _prepare(options.config, world.root)
        else:
            copy_experiment(options.prepared, world.root, world.config.experiment)
        try:
            yield world
        finally:
            world.remove_worktree()


def differing(config: ExperimentConfig) -> dict[str, Any]:
    """What of a configuration a step reads and differs from the defaults: an older commit does not
    know all keys, and has the same defaults for those that it knows."""
    values = config.model_dump(mode="json", exclude_defaults=True, include=set(SECTIONS))
    values.setdefault("environment", {})["name"] = config.environment.name
    return values


def copy_experiment(root: Path, to: Path, experiment: str) -> None:
    """Tasks and starting policy: what training reads."""
    here, there = Layout(root, experiment), Layout(to, experiment)
    policy = here.warm_start / "policy"
    for folder in (here.tasks, policy):
        if not folder.is_dir():
            raise SystemExit(
                f"--prepared {root}: no {folder.relative_to(root)} there; give a root in which "
                f"`snakemake --until warm_start` has run for the experiment {experiment}"
            )
    shutil.copytree(here.tasks, there.tasks)
    shutil.copytree(policy, there.warm_start / "policy")


def _prepare(config: Path, root: Path) -> None:
    root.mkdir()
    for stage in ("tasks", "demonstrations", "warm-start"):
        print(f"preparing: sdar {stage}", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "sdar.cli", stage, "--config", str(config)]
        done = subprocess.run(
            [*command, "--root", str(root)], check=False, env=python_with(None), cwd=REPOSITORY
        )
        if done.returncode:
            raise SystemExit(f"sdar {stage} failed: see above, or give --prepared ROOT")
