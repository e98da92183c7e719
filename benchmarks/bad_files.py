"""Every stage against damaged files: what fails says so in one sentence, what passes is right.

    python benchmarks/bad_files.py [--config FILE] [--folder DIR] [--stage NAME ...] [--part 2/5]

Runs a minute-sized experiment once, whole. Then, for every stage, every file that lies there and
every damage (missing, empty, a folder in its place, junk, cut in half, ...): a fresh copy, the
damage, the stage again. Right is either

- exit code 2 and one line below 1 kB on stderr that names the file or its folder, or
- exit code 0 and the same results as without the damage: the file is not read, or made again.

Anything else is a fault: a traceback, another code, a hang, a result that differs in silence. A
file that a stage does as well without, and with junk in its place, is not read: no other damage is
tried. Prints each fault and a table, writes JSON with --json; exit code 1 where there is a fault.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from proof_comparison import NO_FUNCTION_OF_THE_RUN, compare_trees

from sdar.progress import Progress

REPOSITORY = Path(__file__).parents[1]
STAGES = {
    "tasks": ["tasks"],
    "demonstrations": ["demonstrations"],
    "warm-start": ["warm-start"],
    "train": ["train", "--method", "sdar"],
    "evaluate-start": ["evaluate", "--method", "warm_start"],
    "evaluate-skill": ["evaluate", "--method", "skill_prompt"],
    "evaluate": ["evaluate", "--method", "sdar"],
    "compare": ["compare"],
    "report": ["report"],
}
"""In the order of the pipeline, with their arguments."""
OWN = {
    "tasks": "data/{experiment}/tasks/",
    "demonstrations": "data/{experiment}/demonstrations/",
    "warm-start": "runs/{experiment}/warm_start/",
    "train": "runs/{experiment}/sdar/",
    "evaluate-start": "runs/{experiment}/warm_start/seed-0/evaluation/",
    "evaluate-skill": "runs/{experiment}/skill_prompt/seed-0/evaluation/",
    "evaluate": "runs/{experiment}/sdar/seed-0/evaluation/",
    "compare": "results/{experiment}/",
    "report": "results/{experiment}/answers",
}
"""What a stage writes: a damaged file there is sound again where the stage ends with 0."""
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["sdar.cli.app", "sdar.evaluation.evaluate", "sdar.report.results", "sdar.training.trainer",
     "sdar.training.warm_start"]
)  # fmt: skip
DRAWN = (".html", ".svg", ".png")
"""Files that nothing reads."""
PATIENCE = 120
"""Seconds that a case may take."""
TRACEBACK = "Traceback (most recent call last)"


def _junk(path: Path) -> bytes:
    return random.Random(path.name).randbytes(512)


def _bent(path: Path) -> bytes:
    """With one byte in the middle turned."""
    data = bytearray(path.read_bytes())
    if data:
        data[len(data) // 2] ^= 0x55
    return bytes(data)


def _renamed(path: Path) -> bytes:
    """A sound table, or JSON, of another shape."""
    if path.suffix == ".parquet":
        import io

        import polars as pl

        buffer = io.BytesIO()
        pl.DataFrame({"other": [1, 2]}).write_parquet(buffer)
        return buffer.getvalue()
    return b'{"other": 1}\n'


CONTENTS: dict[str, Callable[[Path], bytes]] = {
    "empty": lambda path: b"",
    "junk": _junk,
    "half": lambda path: path.read_bytes()[: path.stat().st_size // 2],
    "one byte": _bent,
    "other keys": _renamed,
    "a list": lambda path: b"[]\n",
    "null": lambda path: b"null\n",
    "no UTF-8": lambda path: b"\xff\xfe" + path.read_bytes(),
}
DAMAGES = ("missing", "junk", "folder", *(how for how in CONTENTS if how != "junk"))
PROBES = DAMAGES[:2]
"""Where neither is noticed, the file is not read."""


def damage(path: Path, how: str) -> None:
    if how in CONTENTS:
        path.write_bytes(CONTENTS[how](path))
        return
    path.unlink()
    if how == "folder":
        path.mkdir()


@dataclass(frozen=True)
class Case:
    stage: str
    file: str
    damage: str


@dataclass(frozen=True)
class Outcome:
    case: Case
    verdict: str
    """`refused` and `unharmed` are right; the others are faults."""
    said: str
    seconds: float

    @property
    def fault(self) -> bool:
        return self.verdict not in ("refused", "unharmed")


def experiment_file(shipped: Path, folder: Path) -> Path:
    """The shipped experiment with one method and no tracking: what is tried is the files."""
    values = yaml.safe_load(shipped.read_text(encoding="utf-8"))
    values |= {"methods": ["sdar"], "tracking": {"enabled": False}}
    values.pop("sweep", None)
    file = folder / "experiment.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return file


def run_stage(stage: str, config: Path, root: Path) -> tuple[int | None, str]:
    """Exit code (None: it ran into the time limit) and what it said on stderr."""
    said = root / "stderr.txt"
    arguments = ["sdar", *STAGES[stage], "--config", str(config), "--root", str(root)]
    child = FORKS.Process(target=_become, args=(arguments, said))
    child.start()
    child.join(PATIENCE)
    code = child.exitcode
    if code is None and child.pid is not None:
        os.killpg(child.pid, signal.SIGKILL)
    return code, said.read_text(encoding="utf-8", errors="replace")


def _become(arguments: list[str], said: Path) -> None:
    """In a process of its own: run the command, and end as it does."""
    os.setpgid(0, 0)
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.argv = arguments
    from sdar.cli import main

    main()


def judge(case: Case, root: Path, whole: Path, experiment: str, code: int | None, said: str) -> str:
    """The verdict on an ended case."""
    if code is None:
        return "hangs"
    if TRACEBACK in said or code not in (0, 2):
        return f"exit code {code}, a traceback" if TRACEBACK in said else f"exit code {code}"
    if code == 2:
        last = [line for line in said.splitlines() if line.startswith("sdar")]
        if len(last) != 1 or len(last[0]) >= 1000:
            return "not one sentence"
        names = (case.file, *map(str, Path(case.file).parents[:-1]), Path(case.file).name)
        return "refused" if any(name in last[0] for name in names) else "names no file"
    folders = {stage: folder.format(experiment=experiment) for stage, folder in OWN.items()}
    owners = [stage for stage, folder in folders.items() if case.file.startswith(folder)]
    own = case.stage == max(owners, key=lambda stage: len(folders[stage]), default=None)
    # An older checkpoint is read only where the newest is damaged.
    if not own or "/checkpoints/" in case.file:
        _remove(root / case.file)
        shutil.copyfile(whole / case.file, root / case.file)
    try:
        for compared in compare_trees(whole, root, experiment, NO_FUNCTION_OF_THE_RUN):
            if compared.verdict not in ("equal", "declared"):
                return f"{compared.path} differs in silence"
    except Exception as error:
        return f"left damaged in silence ({type(error).__name__})"
    return "unharmed"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def try_case(case: Case, config: Path, whole: Path, folder: Path, experiment: str) -> Outcome:
    root = folder / "case"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(whole, root)
    damage(root / case.file, case.damage)
    began = time.monotonic()
    code, said = run_stage(case.stage, config, root)
    verdict = judge(case, root, whole, experiment, code, said)
    lines = [line for line in said.splitlines() if line.strip()]
    return Outcome(case, verdict, lines[-1][:300] if lines else "", time.monotonic() - began)


def could_read(stage: str, file: str) -> bool:
    """Whether the file is there when the stage first runs, or is its own."""
    place = list(STAGES).index(stage)
    first = {"data": "tasks", "runs": "warm-start", "results": "compare"}[file.split("/")[0]]
    return place >= list(STAGES).index(first)


def outcomes_of(stage: str, file: str, attempt: Callable[[Case], Outcome]) -> Iterator[Outcome]:
    """Of the damages to one file, those that can tell something."""
    noticed = False
    for how in DAMAGES:
        if how not in PROBES and not noticed:
            return
        outcome = attempt(Case(stage, file, how))
        noticed |= outcome.verdict != "unharmed"
        yield outcome


def build(config: Path, whole: Path) -> None:
    """Every stage once; what is there is kept."""
    done = whole / "results"
    if done.is_dir():
        return
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir(parents=True)
    for stage in STAGES:
        code, said = run_stage(stage, config, whole)
        if code:
            raise SystemExit(f"{stage} ended with {code}:\n{said}")
    (whole / "stderr.txt").unlink(missing_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shipped = REPOSITORY / "config/experiments/minute-searchqa.yaml"
    parser.add_argument("--config", type=Path, default=shipped, help="an experiment file")
    parser.add_argument("--folder", type=Path, help="keeps the experiment (default: a new folder)")
    parser.add_argument("--stage", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--file", default="", help="only files with this in their path")
    parser.add_argument("--part", default="1/1", help="every nth file: 2/5 is the second fifth")
    parser.add_argument("--json", type=Path, help="write all outcomes to this file")
    chosen = parser.parse_args()
    folder = chosen.folder or Path(tempfile.mkdtemp(prefix="bad-files-"))
    folder.mkdir(parents=True, exist_ok=True)
    config = experiment_file(chosen.config, folder)
    experiment = yaml.safe_load(config.read_text(encoding="utf-8"))["experiment"]
    whole = folder / "whole"
    build(config, whole)

    part, of = map(int, chosen.part.split("/"))
    paths = [
        path.relative_to(whole).as_posix()
        for path in sorted(whole.rglob("*"))
        if path.is_file() and path.suffix not in DRAWN and chosen.file in path.as_posix()
    ]
    every = [(s, path) for s in chosen.stage for path in paths if could_read(s, path)]

    def attempt(case: Case) -> Outcome:
        return try_case(case, config, whole, folder, experiment)

    outcomes = []
    for stage, file in Progress(every[part - 1 :: of], unit="file"):
        for outcome in outcomes_of(stage, file, attempt):
            outcomes.append(outcome)
            if outcome.fault:
                print(f"{stage}: {file}: {outcome.case.damage}: {outcome.verdict}: {outcome.said}")
                sys.stdout.flush()
    _table(outcomes)
    if chosen.json:
        chosen.json.write_text(
            json.dumps([asdict(one) for one in outcomes], indent=1), encoding="utf-8"
        )
    return int(any(outcome.fault for outcome in outcomes))


def _table(outcomes: Sequence[Outcome]) -> None:
    counts = Counter((one.case.stage, "fault" if one.fault else one.verdict) for one in outcomes)
    print(f"{'stage':16}{'refused':>9}{'unharmed':>10}{'fault':>7}")
    for stage in STAGES:
        row: list[Any] = [counts[stage, kind] for kind in ("refused", "unharmed", "fault")]
        if any(row):
            print(f"{stage:16}{row[0]:>9}{row[1]:>10}{row[2]:>7}")


if __name__ == "__main__":
    sys.exit(main())
