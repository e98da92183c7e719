"""Sections of the acceptance run that are whole runs of the command line: resume, learn."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from acceptance_agree import target
from acceptance_record import Record

from sdar.config import Layout, load_config
from sdar.evaluation.summary import flat_metrics
from sdar.files.digest import file_digest

REPOSITORY = Path(__file__).resolve().parent.parent
EXPERIMENTS = REPOSITORY / "config" / "experiments"
POLL = 0.05


def sdar(*arguments: str, root: Path, config: Path) -> subprocess.Popen[bytes]:
    """A command of sdar, started."""
    return subprocess.Popen(
        [sys.executable, "-m", "sdar.cli", *arguments, "--config", config, "--root", root]
    )


def must(*arguments: str, root: Path, config: Path) -> float:
    """Run a command of sdar to its end; seconds. Raises `RuntimeError` where it fails."""
    start = time.monotonic()
    code = sdar(*arguments, root=root, config=config).wait()
    if code:
        raise RuntimeError(f"sdar {' '.join(arguments)}: exit code {code}")
    return round(time.monotonic() - start, 1)


def write_config(path: Path, base: str, **sections: Any) -> Path:
    """A configuration that lays `sections` over an experiment of the repository."""
    always = {"execution": {"device": target()}, "tracking": {"enabled": False}}
    for name, values in always.items():
        sections[name] = sections.get(name, {}) | values
    values = {"base": str(EXPERIMENTS / f"{base}.yaml"), **sections}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def resume(record: Record, options: Any) -> None:
    """A run that is killed and started again is the run that was not; so is a second one."""
    steps = 3 if options.small else 6
    training = {"steps": steps, "checkpoint_every": 1, "record_tokens_every": steps}
    config = write_config(options.out / "resume.yaml", "minute-searchqa", training=training)
    layout = Layout(options.out / "unkilled", load_config(config).experiment)
    for command in ("tasks", "demonstrations", "warm-start"):
        must(command, root=layout.root, config=config)
    roots = [layout.root, options.out / "again", options.out / "killed"]
    for root in roots[1:]:
        shutil.copytree(layout.root, root)
    train = ("train", "--method", "sdar", "--seed", "0")
    for root in roots[:2]:
        record.note(f"{root.name}/seconds", must(*train, root=root, config=config))
    run = Layout(roots[2], layout.experiment).run("sdar", 0)
    killed = kill_after(sdar(*train, root=roots[2], config=config), run / "metrics.jsonl", 1)
    record.check("killed after a step", killed, killed, "True")
    must(*train, root=roots[2], config=config)
    digests = [digests_of(Layout(root, layout.experiment).run("sdar", 0)) for root in roots]
    for name in digests[0]:
        record.equal(f"{name}, run twice", digests[1][name], digests[0][name])
        record.equal(f"{name}, killed and resumed", digests[2][name], digests[0][name])


def kill_after(process: subprocess.Popen[bytes], metrics: Path, lines: int) -> bool:
    """Kill the process when the file has so many lines; False where it ended before."""
    while process.poll() is None:
        if metrics.is_file() and metrics.read_bytes().count(b"\n") >= lines:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        time.sleep(POLL)
    return False


def digests_of(run: Path) -> dict[str, str]:
    names = ("metrics.jsonl", "policy/model.safetensors")
    return {name: file_digest(run / name)[:16] for name in names}


def learn(record: Record, options: Any) -> None:
    """A pretrained model on Search-QA: warm start, GRPO, SDAR, and what each of them gave."""
    config = learning_config(options)
    root = options.out / "learn"
    experiment = load_config(config)
    layout = Layout(root, experiment.experiment)
    commands: list[tuple[str, ...]] = [("warm-start",)]
    if options.data is None:
        commands = [("tasks",), ("demonstrations",), *commands]
    else:
        shutil.copytree(options.data, root / "data")
    commands += [("evaluate", "--method", name) for name in ("warm_start", "skill_prompt")]
    for method in experiment.methods:
        commands.append(("train", "--method", method, "--seed", "0"))
        commands.append(("evaluate", "--method", method, "--seed", "0"))
    for command in commands:
        name = "-".join(word.lstrip("-") for word in command if word not in ("--method", "--seed"))
        record.note(f"{name}/seconds", must(*command, root=root, config=config))
        if command[0] == "evaluate":
            note_evaluation(record, layout.run(command[2], 0))
        if command[0] == "train":
            note_training(record, layout.run(command[2], 0))


def learning_config(options: Any) -> Path:
    """Search-QA with SmolLM2; small, with the tiny policy of the minute experiment."""
    path = options.out / "learn.yaml"
    if options.model is None:
        return write_config(path, "minute-searchqa", methods=["grpo", "sdar"])
    training = {"steps": options.steps, "checkpoint_every": options.steps}
    sections: dict[str, Any] = {"training": training, "seeds": [0]}
    sections["policy"] = {"model": str(options.model.resolve())}
    if target() == "cuda":
        sections["policy"]["dtype"] = "bfloat16"
        # Two cores take few tasks a step and few samples at once, a GPU more.
        sections["warm_start"] = {"micro_batch": 16, "checkpoint_every": 250}
        training |= {"tasks_per_step": 8, "micro_batch": 32}
    return write_config(path, "searchqa-smollm2", **sections)


def note_evaluation(record: Record, run: Path) -> None:
    summary = json.loads((run / "evaluation" / "summary.json").read_text(encoding="utf-8"))
    for name, value in flat_metrics(summary).items():
        if name.endswith(("/success", "/invalid_share", "/response_tokens", "/turns")):
            record.note(f"{run.parent.name}/{name}", value)


def note_training(record: Record, run: Path) -> None:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    metrics = [json.loads(line) for line in lines]
    for key in ("train/success", "train/invalid_share", "gap/mean", "gate/mean"):
        values = [step[key] for step in metrics if key in step]
        if values:
            record.note(f"{run.parent.name}/{key}, first and last", [values[0], values[-1]])
    timings = (run / "timings.jsonl").read_text(encoding="utf-8").splitlines()
    seconds = sorted(json.loads(line)["total_s"] for line in timings)
    record.note(f"{run.parent.name}/step seconds, median", seconds[len(seconds) // 2])
