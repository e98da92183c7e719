"""A person, or the expert, plays one task in the terminal (`sdar play`)."""

import textwrap
from pathlib import Path
from typing import Any

from sdar.environments.base import EnvironmentPackage, EnvironmentPool, Observation, Task
from sdar.escaping import printable, visible

MOST_EXPERT_TURNS = 100
_ASK = "  number or action (enter: list actions, q: quit) > "


def play(
    package: EnvironmentPackage, environment: Any, folder: Path, task: Task, expert: bool = False
) -> bool:
    """Play `task` and return whether it was won.

    `environment` is its section of the configuration, `folder` the tasks' folder. A person types
    an action or its number; the expert shows its thoughts, and knows the world's habits where it
    has any. Ctrl-D and `q` end the episode.
    """
    pool = package.open_pool(environment, folder)
    try:
        seen = pool.reset({0: task})[0]
        print(f"\n{_shown(seen.text)}\nYour task: {printable(task.instruction)}")
        turns, seen = (
            _expert_plays(package, pool, folder, task, seen)
            if expert
            else _person_plays(pool, seen)
        )
    finally:
        pool.close()
    score = "" if seen.score is None else f", score {seen.score:.2f}"
    outcome = "Won" if seen.won else "Not won"
    print(f"\n{outcome} after {turns} turn{'' if turns == 1 else 's'}{score}.")
    return seen.won


def _expert_plays(
    package: EnvironmentPackage, pool: EnvironmentPool, folder: Path, task: Task, seen: Observation
) -> tuple[int, Observation]:
    expert = package.expert(task, seen, package.knowledge(folder))
    for turn in range(MOST_EXPERT_TURNS):
        if seen.won or seen.done:
            return turn, seen
        thought, action = expert.act()
        seen = pool.step({0: action})[0]
        expert.observe(action, seen)
        print(f"\n{turn + 1:3}. ({printable(thought)}) {printable(action)}\n{_shown(seen.text)}")
    return MOST_EXPERT_TURNS, seen


def _person_plays(pool: EnvironmentPool, seen: Observation) -> tuple[int, Observation]:
    turns = 0
    _list(seen)
    while not (seen.won or seen.done):
        try:
            typed = input(_ASK).strip()
        except EOFError:
            break
        if typed == "q":
            break
        if not typed:
            _list(seen)
            continue
        actions = seen.admissible_actions
        if typed.isdigit() and 1 <= int(typed) <= len(actions):
            typed = actions[int(typed) - 1]
        seen = pool.step({0: typed})[0]
        turns += 1
        print(f"\n{turns:3}. {typed}\n{_shown(seen.text)}")
        if not (seen.won or seen.done):
            _list(seen)
    return turns, seen


def _shown(text: str) -> str:
    lines = [line for line in printable(text).splitlines() if line.strip()]
    return "\n".join(
        textwrap.fill(line, 94, initial_indent="     ", subsequent_indent="     ") for line in lines
    )


def _list(seen: Observation) -> None:
    """The admissible actions, numbered, in two columns."""
    cells = [
        f"{number:3} {visible(action)}" for number, action in enumerate(seen.admissible_actions, 1)
    ]
    rows = (len(cells) + 1) // 2
    for row in range(rows):
        print(f"  {cells[row]:44}{''.join(cells[row + rows : row + rows + 1])}")
