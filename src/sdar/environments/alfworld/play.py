"""A person, or the expert, plays one game in the terminal (`sdar play`)."""

from sdar.environments.alfworld.engine import AlfworldEnvironment
from sdar.environments.alfworld.experts import ExplorerExpert
from sdar.environments.alfworld.home import Home
from sdar.environments.alfworld.observed import Observed
from sdar.environments.alfworld.prompt import room_description
from sdar.environments.base import Observation, Task

MOST_EXPERT_TURNS = 100
_ASK = "  number or action (enter: list actions, q: quit) > "


def play(task: Task, expert: bool = False, home: Home | None = None) -> bool:
    """Play `task` on the engine and return whether it was won.

    A person types an action or its number; the expert shows its thoughts, and knows the habits of
    `home` where one is given. Ctrl-D and `q` end the game.
    """
    environment = AlfworldEnvironment()
    try:
        seen = environment.reset(task)
        print(f"\n{room_description(seen.text)}\nYour task: {task.instruction}")
        turns, won = (
            _expert_plays(environment, task, seen, home)
            if expert
            else _person_plays(environment, seen)
        )
    finally:
        environment.close()
    print(f"\n{'Won' if won else 'Not won'} after {turns} turn{'' if turns == 1 else 's'}.")
    return won


def _expert_plays(
    environment: AlfworldEnvironment, task: Task, seen: Observation, home: Home | None
) -> tuple[int, bool]:
    hint = home.usual_places(task.task_type) if home is not None else None
    expert = ExplorerExpert(seed=0, hint=hint)
    known = Observed.start(task.task_type, task.instruction, seen)
    for turn in range(MOST_EXPERT_TURNS):
        if seen.won:
            return turn, True
        thought, action = expert.act(known)
        seen = environment.step(action)
        known.update(action, seen)
        print(f"\n{turn + 1:3}. ({thought}) {action}\n     {seen.text}")
    return MOST_EXPERT_TURNS, seen.won


def _person_plays(environment: AlfworldEnvironment, seen: Observation) -> tuple[int, bool]:
    turns = 0
    _list(seen)
    while not seen.won:
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
        seen = environment.step(typed)
        turns += 1
        print(f"\n{turns:3}. {typed}\n     {seen.text}")
        if not seen.won:
            _list(seen)
    return turns, seen.won


def _list(seen: Observation) -> None:
    """The admissible actions, numbered, in two columns."""
    cells = [f"{number:3} {action}" for number, action in enumerate(seen.admissible_actions, 1)]
    rows = (len(cells) + 1) // 2
    for row in range(rows):
        print(f"  {cells[row]:44}{''.join(cells[row + rows : row + rows + 1])}")
