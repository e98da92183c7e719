"""An episode in the terminal, turn by turn, its tokens coloured by gap or gate."""

from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sdar.errors import SdarError
from sdar.report import colours
from sdar.report.episodes import TokenEpisode, TokenTurn, read_tokens

ColourBy = Literal["gap", "gate"]


def view(
    folder: Path,
    episode: str | None = None,
    *,
    colour_by: ColourBy = "gap",
    prompts: bool = False,
    console: Console | None = None,
) -> None:
    """Print a recorded episode of a run; without `episode`, the list of those there are.

    `folder` is a run's folder (its evaluation and recorded training steps), or one token file.
    `episode` is a number of the list or a part of a task's id. `prompts` shows both prompts of
    each turn. Raises SdarError when nothing is recorded or the episode is not found.
    """
    console = console or Console()
    recorded = _read(folder)
    if episode is None:
        _list(recorded, console)
        return
    chosen = _choose(recorded, episode, folder)
    outcome = Text("solved", "green") if chosen.success else Text("failed", "red")
    console.print(Text.assemble((chosen.task_id, "bold"), "  ", outcome))
    about = f"{chosen.source}, {chosen.panel}, {chosen.task_type}  "
    console.print(Text.assemble(about, _legend(colour_by)))
    for number, turn in enumerate(chosen.turns, start=1):
        _print_turn(number, turn, colour_by, prompts, console)


def _read(folder: Path) -> list[TokenEpisode]:
    if folder.is_file():
        return read_tokens(folder, source=folder.name, stage="evaluation")
    found: list[TokenEpisode] = []
    for path in (folder / "evaluation" / "tokens.parquet", folder / "tokens.parquet"):
        if path.is_file():
            found += read_tokens(path, source="evaluation", stage="evaluation")
    for path in sorted((folder / "tokens").glob("step-*.parquet")):
        step = int(path.stem.removeprefix("step-"))
        found += read_tokens(path, source="training", stage="training", step=step)
    if not found:
        raise SdarError(
            f"{folder}: no recorded episodes; give a run's folder, such as "
            "runs/EXPERIMENT/sdar/seed-0, after it is trained or evaluated"
        )
    return found


def _choose(recorded: list[TokenEpisode], wanted: str, folder: Path) -> TokenEpisode:
    if wanted.isdecimal():
        if 1 <= int(wanted) <= len(recorded):
            return recorded[int(wanted) - 1]
        raise SdarError(f"episode {wanted}: {folder} holds {len(recorded)}, numbered from 1")
    found = [item for item in recorded if wanted in item.task_id]
    if not found:
        raise SdarError(
            f"episode {wanted!r}: no recorded task of {folder} has that in its id; "
            "`sdar view RUN` lists them"
        )
    return found[0]


def _list(recorded: list[TokenEpisode], console: Console) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("", "task", "played in", "outcome", "turns"):
        table.add_column(column, justify="right" if column in ("", "turns") else "left")
    for number, item in enumerate(recorded, start=1):
        outcome = Text("solved", "green") if item.success else Text("failed", "red")
        table.add_row(str(number), item.task_id, item.panel, outcome, str(len(item.turns)))
    console.print(table)


def _print_turn(
    number: int, turn: TokenTurn, colour_by: ColourBy, prompts: bool, console: Console
) -> None:
    console.print()
    note = "" if turn.valid and turn.admissible else "  (not offered)"
    note = note if turn.valid else "  (invalid response)"
    console.print(Text.assemble((f"Turn {number}", "bold"), (note, "red")))
    if turn.observation:
        console.print(Text.assemble(("sees    ", "dim"), turn.observation))
    if prompts:
        console.print(Text.assemble(("student ", "dim"), turn.student_prompt))
        console.print(Text.assemble(("teacher ", "dim"), turn.teacher_prompt))
    line = Text("says    ", "dim")
    for text, values in zip(turn.tokens, turn.values, strict=True):
        line.append(text, _style(values, colour_by))
    console.print(line)
    console.print(Text.assemble(("does    ", "dim"), turn.action or "(nothing)"))
    if turn.result:
        console.print(Text.assemble(("result  ", "dim"), turn.result))


def _style(values: tuple[float | None, ...], colour_by: ColourBy) -> str:
    gap, gate = values[0], values[1]
    if colour_by == "gap" and gap is not None:
        return f"not dim #000000 on {colours.as_hex(colours.of_gap(gap))}"
    if colour_by == "gate" and gate is not None:
        return f"not dim #000000 on {colours.as_hex(colours.of_gate(gate))}"
    return "not dim"


def _legend(colour_by: ColourBy) -> Text:
    low, high = ("gap < 0", "gap > 0") if colour_by == "gap" else ("gate < .5", "gate > .5")
    return Text.assemble(
        (f" {low} ", f"#000000 on {colours.as_hex(colours.ORANGE)}"),
        (f" {high} ", f"#000000 on {colours.as_hex(colours.BLUE)}"),
    )
