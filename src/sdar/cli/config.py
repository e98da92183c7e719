"""`sdar config`: show, schema, dvc, check, write."""

from pathlib import Path
from typing import Annotated

import typer

from sdar.cli.options import CONFIG, ROOT, ConfigOption, friendly, given_path, prepare
from sdar.config import load_config
from sdar.config.dvc import check_dvc_yaml, dvc_yaml
from sdar.config.generate import generated_files, schema_json, shown_yaml, write_if_changed

config_app = typer.Typer(
    help="Show, check or regenerate the configuration.", no_args_is_help=True, rich_markup_mode=None
)


@config_app.command()
@friendly
def show(config: ConfigOption = CONFIG) -> None:
    """Print the whole configuration a file leads to: its values over the defaults, as YAML.

    Keys that may be changed at any time, also in the middle of a run, are marked: "changes only
    the rounding", or "changes no result".

    Example: sdar config show --config config/experiments/minute.yaml
    """
    typer.echo(shown_yaml(load_config(config)), nl=False)


@config_app.command()
@friendly
def schema() -> None:
    """Print the JSON schema of a configuration file, for editors.

    Example: sdar config schema > schema.json
    """
    typer.echo(schema_json(), nl=False)


@config_app.command()
@friendly
def dvc(
    config: ConfigOption = CONFIG,
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether dvc.yaml is that of the file.")
    ] = False,
) -> None:
    """Print the stages of DVC for the configuration in config/config.yaml.

    Needed where name, methods, seeds or environment are not the default's: dvc.yaml spells them
    out. Each of its stages begins with the check.

    Example: sdar config dvc > dvc.yaml
    """
    experiment = load_config(config)
    if check:
        check_dvc_yaml(Path("dvc.yaml"), experiment)
    else:
        typer.echo(dvc_yaml(experiment), nl=False)


@config_app.command()
@friendly
def check(config: ConfigOption = CONFIG) -> None:
    """Check keys, types, combinations and the files that are named. Writes nothing.

    Example: sdar config check --config config/experiments/alfworld-qwen3-1.7b.yaml
    """
    experiment, _ = prepare(config, ROOT)
    typer.echo(
        f"{config}: good. Experiment {experiment.experiment}: "
        f"methods {', '.join(experiment.methods)}; seeds {', '.join(map(str, experiment.seeds))}"
    )


@config_app.command()
@friendly
def write(
    repository: Annotated[
        Path, typer.Option(callback=given_path, help="The checkout to write into.")
    ] = Path(),
) -> None:
    """Regenerate config/config.yaml, config/schema.json and dvc.yaml from the models.

    Run it after every change of src/sdar/config/models.py.
    """
    for path, text in generated_files(repository).items():
        typer.echo(f"{'written' if write_if_changed(path, text) else 'unchanged'}  {path}")
