"""What a training step's passes cost, as ratios: of methods, of shared prefixes, of other trainers.

    sdar bench passes --prepared ROOT [--finished CHECKOUT] [--json FILE] [--only NAME ...]

Plays one real step of the experiment --config (default: the default experiment) by the trainer's
own `training_step`, from the weights of its warm start, and times it and its parts again and again
from these weights. A ratio is taken within one round of two pieces of work, timed one after the
other, the next round in the reverse order: other work on the machine changes seconds, and ratios
little. `ratios` of the JSON are by the wall's clock, `cpu_ratios` by the processor's; each has min,
median and max.

ROOT holds data/ and runs/ of the experiment after `snakemake --until warm_start`; without it the
bench makes them, some minutes. CHECKOUT is one where `snakemake --configfile
config/experiments/minute.yaml -- all` has run. A ratio that cannot be had is null, and `reasons`
says why.

    sdar_step_over_grpo_step             a step of SDAR over one of GRPO
    sdar_step_over_grpo_step_share_25    the same, a quarter of the turns taught
    grpo_step_over_before                a step over that of the commit --before, in a worktree
    sdar_step_over_before                the same of SDAR
    grpo_step_over_trl                   GRPO over TRL's trainer, per token (`make bench-trl`)
    rollout_over_generate                how many times as fast as transformers' `generate`: equal
                                         episodes, token for token, a barrier at every turn
    shared_over_plain_update             the update, with and without shared prefixes
    shared_over_plain_teacher            the teacher's pass likewise
    teacher_over_old_log_probs           teacher over a pass of old log-probs, prefixes shared, a
                                         skill of 4 times the student's prompt
    log_prob_peak_gib                    GiB beside weights and gradients of 8,192 tokens' log-probs
                                         over a vocabulary of 151,936
    update_share_of_matmul_peak          of the tiny shape, beside a matrix product timed in turn
    update_share_of_matmul_peak_20m      of the shape qwen3-20m
    dag_noop_seconds                     `snakemake -- all` where all is finished
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from machine import machine, recorded
from passes_arithmetic import log_prob_peak, share_of_matmul_peak
from passes_dag import noop_seconds
from passes_ratios import TOLERANCE, Measured
from passes_steps import PAIRS, measure_pair, servers
from passes_world import REPOSITORY, open_world

from sdar.policy.reproducible import make_reproducible

DEFAULT, MINUTE = (
    REPOSITORY / "config" / name for name in ("config.yaml", "experiments/minute.yaml")
)
BEFORE = "165e9f3"
HIGHER = ("rollout_over_generate", "update_share_of_matmul_peak", "update_share_of_matmul_peak_20m")
"""Ratios of which more is better; of all others, less."""
TOLERANCES = {"log_prob_peak_gib": 0.02, "dag_noop_seconds": 0.3, "grpo_step_over_trl": 0.15}
"""A change for the worse that is let pass, as a share; of all others, `TOLERANCE`."""

OTHERS: dict[str, Callable[[argparse.Namespace], Measured]] = {
    "log_prob_peak_gib": log_prob_peak,
    "update_share_of_matmul_peak": lambda options: share_of_matmul_peak("tiny", options),
    "update_share_of_matmul_peak_20m": lambda options: share_of_matmul_peak("qwen3-20m", options),
    "dag_noop_seconds": lambda options: noop_seconds(options.finished, options),
}
NAMES = (*PAIRS, *OTHERS)


def measure(options: argparse.Namespace) -> tuple[dict[str, Measured], dict[str, Any]]:
    """Each quantity that is asked for, and what the contenders' steps are."""
    measured: dict[str, Measured] = {}

    def note(name: str, value: Measured) -> None:
        measured[name] = value
        print(line(name, value), flush=True)

    wanted = [name for name in PAIRS if name in options.only]
    work: dict[str, Any] = {}
    if wanted:
        with open_world(options) as world, servers(world) as running:
            for place, name in enumerate(wanted):
                note(name, measure_pair(name, running, options.rounds))
                later = [PAIRS[after].contenders for after in wanted[place + 1 :]]
                running.close_all_but({each for pair in later for each in pair})
            work = running.work
    make_reproducible(1)
    for name, of in OTHERS.items():
        if name in options.only:
            note(name, of(options))
    return measured, work


def line(name: str, value: Measured) -> str:
    """A row of the table."""
    if value.wall is None:
        return f"{name:<36} null: {value.reason}"
    columns = [f"{value.wall[each]:>9.3f}" for each in ("min", "median", "max")]
    cpu = f"{value.cpu['median']:>9.3f}" if value.cpu else " " * 9
    return f"{name:<36}{''.join(columns)}{cpu}"


def head() -> str:
    return f"{'':<36}{'min':>9}{'median':>9}{'max':>9}{'cpu':>9}"


def record(
    measured: Mapping[str, Measured], work: Mapping[str, Any], options: argparse.Namespace
) -> dict[str, Any]:
    """What is written."""
    return {
        "bench": "passes",
        "machine": machine(),
        "command": command(options),
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
        "load_average": round(os.getloadavg()[0], 1),
        "small": options.small,
        "rounds": options.rounds,
        "work": work,
        "ratios": {name: value.wall for name, value in measured.items()},
        "cpu_ratios": {name: value.cpu for name, value in measured.items()},
        "reasons": {name: value.reason for name, value in measured.items() if value.reason},
        "details": {name: value.details for name, value in measured.items() if value.details},
        "check": {
            name: {
                "better": "higher" if name in HIGHER else "lower",
                "tolerance": TOLERANCES.get(name, TOLERANCE),
            }
            for name in measured
        },
    }


def command(options: argparse.Namespace) -> str:
    """As it was given, without this machine's folders."""
    folders = {str(options.prepared): "ROOT", str(options.finished): "CHECKOUT"}
    given = [folders.get(each, Path(each).name if "/" in each else each) for each in sys.argv[1:]]
    return " ".join(["sdar bench passes", *given])


def commit() -> str | None:
    """That of the source, with `+` where files differ from it."""
    asked = ["git", "-C", str(REPOSITORY), "describe", "--always", "--exclude=*", "--dirty=+"]
    done = subprocess.run(asked, capture_output=True, encoding="utf-8", check=False)
    return done.stdout.strip() or None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prepared", type=Path, help="a root with the warm start; else it is made")
    parser.add_argument("--finished", type=Path, help="a checkout with a finished experiment")
    parser.add_argument("--finished-config", type=Path, default=MINUTE, help="its file")
    parser.add_argument("--config", type=Path, help="default: config/config.yaml")
    parser.add_argument("--step", type=int, default=0, help="which step's tasks are played")
    parser.add_argument("--rounds", type=int, help="default: 7; with --small, 1")
    parser.add_argument("--before", default=BEFORE, help="the commit to compare with")
    parser.add_argument("--trl", type=Path, default=REPOSITORY / ".venv-trl", help="its folder")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME")
    parser.add_argument("--json", type=Path, help="default: benchmarks/results/passes-MACHINE.json")
    parser.add_argument(
        "--small",
        action="store_true",
        help="the minute experiment, for tests; no number means anything",
    )
    options = parser.parse_args()
    options.config = options.config or (MINUTE if options.small else DEFAULT)
    options.rounds = options.rounds or (1 if options.small else 7)
    options.finished_config = options.finished_config.absolute()
    options.trl = options.trl.absolute()
    if options.small and options.json is None:
        parser.error("--small needs --json FILE: its numbers are not kept among the results")
    if len(options.only) < len(NAMES) and options.json is None:
        parser.error("--only needs --json FILE: among the results are whole runs")
    print(head())
    result = record(*measure(options), options)
    path = options.json or recorded("passes")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written: {path}")


if __name__ == "__main__":
    main()
