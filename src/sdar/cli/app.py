"""The `sdar` command: one subcommand per stage, in pipeline order, then those for people.

Nothing is computed here. Each command reads the configuration, checks what it names, and hands
over to the stage, which is imported only then: `sdar --help` loads no torch.
"""

import atexit
import os
from typing import Annotated

import typer

from sdar.cli.config import config_app
from sdar.cli.options import (
    CONFIG,
    ROOT,
    ConfigOption,
    MethodOption,
    RootOption,
    SeedOption,
    VariantOption,
    friendly,
    prepare,
    prepare_run,
)
from sdar.cli.people import (
    bench,
    doctor,
    play,
    replay,
    serve_policy,
    serve_retriever,
    track,
    ui,
    view,
)
from sdar.cli.streams import flush_streams, prepare_streams
from sdar.cli.sweep import sweep_app
from sdar.cli.workflow import workflow_app
from sdar.interruption import INTERRUPTED_CODE

app = typer.Typer(
    name="sdar",
    help=(
        "Self-distilled agentic reinforcement learning (SDAR), from tasks to report.\n\n"
        "The first seven commands are the stages, in the order in which data flows: each reads "
        "files, writes files, and can be run by hand. Snakemake runs them all:\n\n"
        "snakemake --profile profiles/local all\n\n"
        "The others are for people. Begin with `sdar doctor`."
    ),
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command()
@friendly
def tasks(config: ConfigOption = CONFIG, root: RootOption = ROOT) -> None:
    """(1) Make the tasks: generate them and prove that they can be solved, or index real data.

    Reads the configuration's `environment`. Writes data/EXPERIMENT/tasks: tasks.jsonl, one line
    per task, and what the environment plays them from.

    Example: sdar tasks --config config/experiments/minute.yaml
    """
    experiment, layout = prepare(config, root)
    from sdar.environments.packages import environment_package
    from sdar.environments.tasks import make_tasks
    from sdar.tracking.stage import recorded_stage

    environment = experiment.environment
    world = environment_package(environment.name).world_file
    made = tuple(layout.tasks / name for name in ("tasks.md", world) if name is not None)
    with recorded_stage(experiment, layout, "tasks", made):
        make_tasks(environment, experiment.evaluation.panels, layout)


@app.command()
@friendly
def demonstrations(config: ConfigOption = CONFIG, root: RootOption = ROOT) -> None:
    """(2) Make the expert's episodes that the policy learns from.

    Reads `warm_start.demonstrations`: the episodes are set in worlds other than the experiment's.
    With real data (environment.data) the expert plays the training tasks that `sdar tasks` has
    listed, and no panel's; those that it does not solve are left out, and the log says how many.
    Writes data/EXPERIMENT/demonstrations: demonstrations.parquet and, for the tiny policy, the
    tokenizer trained on it. Prompts beyond a pretrained model's limits are cut as in rollouts.

    Example: sdar demonstrations
    """
    experiment, layout = prepare(config, root)
    from sdar.tracking.stage import recorded_stage
    from sdar.training.demonstrations import make_demonstrations

    with recorded_stage(experiment, layout, "demonstrations", ()):
        make_demonstrations(experiment, layout)


@app.command(name="warm-start")
@friendly
def warm_start(config: ConfigOption = CONFIG, root: RootOption = ROOT) -> None:
    """(3) Fine-tune the policy on demonstrations, then on its own relabelled episodes.

    What is tuned is `policy.model`: the tiny policy, made here with random weights, or any model
    in Hugging Face format, all of it or with LoRA adapters. Resumes from the newest checkpoint.

    Reads data/EXPERIMENT/demonstrations and `warm_start`. Writes
    runs/EXPERIMENT/warm_start/policy, the model that every method starts from.

    Example: sdar warm-start
    """
    experiment, layout = prepare(config, root)
    from sdar.training.warm_start import warm_start as stage

    stage(experiment, layout)


@app.command()
@friendly
def train(
    method: MethodOption = None,
    seed: SeedOption = 0,
    variant: VariantOption = None,
    config: ConfigOption = CONFIG,
    root: RootOption = ROOT,
) -> None:
    """(4) Train with reinforcement learning. Resumes from the newest complete checkpoint.

    Reads the tasks and the warm start. Writes runs/EXPERIMENT/METHOD/seed-N: metrics.jsonl (one
    object per step), timings.jsonl, episodes.parquet, tokens/, checkpoints/ and, last, policy/.

    With --variant, one run of the sweep, in runs/EXPERIMENT/sweep/VARIANT/seed-N.

    Example: sdar train --method sdar --seed 0
    """
    experiment, layout, name = prepare_run(config, root, method, variant, training=True)
    from sdar.training.trainer import train as stage

    stage(experiment, layout, name, seed)


@app.command()
@friendly
def evaluate(
    method: MethodOption = None,
    seed: SeedOption = 0,
    variant: VariantOption = None,
    config: ConfigOption = CONFIG,
    root: RootOption = ROOT,
) -> None:
    """(5) Play every task of each panel exactly once per sampling seed.

    METHOD may also be `warm_start` (the policy before training) or `skill_prompt` (the same with
    the skill in its prompt). Reads the tasks and runs/EXPERIMENT/METHOD/seed-N/policy. Writes
    runs/EXPERIMENT/METHOD/seed-N/evaluation. With --variant, one run of the sweep.

    Example: sdar evaluate --method sdar --seed 0
    """
    experiment, layout, name = prepare_run(config, root, method, variant)
    from sdar.evaluation.evaluate import evaluate as stage

    stage(experiment, layout, name, seed)


@app.command()
@friendly
def compare(config: ConfigOption = CONFIG, root: RootOption = ROOT) -> None:
    """(6) Compare the methods: success with intervals, paired differences, by task type.

    Reads every evaluation of the experiment and the runs' metrics. Writes results/EXPERIMENT:
    comparison.json, comparison.md, episodes.parquet.

    Example: sdar compare
    """
    experiment, layout = prepare(config, root, files=False)
    from sdar.report.results import compare as stage
    from sdar.tracking.stage import recorded_stage

    made = (layout.results / "comparison.md", layout.results / "comparison.json")
    with recorded_stage(experiment, layout, "compare", made):
        stage(experiment, layout)


@app.command()
@friendly
def report(config: ConfigOption = CONFIG, root: RootOption = ROOT) -> None:
    """(7) Draw the figures and write the pages: answers, tables, sample episodes.

    Reads results/EXPERIMENT and the runs' records. Writes figures/ (SVG, PNG), answers.html (where
    the gate puts its mass, whether the gap shrinks, whether the teacher is right, what it cost) and
    episodes.html, every recorded token with its numbers. All in one file:
    snakemake --profile profiles/local --report results/EXPERIMENT/report.html

    Example: sdar report
    """
    experiment, layout = prepare(config, root, files=False)
    from sdar.report.results import make_report
    from sdar.tracking.stage import recorded_stage

    pages = ("figures", "comparison.html", "answers.html", "answers.json", "episodes.html")
    made = tuple(layout.results / name for name in pages)
    with recorded_stage(experiment, layout, "report", made):
        make_report(experiment, layout)


for command in (doctor, play, view, replay):
    app.command()(command)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(bench)
app.command()(ui)
app.command()(track)
app.command(name="serve-retriever")(serve_retriever)
app.command(
    name="serve-policy", context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)(serve_policy)
app.add_typer(config_app, name="config")
app.add_typer(sweep_app, name="sweep")
app.add_typer(workflow_app, name="workflow")


def _version(value: bool) -> None:
    if value:
        from sdar import __version__

        typer.echo(f"sdar {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the console script."""
    prepare_streams()
    # Read when torch is loaded, by it and by every process of this one: a thread that waits for
    # another sleeps. Where other work has the cores, spinning takes them from what is waited for.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Registered before anything else is imported, so it is the last to run.
    last_words = _LastWords()
    atexit.register(last_words.leave)
    try:
        app()
    except SystemExit as end:
        last_words.code = end.code if end.code == INTERRUPTED_CODE else None
        raise
    finally:
        flush_streams()


class _LastWords:
    """Leaves with the code that the command chose, whatever Python remembers of Ctrl-C.

    A KeyboardInterrupt that passes through an `exec` of a string (dataclasses use it, so imports
    are full of them) marks the process as interrupted for good: `python -m` then ends by killing
    itself with SIGINT instead of returning an exit code, even if the interrupt was handled.
    """

    code: int | None = None

    def leave(self) -> None:
        if self.code is not None:
            flush_streams()
            os._exit(self.code)
