"""An episode in the terminal, turn by turn, its tokens coloured by gap, gate or advantage."""

from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sdar.errors import SdarError
from sdar.escaping import printable
from sdar.records import colours
from sdar.records.episodes import NUMBERS, TokenEpisode, TokenTurn, read_tokens
from sdar.records.token_files import training_files

ColourBy = Literal["gap", "gate", "advantage"]
Scale = Literal["gap", "gate", "signed gate", "advantage"]
_HEADERS = {
    "gap": "gap",
    "gate": "gate",
    "advantage": "advan-\ntage",
    "student_log_prob": "student",
    "teacher_log_prob": "teacher",
    "reference_log_prob": "refer-\nence",
    "old_log_prob": "sampled",
}
_COLOUR_OF: dict[str, Callable[[float], tuple[int, int, int]]] = {
    "gap": colours.of_gap,
    "gate": colours.of_gate,
    "signed gate": partial(colours.of_gate, signed=True),
    "advantage": colours.of_advantage,
}
_ENDS = {
    "gap": ("gap < 0", "gap > 0"),
    "gate": ("gate < .5", "gate > .5"),
    "signed gate": ("gate < 0", "gate > 0"),
    "advantage": ("advantage < 0", "advantage > 0"),
}


def view(
    folder: Path,
    episode: str | None = None,
    *,
    colour_by: ColourBy = "gap",
    prompts: bool = False,
    numbers: bool = False,
    turn: int | None = None,
    console: Console | None = None,
) -> None:
    """Print a recorded episode of a run; without `episode`, the list of those there are.

    `folder` is a run's folder (its evaluation and recorded training steps), or one token file.
    `episode` is a number of the list or a part of a task's id. `prompts` shows both prompts of
    each turn, the skill marked; `numbers` a table of its tokens with class, gap, gate, advantage
    and log-probs; `turn` (from 1) shows that turn alone. Raises SdarError when nothing is recorded,
    and for an episode or turn that is not there.
    """
    console = console or Console()
    recorded = _read(folder)
    if episode is None:
        _list(recorded, console)
        return
    chosen = _choose(recorded, episode, folder)
    turns = [shown for shown in chosen.turns if turn in (None, shown.number)]
    if not turns:
        raise SdarError(f"--turn {turn}: the episode has turns 1 to {chosen.turns[-1].number}")
    scale: Scale = "signed gate" if colour_by == "gate" and chosen.signed_gate else colour_by
    outcome = Text("solved", "green") if chosen.success else Text("failed", "red")
    console.print(Text.assemble((chosen.task_id, "bold"), "  ", outcome))
    about = f"{chosen.source}, {chosen.panel}, {chosen.task_type}  "
    console.print(Text.assemble(about, _legend(scale)))
    if chosen.skill:
        console.print(Text.assemble(("skill   ", "dim"), chosen.skill))
    for shown in turns:
        _print_turn(shown, scale, prompts, numbers, console)


def _read(folder: Path) -> list[TokenEpisode]:
    if folder.is_file():
        return _printable(read_tokens(folder, source=folder.name))
    episodes: list[TokenEpisode] = []
    for path in (folder / "evaluation" / "tokens.parquet", folder / "tokens.parquet"):
        if path.is_file():
            episodes += read_tokens(path, source="evaluation")
    for _, path in training_files(folder):
        episodes += read_tokens(path, source="training")
    if not episodes:
        raise SdarError(
            f"{folder}: no recorded episodes; give a run's folder, such as "
            "runs/EXPERIMENT/sdar/seed-0, after it is trained or evaluated"
        )
    return _printable(episodes)


def _printable(value: Any) -> Any:
    """All texts in records as a terminal may show them."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list | tuple):
        return type(value)(map(_printable, value))
    if isinstance(value, TokenEpisode | TokenTurn):
        plain = {field.name: _printable(getattr(value, field.name)) for field in fields(value)}
        return replace(value, **plain)
    return value


def _choose(recorded: list[TokenEpisode], wanted: str, folder: Path) -> TokenEpisode:
    if wanted.isdecimal():
        if 1 <= int(wanted) <= len(recorded):
            return recorded[int(wanted) - 1]
        raise SdarError(f"episode {wanted}: {folder} holds {len(recorded)}, numbered from 1")
    matching = [item for item in recorded if wanted in item.task_id]
    if not matching:
        raise SdarError(
            f"episode {wanted!r}: no recorded task of {folder} has that in its id; "
            "`sdar view RUN` lists them"
        )
    return matching[0]


def _list(recorded: list[TokenEpisode], console: Console) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("", "task", "played in", "outcome", "turns"):
        table.add_column(column, justify="right" if column in ("", "turns") else "left")
    for number, item in enumerate(recorded, start=1):
        outcome = Text("solved", "green") if item.success else Text("failed", "red")
        names = Text(item.task_id), Text(item.panel)  # not strings: [red] is a name too
        table.add_row(str(number), *names, outcome, str(len(item.turns)))
    console.print(table)


def _print_turn(
    turn: TokenTurn, scale: Scale, prompts: bool, numbers: bool, console: Console
) -> None:
    console.print()
    note = "" if turn.valid and turn.admissible else "  (not offered)"
    note = note if turn.valid else "  (invalid response)"
    console.print(Text.assemble((f"Turn {turn.number}", "bold"), (note, "red")))
    if turn.observation:
        console.print(Text.assemble(("sees    ", "dim"), turn.observation))
    if prompts:
        for who, text in (("student ", turn.student_prompt), ("teacher ", turn.teacher_prompt)):
            console.print(Text.assemble((who, "dim"), _marked(text, turn.skill_text)))
    line = Text("says    ", "dim")
    for text, values in zip(turn.tokens, turn.values, strict=True):
        line.append(text, _style(values, scale))
    console.print(line)
    if numbers:
        console.print(_numbers(turn, scale, console.width))
    console.print(Text.assemble(("does    ", "dim"), turn.action or "(nothing)"))
    _print_opinions(turn, console)
    if turn.result:
        console.print(Text.assemble(("result  ", "dim"), turn.result))


def _print_opinions(turn: TokenTurn, console: Console) -> None:
    """What the expert, the greedy student and the greedy teacher would do."""
    if turn.expert_action is not None:
        console.print(Text.assemble(("expert  ", "dim"), turn.expert_action))
    for who, action in (
        ("student ", turn.student_greedy_action),
        ("teacher ", turn.teacher_greedy_action),
    ):
        if action is None:
            continue
        judged = Text("")
        if turn.expert_action is not None:
            right = action == turn.expert_action
            judged = Text("  as the expert", "green") if right else Text("  not so", "red")
        console.print(Text.assemble((who, "dim"), action or "(nothing)", judged))


def _numbers(turn: TokenTurn, scale: Scale, columns: int) -> Table:
    # Narrow enough for 80 columns: a long token is cut (it is shown in full above), no number is.
    longest = 9 if columns < 100 else 24
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", justify="right", min_width=2)
    table.add_column("token", no_wrap=True)
    table.add_column("id", justify="right", min_width=len(str(max(turn.token_ids))))
    table.add_column("class", min_width=max(map(len, turn.classes)))
    # What this stage or method does not have takes no room.
    there = [i for i in range(len(NUMBERS)) if any(v[i] is not None for v in turn.values)]
    for name in (NUMBERS[i] for i in there):
        width = max(5, *map(len, _HEADERS[name].split("\n")))
        table.add_column(_HEADERS[name], justify="right", min_width=width, no_wrap=True)
    rows = zip(turn.tokens, turn.token_ids, turn.classes, turn.values, strict=True)
    for position, (text, token_id, kind, values) in enumerate(rows):
        name = text.replace("\n", "\\n") or "∅"
        name = name if len(name) <= longest else name[: longest - 1] + "…"
        token = Text(name, _style(values, scale))
        shown = (values[i] for i in there)
        cells = ["–" if value is None else f"{value:.3f}" for value in shown]
        kind_text = Text(kind, colours.CLASS_COLOURS[kind])
        table.add_row(str(position), token, str(token_id), kind_text, *cells)
    return table


def _marked(prompt: str, skill: str) -> Text:
    """The prompt with the privileged text marked."""
    text = Text(prompt)
    start = prompt.find(skill) if skill else -1
    if start >= 0:
        text.stylize("bold yellow", start, start + len(skill))
    return text


def _style(values: tuple[float | None, ...], scale: Scale) -> str:
    value = values[NUMBERS.index(scale.removeprefix("signed "))]
    if value is None:
        return "not dim"
    return f"not dim #000000 on {colours.as_hex(_COLOUR_OF[scale](value))}"


def _legend(scale: Scale) -> Text:
    low, high = _ENDS[scale]
    return Text.assemble(
        (f" {low} ", f"#000000 on {colours.as_hex(colours.ORANGE)}"),
        (f" {high} ", f"#000000 on {colours.as_hex(colours.BLUE)}"),
    )
