"""Commands for people: doctor, play, view, replay, bench, ui."""

import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sdar.cli_options import ConfigOption, RootOption, friendly, prepare
from sdar.config import Layout, load_config
from sdar.errors import SdarError


class EnvironmentName(StrEnum):
    alfworld = "alfworld"
    webshop = "webshop"
    searchqa = "searchqa"


class Benchmark(StrEnum):
    environment = "environment"
    rollout = "rollout"
    update = "update"


BENCHMARK_SCRIPTS = {
    Benchmark.environment: ["environment_speed.py"],
    Benchmark.rollout: ["rollout_speed.py"],
    Benchmark.update: ["update_speed.py"],
}


@friendly
def doctor(config: ConfigOption = Path("config/config.yaml"), root: RootOption = Path()) -> None:
    """Say what is installed, which data is found, what the machine has, and how to mend the rest.

    Writes nothing. The exit code is 1 when something that is needed is missing.

    Example: sdar doctor --config config/experiments/alfworld-qwen3-1.7b.yaml
    """
    from sdar.doctor import examine, render

    findings = examine(config, root)
    typer.echo(render(findings))
    if any(finding.level == "wrong" for finding in findings):
        raise typer.Exit(1)


@friendly
def play(config: ConfigOption = Path("config/config.yaml"), root: RootOption = Path()) -> None:
    """Play."""
    prepare(config, root)


@friendly
def view(config: ConfigOption = Path("config/config.yaml"), root: RootOption = Path()) -> None:
    """View."""
    prepare(config, root)


@friendly
def replay(
    file: Annotated[Path, typer.Argument(help="A golden file: transcripts, ranks, rewards, ...")],
    environment: Annotated[EnvironmentName, typer.Option(help="The environment to compare with.")],
    data: Annotated[Path, typer.Option(help="Folder of the environment's data.")],
) -> None:
    """Run recorded cases against the environment and show the first differences.

    Ends with "N checked, M mismatches"; the exit code is 1 when M is not 0.

    Example: sdar replay transcripts.json --environment alfworld --data ~/.cache/alfworld
    """
    from sdar.environments.replay import replay as stage

    found = stage(file, environment.value, data)
    for line in found.lines():
        typer.echo(line)
    if found.mismatches:
        raise typer.Exit(1)


@friendly
def bench(
    what: Annotated[Benchmark, typer.Argument(help="What to time.")],
    root: RootOption = Path(),
) -> None:
    """Time the environment, the rollouts or the update. Needs a checkout: it runs benchmarks/.

    Example: sdar bench environment
    """
    script = root / "benchmarks" / BENCHMARK_SCRIPTS[what][0]
    if not script.is_file():
        raise SdarError(f"{script}: no such benchmark; run from a checkout, or give --root")
    code = subprocess.run([sys.executable, str(script)], check=False).returncode
    if code:
        raise typer.Exit(code)


@friendly
def ui(
    config: ConfigOption = Path("config/config.yaml"),
    root: RootOption = Path(),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5000,
) -> None:
    """Open the MLflow pages of the experiment. Ctrl-C ends the server.

    Reads the store that `tracking.uri` names.

    Example: sdar ui --port 5001
    """
    experiment = load_config(config)
    from sdar.tracking.ui import serve_ui

    serve_ui(experiment, Layout(root, experiment.experiment), port)
