"""Commands for people: doctor, play, view, replay, bench, ui, track, and the two servers."""

import os
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sdar.cli.options import (
    CONFIG,
    ROOT,
    ConfigOption,
    RootOption,
    friendly,
    given_path,
    prepare,
)
from sdar.config import Layout, load_config
from sdar.environments.packages import NAMES
from sdar.errors import SdarError
from sdar.escaping import printable


class Colour(StrEnum):
    gap = "gap"
    gate = "gate"
    advantage = "advantage"


Benchmark = StrEnum(
    "Benchmark",
    ["environment", "rollout", "update", "webshop", "retrieval", "step", "passes", "growth"],
)


@friendly
def doctor(config: ConfigOption = CONFIG, root: RootOption = ROOT) -> None:
    """Say what is installed, which data is there, what the machine has, and how to fix the rest.

    Writes nothing. The exit code is 1 when something that is needed is missing.

    Example: sdar doctor --config config/experiments/alfworld-qwen3-1.7b.yaml
    """
    from sdar.cli.doctor import examine, render

    findings = examine(config, root)
    typer.echo(printable(render(findings)))
    if any(finding.level == "wrong" for finding in findings):
        raise typer.Exit(1)


@friendly
def play(
    task: Annotated[
        str | None, typer.Option(help="Part of a task's id, such as Tomato; else the first.")
    ] = None,
    expert: Annotated[
        bool, typer.Option("--expert", help="Watch the expert, who knows this world's habits.")
    ] = False,
    config: ConfigOption = CONFIG,
    root: RootOption = ROOT,
) -> None:
    """Play a task in the terminal, as a person or watching the expert.

    Reads data/EXPERIMENT/tasks (make them with `sdar tasks`). Ctrl-D or q ends the episode.

    Example: sdar play --task valid_seen/look_at --expert
    """
    experiment, layout = prepare(config, root)
    from sdar.cli.play import play as stage
    from sdar.environments.packages import environment_package
    from sdar.environments.tasks import read_tasks

    splits = dict.fromkeys((*experiment.evaluation.panels, "train"))
    listed = [candidate for split in splits for candidate in read_tasks(layout, split)]
    chosen = next((known for known in listed if task is None or task in known.id), None)
    if chosen is None:
        raise SdarError(f"--task {task}: no task id in {layout.tasks} has that; see tasks.jsonl")
    typer.echo(printable(chosen.id))
    package = environment_package(experiment.environment.name)
    stage(package, experiment.environment, layout.tasks, chosen, expert)


@friendly
def view(
    folder: Annotated[
        Path, typer.Argument(callback=given_path, help="A run's folder, or one file of tokens.")
    ],
    episode: Annotated[
        str | None, typer.Argument(help="A number of the list, or part of a task's id.")
    ] = None,
    colour_by: Annotated[Colour, typer.Option(help="What colours the tokens.")] = Colour.gap,
    prompts: Annotated[
        bool, typer.Option("--prompts", help="Show the student's and the teacher's prompt too.")
    ] = False,
    numbers: Annotated[
        bool, typer.Option("--numbers", help="List each token's class, gap, gate and log-probs.")
    ] = False,
    turn: Annotated[int | None, typer.Option(min=1, help="Show this turn alone.")] = None,
) -> None:
    """Show a recorded episode turn by turn; without EPISODE, list those there are.

    Reads the evaluation and the recorded training steps of a run.

    Example: sdar view runs/alfworld-tiny/sdar/seed-0 1 --turn 2 --numbers
    """
    from sdar.records.view import ColourBy
    from sdar.records.view import view as stage

    colour: ColourBy = colour_by.value

    stage(folder, episode, colour_by=colour, prompts=prompts, numbers=numbers, turn=turn)


@friendly
def replay(
    file: Annotated[
        Path,
        typer.Argument(callback=given_path, help="A golden file: transcripts, ranks, rewards, ..."),
    ],
    environment: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(NAMES),
            help="The environment to compare with; not for cases of the algorithms.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            callback=given_path, help="The environment's data; parsing and scoring need none."
        ),
    ] = None,
) -> None:
    """Run recorded cases against the environment and show the first differences.

    Ends with "N checked, M mismatches"; the exit code is 1 when M is not 0.

    Example: sdar replay transcripts.json --environment alfworld --data ~/.cache/alfworld
    """
    from sdar.cli.replay import replay as stage

    report = stage(file, environment, data)
    for line in report.lines():
        typer.echo(printable(line))
    if report.mismatches:
        raise typer.Exit(1)


@friendly
def bench(
    context: typer.Context,
    what: Annotated[Benchmark, typer.Argument(help="What to time.")],
    root: RootOption = ROOT,
) -> None:
    """Time the environment, rollouts, the update, a whole training step, its passes or retrieval.

    Runs benchmarks/ of a checkout. Further options go to it; --help after -- lists them.

    Example: sdar bench step --shape qwen2.5-0.5b
    """
    script = root / "benchmarks" / f"{what.value}_speed.py"
    if not script.is_file():
        raise SdarError(f"{script}: no such benchmark; run from a checkout, or give --root")
    lenient = {"PYTHONIOENCODING": f"{sys.stdout.encoding}:backslashreplace"}
    command = [sys.executable, str(script), *context.args]
    done = subprocess.run(command, check=False, env=os.environ | lenient)
    if done.returncode:
        raise typer.Exit(done.returncode)


@friendly
def ui(
    config: ConfigOption = CONFIG,
    root: RootOption = ROOT,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5000,
) -> None:
    """Open the MLflow pages of the experiment. Ctrl-C ends the server.

    Reads the store that `tracking.uri` names.

    Example: sdar ui --port 5001
    """
    experiment = load_config(config)
    from sdar.tracking.ui import serve_ui

    code = serve_ui(experiment, Layout(root, experiment.experiment), port)
    if code:
        raise typer.Exit(code)


@friendly
def track(
    folder: Annotated[
        Path,
        typer.Argument(
            callback=given_path,
            help="A run's folder, or that of an experiment's runs or results.",
        ),
    ],
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            callback=given_path,
            help="Send it to this configuration's store instead.",
        ),
    ] = None,
) -> None:
    """Bring MLflow up to date with recorded runs: after it was down, deleted, or not installed.

    Reads the records in the folder and below it. What MLflow has already is not sent again. With
    a password in `tracking.uri`, give --config, or the URI in MLFLOW_TRACKING_URI.

    Example: sdar track runs/alfworld-tiny
    """
    experiment = None if config is None else load_config(config)
    from sdar.tracking.track import track as stage

    stage(folder, experiment, typer.echo)


@friendly
def serve_retriever(
    passages: Annotated[
        Path | None,
        typer.Option(
            callback=given_path, help="JSON lines of id and contents; else the configuration's."
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    host: Annotated[str, typer.Option(help="0.0.0.0 also answers other machines.")] = "127.0.0.1",
    index: Annotated[
        Path | None,
        typer.Option(
            callback=given_path, help="Folder for the index; else below the user's cache."
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", callback=given_path, help="A Search-QA experiment."),
    ] = None,
    root: RootOption = ROOT,
) -> None:
    """Answer searches over HTTP as Search-R1's servers do, so that many workers share one index.

    Serves --passages with BM25, or with --config that experiment's passages and retriever (after
    `sdar tasks`). POST /retrieve, GET /health. Workers use it with environment.retriever.kind http
    and urls [http://HOST:PORT]. Ctrl-C ends it.

    Example: sdar serve-retriever --passages passages.jsonl --port 8000
    """
    from sdar.cli.serve_retriever import serve_retriever as stage

    stage(passages, config, root, index, host, port, typer.echo)


@friendly
def serve_policy(
    context: typer.Context,
    config: ConfigOption,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    host: Annotated[str, typer.Option(help="0.0.0.0 also answers other machines.")] = "127.0.0.1",
    root: RootOption = ROOT,
) -> None:
    """Serve an experiment's policy with vLLM, for rollout.vllm.servers. Ctrl-C ends it.

    Starts with the policy that training starts from; a trainer sends its own before each rollout.
    Further options go to `vllm serve`. Needs vLLM (docs/vllm.md). Whoever reaches the port can
    change the policy: keep it inside your cluster.

    Example: sdar serve-policy -c experiment.yaml --host 0.0.0.0 --tensor-parallel-size 2
    """
    from sdar.rollout.engines.vllm.serve import serve_policy as stage

    experiment = load_config(config)
    stage(experiment, Layout(root, experiment.experiment), host, port, context.args)
