"""Experiments at a commit: a worktree of its own, and Snakemake in it (proof_of_value.py).

A worktree `FOLDER/1a2b3c4` has beside it its log, the seconds of each experiment that is complete,
its own program `sdar` and a configuration that names it.
"""

import fcntl
import json
import os
import shlex
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
DEFAULT = "default"
"""The name of config/config.yaml; others are names in config/experiments."""


class ProofError(Exception):
    """A commit that is not there, or whose run failed."""


@dataclass(frozen=True)
class Tree:
    """The worktree of a commit, with its results."""

    root: Path
    commit: str

    def beside(self, ending: str) -> Path:
        return self.root.with_name(self.root.name + ending)

    def seconds(self) -> dict[str, float]:
        """Of each experiment that is complete."""
        path = self.beside(".json")
        return dict(json.loads(path.read_text("utf-8"))["seconds"]) if path.is_file() else {}


def config_file(name: str) -> Path:
    """An experiment's configuration under the root of a worktree."""
    return Path("config", "config.yaml" if name == DEFAULT else f"experiments/{name}.yaml")


def experiment_of(tree: Path, name: str) -> str:
    """The experiment's own name, which its folders have."""
    values = yaml.safe_load((tree / config_file(name)).read_text(encoding="utf-8"))
    return str(values["experiment"])


def git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(REPOSITORY), *arguments],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode:
        raise ProofError(f"git {shlex.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def open_tree(folder: Path, revision: str, ending: str = "") -> Tree:
    """The commit's worktree under `folder`, made where there is none. Raises ProofError for an
    unknown commit, or a worktree whose source is no longer the commit's."""
    commit = git("rev-parse", "--verify", f"{revision}^{{commit}}")
    tree = Tree(folder / (commit[:7] + ending), commit)
    if not tree.root.exists():
        folder.mkdir(parents=True, exist_ok=True)
        git("worktree", "prune")
        git("worktree", "add", "--quiet", "--detach", str(tree.root), commit)
    inside = ("-C", str(tree.root))
    changed = git(*inside, "status", "--porcelain", "--untracked-files=no")
    if changed or git(*inside, "rev-parse", "HEAD") != commit:
        raise ProofError(
            f"{tree.root} is not commit {commit[:7]} as it was made; remove it with "
            f"`git worktree remove --force {tree.root}` and {tree.root}.json, then run this again"
        )
    return tree


def own_program(tree: Tree) -> Path:
    """A folder with the worktree's own `sdar`: the installed one starts the function that the
    installed commit names."""
    with (tree.root / "pyproject.toml").open("rb") as file:
        module, function = tomllib.load(file)["project"]["scripts"]["sdar"].split(":")
    folder = tree.beside(".bin")
    folder.mkdir(exist_ok=True)
    program = folder / "sdar"
    # Processes that it spawns import it again, and must not start it.
    program.write_text(
        f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\n"
        f'if __name__ == "__main__":\n    sys.exit({function}())\n',
        encoding="utf-8",
    )
    program.chmod(0o755)
    return folder


def command(tree: Tree, name: str, cores: str) -> list[str]:
    """Snakemake on one experiment. What finds `sdar` is configuration, on which no result depends;
    locks are ours (`locked`), so that a kill leaves none."""
    override = tree.beside(".yaml")
    path = f'export PATH={shlex.quote(str(own_program(tree)))}:"$PATH"'
    override.write_text(yaml.safe_dump({"cluster": {"environment": path}}), encoding="utf-8")
    snakemake = [sys.executable, "-m", "snakemake", "--profile", "profiles/local", "--nolock"]
    return [
        *snakemake,
        *("--cores", cores, "--configfile", str(config_file(name)), str(override)),
        *("--", "all"),
    ]


def complete(tree: Tree, names: Sequence[str], cores: str) -> None:
    """Run what is not complete yet. Raises ProofError for an experiment that fails."""
    with locked(tree) as lock:
        for name in names:
            seconds = tree.seconds()
            if name in seconds:
                say(f"{tree.root.name}: {name} is complete ({seconds[name]:.0f} s)")
                continue
            start = time.monotonic()
            run_experiment(tree, name, cores, lock)
            seconds[name] = round(time.monotonic() - start, 1)
            text = json.dumps({"commit": tree.commit, "seconds": seconds}, indent=2) + "\n"
            temporary = tree.beside(".json.new")
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(tree.beside(".json"))


def run_experiment(tree: Tree, name: str, cores: str, lock: int) -> None:
    """Snakemake in the worktree, with its source, does what is missing.

    It holds the lock too, for it goes on when this process alone is killed.
    """
    log = tree.beside(".log")
    environment = os.environ | {
        "PYTHONPATH": str(tree.root / "src"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        # A thread that waits sleeps: on a busy machine the warm start's two are eight times faster.
        "OMP_WAIT_POLICY": "passive",
    }
    say(f"{tree.root.name}: {name} runs (log: {log})")
    with log.open("a", encoding="utf-8") as file:
        arguments = command(tree, name, cores)
        print(f"== {shlex.join(arguments)}", file=file, flush=True)
        process = subprocess.Popen(
            arguments,
            cwd=tree.root,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            pass_fds=[lock],
        )
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.wait()  # Snakemake was interrupted with us, and lets its jobs save and end
            raise
    if code:
        raise ProofError(
            f"{tree.root.name}: {name} ended with exit code {code}; {log} says why. When that is "
            "corrected, the same command goes on from there"
        )


@contextmanager
def locked(tree: Tree) -> Iterator[int]:
    """One user at a time in a worktree: a descriptor, locked until all who have it end."""
    with tree.beside(".lock").open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{tree.root.name}: another process works there; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
