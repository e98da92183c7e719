"""The shop: what happens on a search or a click, as WebShop's text environment does it.

`ShopSession` plays one episode at the level of the recorded transcripts; `WebshopEnvironment` makes
a `TextEnvironment` of it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from sdar.environments.base import Observation, Task
from sdar.environments.webshop.engine import pages
from sdar.environments.webshop.engine.actions import read_action
from sdar.environments.webshop.engine.catalogue import Catalogue
from sdar.environments.webshop.engine.goals import Goal
from sdar.environments.webshop.engine.products import Product
from sdar.environments.webshop.engine.reward import Reward, purchase_reward

SEARCH_ACTION = "search[<your query>]"
"""How a search is shown among the possible actions."""


@dataclass(frozen=True, slots=True)
class ShopState:
    """What an agent sees after a reset or an action. After the purchase nothing can be clicked;
    the original starts the next episode there."""

    observation: str
    has_search_bar: bool
    clickables: tuple[str, ...]
    reward: float
    done: bool


class ShopSession:
    """One customer of a catalogue. `reset` first."""

    def __init__(self, catalogue: Catalogue, mode: pages.Mode = "text") -> None:
        self._catalogue = catalogue
        self._mode: pages.Mode = mode
        self.purchase: Reward | None = None
        """The parts of the reward, once something is bought."""

    def reset(self, goal: Goal, prices: Mapping[str, float] | None = None) -> ShopState:
        """Start an episode. `prices` {asin: dollars} replace the catalogue's in the reward.

        Raises SdarError when the goal's product is not in the catalogue.
        """
        self._goal = goal
        self._goal_nouns = self._catalogue.by_asin(goal.asin).nouns
        self._prices = prices or {}
        self.purchase = None
        self._words = ""
        self._results: tuple[int, ...] = ()
        self._page_number = 1
        self._product: Product | None = None
        self._options: dict[str, str] = {}
        self._visited: set[str] = set()
        self._at = "index"
        return self._show(pages.search_page(goal.instruction_text))

    def step(self, action: str) -> ShopState:
        """Act. What is neither a search nor the click of something offered changes nothing."""
        name, argument = read_action(action)
        if self.purchase is not None or argument is None:
            return self._state
        if name == "search":
            self._words = argument
            return self._show_results(1)
        target = self._page.targets.get(argument) if name == "click" else None
        if target is None or argument == "search":
            return self._state
        return self._click(argument, target)

    def _click(self, name: str, target: pages.Target) -> ShopState:
        """Follow `target`. A button's name goes before an option's value of the same text."""
        instruction = self._goal.instruction_text
        if name == "buy now":
            return self._buy()
        if name == "back to search":
            self._visited = set()
            self._at = "index"
            return self._show(pages.search_page(instruction))
        if name == "next >" and self._at == "results":
            return self._show_results(self._page_number + 1)
        if name == "< prev":
            if self._at == "results":
                return self._show_results(self._page_number - 1)
            if self._at == "item":
                return self._show_results(self._page_number)
            return self._show_item()
        if self._product is not None and name in ("description", "features", "reviews"):
            self._at = "sub page"
            return self._show(pages.sub_page(instruction, self._product, name))
        if isinstance(target, pages.ProductLink):
            self._product = self._catalogue.product(target.place)
            self._visited.add(self._product.asin)
        elif isinstance(target, pages.OptionChoice):
            self._options[target.name] = target.value
        return self._show_item()

    def _show_results(self, number: int) -> ShopState:
        """Search again, as the original does for each page: choices and product are dropped."""
        self._product = None
        self._options = {}
        self._page_number = number
        self._at = "results"
        matches = self._catalogue.search(self._words)
        places = matches[(number - 1) * pages.PAGE_SIZE : number * pages.PAGE_SIZE]
        shown = [(place, self._catalogue.product(place)) for place in places]
        return self._show(
            pages.results_page(self._goal.instruction_text, number, len(matches), shown)
        )

    def _show_item(self) -> ShopState:
        assert self._product is not None, "links and options are offered beside products only"
        self._at = "item"
        return self._show(pages.item_page(self._goal.instruction_text, self._product))

    def _buy(self) -> ShopState:
        product = self._product
        assert product is not None, "Buy Now is offered on a product's page only"
        price = self._prices.get(product.asin, product.price)
        self.purchase = purchase_reward(product, self._goal, self._goal_nouns, self._options, price)
        reward = self.purchase.reward
        return self._show(pages.thanks_page(product.asin, self._options, reward), reward, done=True)

    def _show(self, page: pages.Page, reward: float = 0.0, done: bool = False) -> ShopState:
        self._page = page
        text = pages.render(page, self._mode, self._address(), self._visited)
        self._state = ShopState(text, page.has_search_bar, tuple(page.targets), reward, done)
        return self._state

    def _address(self) -> str:
        """The end of the original's URL, as far as chosen values are looked for in it."""
        if self._mode == "text" or self._at != "item":
            return ""
        words = self._words.replace(" ", "+")
        return f"{words}/{self._page_number}/{json.dumps(self._options)}"


class WebshopEnvironment:
    """See `base.TextEnvironment`. Tasks are those of `goals.goal_task`."""

    def __init__(self, catalogue: Catalogue, mode: pages.Mode = "text") -> None:
        self._catalogue = catalogue
        self.shop = ShopSession(catalogue, mode)

    def reset(self, task: Task) -> Observation:
        """Start `task`; its id ends with the goal's. Raises SdarError for an unknown goal."""
        goal_id = task.id.rpartition("/")[2]
        return observation(self.shop.reset(self._catalogue.goal(goal_id)))

    def step(self, action: str) -> Observation:
        return observation(self.shop.step(action))

    def close(self) -> None:
        """Nothing: the catalogue is shared."""


def observation(state: ShopState) -> Observation:
    """The state with its actions spelt out; won is a reward of exactly 1, score the reward."""
    actions = [f"click[{name}]" for name in state.clickables if name != "search"]
    if state.has_search_bar:
        actions.insert(0, SEARCH_ACTION)
    return Observation(
        text=state.observation,
        admissible_actions=tuple(actions),
        won=state.done and state.reward == 1.0,
        done=state.done,
        score=state.reward if state.done else None,
    )
