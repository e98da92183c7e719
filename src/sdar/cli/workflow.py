"""`sdar workflow`: unlock, pull, accept. What `make` does around Snakemake and DVC."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from sdar.cli.options import CONFIG, friendly
from sdar.config import load_config
from sdar.config.dvc import check_dvc_yaml, dvc_stages, outputs, rules_and_targets
from sdar.errors import SdarError
from sdar.files.snakemake_lock import check_stale, is_locked

workflow_app = typer.Typer(
    help="Around Snakemake and DVC, in the project's folder.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
SNAKEMAKE = ("snakemake", "--profile", "profiles/local")
Status = Mapping[str, Sequence[Any]]
"""DVC's: stage -> what has changed, `changed deps`, `changed outs`, `changed command`."""


@workflow_app.command()
@friendly
def unlock() -> None:
    """Remove the lock that a killed Snakemake left here, if nothing works in this folder any more.

    Without a lock it does nothing. `make demo` and `make repro` begin with it.

    Example: sdar workflow unlock
    """
    if is_locked(Path()):
        check_stale(Path())
        run([*SNAKEMAKE, "--unlock"])
        typer.echo("The lock of a Snakemake that was killed is removed.")


@workflow_app.command()
@friendly
def pull() -> None:
    """Fetch from DVC's remote what belongs to the settings as they are now, and tell Snakemake.

    Results of other settings (keys, skills or data have changed since they were made) are not
    fetched: they are to be computed. `make pull` does this.

    Example: sdar workflow pull
    """
    stages = own_stages()
    before = status(stages)
    changed = {name for name in stages if is_of_other_settings(before.get(name, ()))}
    outdated = with_followers(stages, changed)
    wanted = [name for name in stages if name not in outdated]
    if wanted:
        run(["dvc", "pull", *wanted])
    for name in changed:
        forget(stages[name], before.get(name, ()))
    tell_snakemake(stages, said=True)


@workflow_app.command()
@friendly
def accept(
    stages: Annotated[
        list[str] | None, typer.Argument(help="Stages of dvc.yaml; none: all of them.")
    ] = None,
) -> None:
    """Tell Snakemake which results are current by DVC's account, such as those that `dvc repro`
    brought back from its cache. The last stage of `dvc repro` begins with it.

    Example: sdar workflow accept
    """
    own = own_stages()
    tell_snakemake({name: own[name] for name in own if name in (stages or own)}, said=False)


def own_stages() -> dict[str, Any]:
    """The stages of the configuration. Raises `SdarError` where dvc.yaml has others."""
    config = load_config(CONFIG)
    check_dvc_yaml(Path("dvc.yaml"), config)
    return dvc_stages(config)


def tell_snakemake(stages: Mapping[str, Any], *, said: bool) -> None:
    """Have Snakemake take as current what DVC says is, and nothing else."""
    after = status(stages)
    current = [name for name in stages if name not in after]
    words = [rules_and_targets(stages[name]) for name in current]
    if words:
        rules = [rule for names, _ in words for rule in names]
        targets = [target for _, named in words for target in named]
        allowed = ["--allowed-rules", *rules, "--", *targets]
        run([*SNAKEMAKE, "--quiet", "all", "--touch", "--forceall", *allowed])
    if said:
        left = [name for name in stages if name in after]
        typer.echo(f"current: {', '.join(current) or 'nothing'}")
        typer.echo(f"to be computed: {', '.join(left) or 'nothing'}")


def status(stages: Iterable[str]) -> Status:
    """DVC's account of what has changed; stages that are current are not in it."""
    done = run(["dvc", "status", "--json", *stages], quiet=True)
    try:
        found: Status = json.JSONDecoder().raw_decode(done, done.index("{"))[0]
    except ValueError:
        raise SdarError(f"dvc status: {' '.join(done.split())[:300]}; correct it") from None
    return found


def is_of_other_settings(changes: Sequence[Any]) -> bool:
    """What a stage reads is not what it was; what is merely not here does not count."""
    for change in changes:
        if change == "changed command":
            return True
        if isinstance(change, Mapping) and _kinds(change.get("changed deps", {})) - {"deleted"}:
            return True
    return False


def _kinds(of: Any) -> set[str]:
    if isinstance(of, Mapping):
        return {kind for value in of.values() for kind in _kinds(value)}
    return {str(of)}


def with_followers(stages: Mapping[str, Any], changed: set[str]) -> set[str]:
    """These stages and all that read what they make. Stages stand in the order of data."""
    reached, made = set(changed), {out for name in changed for out in outputs(stages[name])}
    for name, stage in stages.items():
        if made & set(stage.get("deps", ())):
            reached.add(name)
            made |= set(outputs(stage))
    return reached


def forget(stage: Mapping[str, Any], changes: Sequence[Any]) -> None:
    """Remove results of other settings that Snakemake would take for current, because it has never
    seen how they were made. DVC has them."""
    if any(isinstance(change, Mapping) and "changed outs" in change for change in changes):
        return  # not here, or nobody's but this folder's
    rules, targets = rules_and_targets(stage)
    plan = run([*SNAKEMAKE, "--dry-run", "--allowed-rules", *rules, "--", *targets], quiet=True)
    if "Nothing to be done" not in plan:
        return
    absent = run(["dvc", "data", "status", "--json"], quiet=True)
    for out in map(Path, outputs(stage)):
        if f'"{out}' in absent.partition('"not_in_cache"')[2].partition("]")[0]:
            continue
        typer.echo(f"removed {out}, of other settings (`dvc checkout` brings it back)")
        shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)


def run(words: Sequence[str], *, quiet: bool = False) -> str:
    """Run a program of this environment; what it said, where it is quiet. Raises `SdarError`."""
    program = shutil.which(words[0]) or str(Path(sys.executable).parent / words[0])
    try:
        done = subprocess.run(
            [program, *words[1:]],
            check=False,
            encoding="utf-8",
            errors="replace",
            capture_output=quiet,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise SdarError(
            f"{words[0]} is not installed: pip install 'sdar[pipeline]' brings it"
        ) from None
    if done.returncode:
        reason = " ".join((done.stderr or "").split())[-300:]
        raise SdarError(
            f"`{' '.join(words)[:200]}` ended with {done.returncode} ({reason or 'see above'}); "
            "correct that, then run the same command again"
        )
    return (done.stdout or "") + (done.stderr or "")
