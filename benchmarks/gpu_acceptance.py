"""Does sdar work on this GPU? One script, in sections, for the first half hour on a machine.

    python benchmarks/gpu_acceptance.py [SECTION ...] --out FOLDER [--budget SECONDS] [--model M]

    probe      the machine; how each kind of model is scored and sampled on it
    agree      float32: the GPU's tokens, log-probs and updates are the CPU's
    reference  a pretrained model says what it said elsewhere (--model, --reference)
    bf16       how far bfloat16 is from float32 and from itself; the first ratio is 1
    resume     killed and resumed, and run twice: the same bytes
    speed      seconds of a step, share of peak, memory against the estimate, what the teacher costs
    profile    launches, host reads, and the kernels that take the time
    learn      SmolLM2 on Search-QA: warm start, GRPO, SDAR, evaluated

Sections run one after the other in processes of their own, each with its time limit and all within
--budget; what is found is in FOLDER/acceptance.jsonl at once, and in FOLDER/acceptance.json at the
end. Where `agree` fails, nothing after it is run. Without a GPU the sections compare the CPU with
itself: --small rehearses all of them in a few minutes.

Needs torch, transformers, accelerate and the few packages of sdar's core; `make gpu-bundle` gathers
what else a machine without a network must be given. Exit code: the number of sections that failed.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent
OURS = [str(HERE), str(HERE.parent / "src")]
sys.path[:0] = OURS

from acceptance_record import FILE, Finding, read_findings, shown  # noqa: E402

LIMITS = {
    "probe": 120,
    "agree": 180,
    "reference": 90,
    "bf16": 90,
    "resume": 200,
    "speed": 420,
    "profile": 60,
    "learn": 600,
}
"""Seconds that each section may take, in the order in which they run."""
NEEDED = "agree"
"""Where this fails, numbers of later sections would mean nothing."""
LEAST = 20
"""Seconds that must be left for a section to begin."""


def run_section(name: str, options: argparse.Namespace) -> None:
    """In a process of its own: everything the section finds goes to the folder."""
    import acceptance_agree
    import acceptance_runs
    import acceptance_speed
    from acceptance_record import Record

    sections = {
        "probe": acceptance_agree.probe,
        "agree": acceptance_agree.agree,
        "reference": acceptance_agree.reference,
        "bf16": acceptance_agree.bf16,
        "resume": acceptance_runs.resume,
        "learn": acceptance_runs.learn,
        "speed": acceptance_speed.speed,
        "profile": acceptance_speed.profile,
    }
    record = Record(options.out, name)
    try:
        sections[name](record, options)
    except Exception:
        record.note("raised", traceback.format_exc())
        raise


def section_command(name: str) -> list[str]:
    """This script, for one section alone."""
    return [sys.executable, __file__, *sys.argv[1:], "--section", name]


def with_ours() -> dict[str, str]:
    """The environment, in which Python finds sdar without its being installed."""
    paths = [*OURS, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def run_all(
    options: argparse.Namespace, command: Callable[[str], list[str]] = section_command
) -> dict[str, str]:
    """Each section's outcome: passed, failed, cut off, or not run."""
    began = time.monotonic()
    outcomes = dict.fromkeys(options.sections, "not run")
    for name in options.sections:
        left = options.budget - (time.monotonic() - began)
        if left < LEAST:
            break
        print(f"\n== {name} ({left:.0f} s left)", flush=True)
        # A session of its own: what it started ends with it.
        process = subprocess.Popen(command(name), start_new_session=True, env=with_ours())
        try:
            code = process.wait(timeout=min(LIMITS[name] * options.patience, left))
            outcomes[name] = "passed" if code == 0 else f"failed: exit code {code}"
        except subprocess.TimeoutExpired:
            outcomes[name] = "cut off"
        finally:
            end_group(process)
        findings = [f for f in read_findings(options.out) if f.section == name]
        if any(finding.passed is False for finding in findings):
            outcomes[name] = "failed"
        write_summary(options.out, outcomes)
        if name == NEEDED and outcomes[name] != "passed":
            break
    return outcomes


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a section and everything it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def write_summary(folder: Path, outcomes: dict[str, str]) -> None:
    """All of it as one object."""
    machine = {"host": platform.machine(), "python": platform.python_version(), "gpus": gpus()}
    findings = [vars(finding) for finding in read_findings(folder)]
    summary = {"machine": machine, "sections": outcomes, "findings": findings}
    path = folder / "acceptance.json"
    path.with_suffix(".new").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".new").replace(path)


def gpus() -> list[str]:
    """Names and drivers of the GPUs, as their own program says; none where it is not there."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.splitlines()


def table(findings: list[Finding], outcomes: dict[str, str]) -> str:
    """The checks that failed, and each section's outcome with its numbers of checks and notes."""
    lines = [f"{'section':10}{'outcome':28}{'checks':>8}{'failed':>8}{'notes':>8}"]
    for name, outcome in outcomes.items():
        mine = [finding for finding in findings if finding.section == name]
        checks = [finding.passed for finding in mine if finding.passed is not None]
        counts = (len(checks), checks.count(False), len(mine) - len(checks))
        lines.append(f"{name:10}{outcome:28}" + "".join(f"{count:8}" for count in counts))
    for finding in findings:
        if finding.passed is False:
            what = f"{finding.section}: {finding.name}: {shown(finding.value)}"
            lines.append(f"FAILED {what}, wanted {finding.limit}")
    return "\n".join(lines)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("sections", nargs="*", metavar="SECTION", help=f"default: {' '.join(LIMITS)}")
    add("--out", type=Path, required=True, help="the folder for what is found")
    add("--budget", type=float, default=1500, help="seconds for all (default: %(default)s)")
    add("--patience", type=float, default=1.0, help="factor on the sections' own limits")
    add("--model", type=Path, help="a Hugging Face folder, for bf16 and learn (make smollm2)")
    add("--reference", type=Path, help="what the model said elsewhere (acceptance_reference.py)")
    add("--data", type=Path, help="the folder data/ with Search-QA made elsewhere, for learn")
    add("--steps", type=int, default=20, help="of reinforcement learning, in learn")
    add("--small", action="store_true", help="all sections, as small as they can be: for a CPU")
    add("--section", help=argparse.SUPPRESS)
    return parser


def main() -> None:
    parser = make_parser()
    options = parser.parse_args()
    unknown = [name for name in options.sections if name not in LIMITS]
    if unknown:
        parser.error(f"no section {unknown[0]}: give some of {' '.join(LIMITS)}")
    if options.model is not None and not (options.model / "config.json").is_file():
        parser.error(f"--model {options.model}: no Hugging Face folder there (config.json)")
    if options.reference is not None and not options.reference.is_file():
        parser.error(f"--reference {options.reference}: no such file (acceptance_reference.py)")
    if options.data is not None and not list(options.data.glob("*/tasks")):
        parser.error(f"--data {options.data}: no folder with EXPERIMENT/tasks (make gpu-bundle)")
    options.sections = options.sections or list(LIMITS)
    options.out = options.out.resolve()
    if options.section:
        run_section(options.section, options)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    if (options.out / FILE).exists():
        parser.error(f"{options.out} has the results of an earlier run: give another --out")
    # What ends this from outside ends the section that is running, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    outcomes = run_all(options)
    print("\n" + table(read_findings(options.out), outcomes))
    print(f"all of it: {options.out / 'acceptance.json'}")
    sys.exit(sum(outcome != "passed" for outcome in outcomes.values()))


if __name__ == "__main__":
    main()
