"""What the commands share: options, loading with checks, and how a command ends.

Exit codes: 0 done, 2 a problem the user can fix, 75 told to stop and saved: run it again (SIGUSR1,
or SIGTERM in a SLURM job), 130 Ctrl-C, 143 SIGTERM.
"""

import errno
import functools
import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from sdar import interruption
from sdar.config import ExperimentConfig, Layout, load_config
from sdar.config.checks import check_files
from sdar.config.variants import find_variant, variant_config
from sdar.environments.packages import all_extras
from sdar.errors import SdarError
from sdar.escaping import printable
from sdar.extras import missing_extra
from sdar.files.paths import expand_path
from sdar.methods.roles import TRAINED, UNTRAINED
from sdar.ranks.rendezvous import rank
from sdar.redaction import redact


def given_path(value: Path | None) -> Path | None:
    """Callback of every path on the command line: `~` and variables that the shell left."""
    try:
        return None if value is None else expand_path(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


ConfigOption = Annotated[
    Path,
    typer.Option(
        "--config",
        "-c",
        callback=given_path,
        help="YAML file with what differs from the defaults.",
    ),
]
RootOption = Annotated[
    Path,
    typer.Option(
        "--root",
        callback=given_path,
        help="Folder under which data/, runs/ and results/ lie.",
    ),
]
MethodOption = Annotated[
    str | None, typer.Option("--method", "-m", help="A method, such as grpo or sdar.")
]
VariantOption = Annotated[
    str | None,
    typer.Option("--variant", help="A variant of the sweep instead of a method: sdar sweep list."),
]
SeedOption = Annotated[int, typer.Option("--seed", "-s", min=0, help="Seed of the run.")]

LONGEST = 900
"""Characters of a sentence. What a library says of junk may quote all of it."""
CONFIG, ROOT = Path("config/config.yaml"), Path()
"""Defaults of the two."""

Command = TypeVar("Command", bound=Callable[..., Any])


class Terminated(BaseException):
    """SIGTERM or SIGUSR1 came outside a loop that saves: unwind as for Ctrl-C, so that files are
    closed and workers ended."""


def prepare(config: Path, root: Path, files: bool = True) -> tuple[ExperimentConfig, Layout]:
    """Load the configuration, check the files it names, and lay out the paths.

    `files` is false for stages that read results alone: they run where data and model are not.
    """
    experiment = load_config(config)
    if files:
        check_files(experiment)
    return experiment, Layout(root, experiment.experiment)


def prepare_run(
    config: Path, root: Path, method: str | None, variant: str | None, training: bool = False
) -> tuple[ExperimentConfig, Layout, str]:
    """`prepare` for one run: of a method, or of a variant of the sweep, which names its method."""
    if variant is None:
        if method is None:
            raise SdarError(
                "--method: missing; give a method such as grpo, or --variant and a variant of the "
                "sweep (`sdar sweep list` shows them)"
            )
        experiment, layout = prepare(config, root)
        _check_method(method, training)
        return experiment, layout, method
    experiment, layout = prepare(config, root)
    named = find_variant(experiment, variant)
    if method not in (None, named.method):
        raise SdarError(
            f"--method {method}: variant {variant} is of {named.method}; leave --method out"
        )
    return variant_config(experiment, named), layout.of_variant(named.name), named.method


def _check_method(method: str, training: bool) -> None:
    if training and method in UNTRAINED:
        raise SdarError(
            f"--method {method}: nothing to train; evaluate it with `sdar evaluate --method "
            f"{method}`"
        )
    known = TRAINED if training else (*UNTRAINED, *TRAINED)
    if method not in known:
        raise SdarError(f"--method {method}: no such method; give one of {', '.join(known)}")


def friendly(command: Command) -> Command:
    """End as people and schedulers expect: no traceback for what the user can fix or stopped."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        stop = _Stop()
        try:
            try:
                result = command(*args, **kwargs)
            finally:
                stop.armed = False
        except SdarError as error:
            _end(2, f"{_who()}: {_short(printable(redact(str(error))))}")
        except interruption.Stopped:
            if rank():
                # The first rank, which may still be writing, says it for all: a failure here would
                # end it (srun --kill-on-bad-exit).
                _end(0, f"{_who()} has stopped.")
            _end(interruption.STOPPED_CODE, _stopped(interruption.STOPPED_CODE))
        except BaseException as error:
            # Compiled libraries notice an interrupt themselves, before Python's handler runs, or
            # wrap it in exceptions of their own: the exception and the signal count alike.
            interrupted = isinstance(error, KeyboardInterrupt)
            code = stop.code or (interruption.INTERRUPTED_CODE if interrupted else 0)
            if code:
                _end(code, _stopped(code))
            said = missing_extra(error, all_extras()) or _of_files(error)
            if said is None:
                raise
            _end(2, f"{_who()}: {said}")
        _ignore_signals()  # all is written: nothing is left to stop
        return result

    return wrapped  # type: ignore[return-value]


def _short(message: str) -> str:
    """Each line within `LONGEST`, cut in its middle: file and remedy stand at its ends."""
    return "\n".join(
        line if len(line) <= LONGEST else f"{line[: LONGEST - 300]} [...] {line[-250:]}"
        for line in message.split("\n")
    )


def _of_files(error: BaseException) -> str | None:
    """What to say of an error of the file system, if it is one: which file, and what to do."""
    if not isinstance(error, OSError):
        return None
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" for {error.filename}" if error.filename else ""
        return (
            f"no space left on the disk{where}; what was complete is unharmed. Free some, then go "
            f"on: {_again()}"
        )
    if error.filename is None or isinstance(error.filename, int):
        return None
    reason = " ".join((error.strerror or str(error)).split())[:200]
    return (
        f"{os.fsdecode(error.filename)}: {reason}; what was complete is unharmed. Correct the path "
        f"or its permissions, then go on: {_again()}"
    )


class _Stop:
    """Ctrl-C, SIGTERM and SIGUSR1 while a command runs: raised where it is, and remembered. In a
    loop that saves between its steps, what a scheduler sends waits for the step's end."""

    def __init__(self) -> None:
        self.code = 0
        self.armed = True
        self._owner = os.getpid()
        for number in interruption.SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: Any) -> None:
        if os.getpid() != self._owner:  # a forked worker that its parent ends: no unwinding there
            os._exit(128 + number)
        if interruption.take(number):
            return
        code = interruption.STOPPED_CODE if number == signal.SIGUSR1 else 128 + number
        self.code = self.code or code
        if not self.armed:
            return  # the command is over, and its last message is being printed
        if number != signal.SIGINT:
            for stopping in (signal.SIGTERM, signal.SIGUSR1):
                signal.signal(stopping, signal.SIG_IGN)
            raise Terminated
        raise KeyboardInterrupt


def _stopped(code: int) -> str:
    said = {interruption.INTERRUPTED_CODE: "interrupted", interruption.STOPPED_CODE: "told to stop"}
    what = said.get(code, "terminated")
    return f"sdar: {what}; what is complete is kept. To go on: {_again()}"


def _who() -> str:
    return f"sdar: rank {rank()}" if rank() else "sdar"


def _ignore_signals() -> None:
    for number in interruption.SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _end(code: int, message: str) -> NoReturn:
    _ignore_signals()  # impatience must not break the last words
    sys.stdout.flush()
    print(message, file=sys.stderr, flush=True)
    raise typer.Exit(code) from None


def _again() -> str:
    return redact(shlex.join(["sdar", *sys.argv[1:]]))
