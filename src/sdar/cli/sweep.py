"""`sdar sweep`: list, compare."""

import typer

from sdar.cli.options import CONFIG, ROOT, ConfigOption, RootOption, friendly, prepare

sweep_app = typer.Typer(
    help="The ablation over gate, beta, lambda, skill retrieval and share of turns taught.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@sweep_app.command(name="list")
@friendly
def list_variants(config: ConfigOption = CONFIG, root: RootOption = ROOT) -> None:
    """Show the variants of the configuration's `sweep`, and what it will cost, before it starts.

    The time is an estimate from this experiment's runs so far under ROOT. Writes nothing. To start:
    snakemake --profile profiles/local --configfile CONFIG -- sweep

    Example: sdar sweep list --config config/experiments/sweep.yaml
    """
    experiment, layout = prepare(config, root, files=False)
    from sdar.report.sweep.plan import plan_text

    typer.echo(plan_text(experiment, layout))


@sweep_app.command()
@friendly
def compare(config: ConfigOption = CONFIG, root: RootOption = ROOT) -> None:
    """Compare every variant with the baseline: table, heat map, and success against the teacher's
    tokens.

    Reads the evaluations in runs/EXPERIMENT/sweep. Writes results/EXPERIMENT/sweep: sweep.json,
    sweep.md, and heatmap and teacher_tokens as svg and png.

    Example: sdar sweep compare --config config/experiments/sweep.yaml
    """
    experiment, layout = prepare(config, root, files=False)
    from sdar.report.sweep.compare import compare_sweep

    compare_sweep(experiment, layout)
