"""The expert for real goals: it finds the product that a goal was made from, and buys it as asked.

It knows which product that is, and says only what anybody could tell from the episode: it searches
in the customer's words, turns pages, opens the product, chooses what is asked for, and buys.
"""

import re
from collections.abc import Mapping, Sequence

from sdar.environments.base import Observation, Task
from sdar.environments.webshop.engine.colours import first_colour
from sdar.environments.webshop.engine.goals import Goal
from sdar.environments.webshop.engine.reward import similar
from sdar.environments.webshop.observed import price_limit, read_page

Decision = tuple[str, str]
"""Thought and action."""
Offered = Mapping[str, Sequence[str]]
_ASKING = re.compile(
    r"^(?:(?:hello|hi),? )?(?:please )?(?:(?:can|could) you )?(?:help me )?"
    r"(?:find me|show me|i am looking for|i'm looking for|i need|i want|find|look for) (?:an? )?",
    re.IGNORECASE,
)


class GoalExpert:
    """See `base.TaskExpert`."""

    def __init__(self, task: Task, first: Observation, goal: Goal, offered: Offered) -> None:
        """`offered`: the values of each option that the product has, by the option's name."""
        asked, _ = price_limit(task.instruction)
        self._query = _query(asked)
        self._asin = goal.asin.lower()
        self._option_of = {value: name for name, values in offered.items() for value in values}
        # A value that two options have counts for the later one.
        self._wishes = {
            name: value
            for name, value in wishes(goal, offered).items()
            if self._option_of.get(value) == name
        }
        self._opened = ""
        self._searched = ""
        self._chosen: dict[str, str] = {}
        self._page = read_page(first)

    @property
    def stuck(self) -> bool:
        """The product is on none of the pages that its own search brings up."""
        page = self._page
        return page.kind == "results" and self._searched == self._query and not page.rows

    def observe(self, action: str, observation: Observation) -> None:
        before, self._page = self._page, read_page(observation)
        name, _, argument = action.strip().removesuffix("]").partition("[")
        argument = argument.lower()
        if self._page.kind in ("index", "results"):
            self._chosen.clear()
        if name == "search" and self._page.kind == "results":
            self._searched = argument
        elif name == "click" and before.kind == "results" and self._page.kind == "item":
            self._opened = argument
        elif name == "click" and before.kind == "item" and argument in before.values:
            self._chosen[self._option_of.get(argument, "")] = argument

    def act(self) -> Decision:
        """(thought, action) here; the action is one that the page offers."""
        decide = {
            "index": self._search,
            "results": self._choose,
            "item": self._inspect,
            "text": lambda: ("back to the product", "click[< prev]"),
            "done": self._search,
        }
        thought, action = decide[self._page.kind]()
        if not self._offers(action):
            ways = ("click[back to search]", "click[< prev]", *self._page.offered)
            action = next((way for way in ways if way in self._page.offered), action)
        return " ".join(re.sub(r"[<>]", " ", thought).split()), action

    def _search(self) -> Decision:
        return "search in the words of the task", f"search[{self._query}]"

    def _choose(self) -> Decision:
        for row in self._page.rows:
            if row.asin.lower() == self._asin:
                return f"{row.title} for {row.price} fits", f"click[{self._asin}]"
        if self._searched == self._query and self._page.rows:
            return "nothing here is what the task asks for; turn the page", "click[next >]"
        return "search again, in the words of the task", "click[back to search]"

    def _inspect(self) -> Decision:
        page = self._page
        if self._opened != self._asin:
            return f"{page.title} is not what the task asks for", "click[< prev]"
        for name, value in self._wishes.items():
            if self._chosen.get(name) != value and self._offers(f"click[{value}]"):
                return f"need {name}: {value}", f"click[{value}]"
        return "all that the task names is chosen; buy", "click[buy now]"

    def _offers(self, action: str) -> bool:
        offered = self._page.offered
        searching = any(other.startswith("search[") for other in offered)
        return action in offered or (searching and action.startswith("search["))


def _query(asked: str) -> str:
    """What to search for: the task without its first words, and without its price. As it is
    searched: in lower case, and with no bracket, which would end the action."""
    left = re.sub(r"[\[\]<>]", " ", _ASKING.sub("", asked.strip())).lower()
    return " ".join(left.split()) or "product"


def wishes(goal: Goal, offered: Offered) -> dict[str, str]:
    """The option values to choose, by the option's name: those of the goal or, for what people
    wrote, the first that counts as the same."""
    if isinstance(goal.goal_options, Mapping):
        return dict(goal.goal_options)
    chosen: dict[str, str] = {}
    for wish in goal.goal_options:
        pairs = [(name, value) for name, values in offered.items() for value in values]
        alike = (p for p in pairs if similar(first_colour(p[1]), first_colour(wish)))
        same = next((pair for pair in pairs if pair[1] == wish), None) or next(alike, None)
        if same is not None:
            chosen.setdefault(*same)
    return chosen
