"""How fast WebShop opens and steps, beside the obvious way to write it.

    python benchmarks/webshop_speed.py [--data DIR] [--products N] [--steps N] [--output FILE]

One process, one thread. Products come from --data (a folder with WebShop's files), or are
generated. A seeded agent plays episodes of 15 turns: with a search bar it searches for some words
of the instruction, otherwise it clicks at random, so about one step in five is a search and most
searches are new. The obvious way keeps nothing and ranks by the textbook loop over all documents;
both see the same states and actions, which is checked. Wall seconds are what a user waits; CPU
seconds do not depend on what else the machine does.

Left out: model time, and the original environment (Flask pages, HTML parsing and Lucene in a JVM:
20-50 ms per step by its users' measurements, not measured here).
"""

import argparse
import json
import math
import platform
import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sdar.environments.webshop.config import WEBSHOP_CATEGORIES
from sdar.environments.webshop.engine.analyzer import analyze
from sdar.environments.webshop.engine.bm25 import K1, B
from sdar.environments.webshop.engine.catalogue import MOST_RESULTS, Catalogue
from sdar.environments.webshop.engine.environment import ShopSession
from sdar.environments.webshop.engine.stock import Stock, open_stock, searched_text
from sdar.environments.webshop.world.records import make_records
from sdar.environments.webshop.world.shop import Shop

TURNS = 15


@dataclass(frozen=True)
class Speed:
    """One way on one list of actions; `ratio` is its steps per CPU second over the obvious's."""

    way: str
    products: int
    open_seconds: float
    megabytes: float
    steps: int
    searches: int
    steps_per_second: float
    steps_per_cpu_second: float
    ratio: float = 1.0


class ObviousCatalogue(Catalogue):
    """Parses a product whenever it is shown, and scores every document for every search."""

    def __init__(self, stock: Stock, *, seed: int) -> None:
        super().__init__(stock, seed=seed)
        self._whole = stock
        self.product = lambda place: stock.product(place, seed)
        self._documents = [
            Counter(analyze(searched_text(self.product(place)))) for place in range(len(stock))
        ]
        self._lengths = [document.total() for document in self._documents]
        self._holding = Counter(term for document in self._documents for term in document)

    def search(self, argument: str) -> tuple[int, ...]:
        size, average = len(self._documents), sum(self._lengths) / len(self._documents)
        query = analyze(argument)
        scores = []
        for place, document in enumerate(self._documents):
            score = 0.0
            for term in query:
                if document[term]:
                    held = self._holding[term]
                    idf = math.log(1 + (size - held + 0.5) / (held + 0.5))
                    norm = K1 * (1 - B + B * self._lengths[place] / average)
                    score += idf * document[term] / (document[term] + norm)
            if score:
                scores.append((-score, place))
        return tuple(place for _, place in sorted(scores)[:MOST_RESULTS])


def record_actions(catalogue: Catalogue, steps: int) -> list[tuple[int, list[str]]]:
    """Goals with what the agent does in each, `steps` actions in all."""
    shop, episodes, done = ShopSession(catalogue), [], 0
    while done < steps:
        draw = random.Random(f"benchmark {len(episodes)}")
        goal = draw.randrange(len(catalogue.goals))
        state = shop.reset(catalogue.goals[goal])
        words = catalogue.goals[goal].instruction_text.split()
        actions: list[str] = []
        while len(actions) < min(TURNS, steps - done) and not state.done:
            if state.has_search_bar:
                some = draw.sample(words, min(len(words), draw.randint(3, 8)))
                actions.append(f"search[{' '.join(some)}]")
            else:
                actions.append(f"click[{draw.choice(state.clickables)}]")
            state = shop.step(actions[-1])
        episodes.append((goal, actions))
        done += len(actions)
    return episodes


def play(
    catalogue: Catalogue, episodes: Sequence[tuple[int, list[str]]]
) -> tuple[float, float, list[tuple[int, bool]]]:
    """Wall and CPU seconds, and what each step showed, in short."""
    shop = ShopSession(catalogue)
    wall, cpu = time.perf_counter(), time.process_time()
    seen = []
    for goal, actions in episodes:
        shop.reset(catalogue.goals[goal])
        for action in actions:
            state = shop.step(action)
            seen.append((len(state.clickables), state.done))
    return time.perf_counter() - wall, time.process_time() - cpu, seen


def measure(folder: Path, steps: int, obvious_steps: int) -> list[Speed]:
    start = time.perf_counter()
    stock = open_stock(folder)
    catalogue = Catalogue(stock, seed=0)
    opened = time.perf_counter() - start
    episodes = record_actions(catalogue, steps)
    few: list[tuple[int, list[str]]] = []
    for episode in episodes:
        if sum(len(actions) for _, actions in few) < obvious_steps:
            few.append(episode)

    rows, shown = [], []
    ways = (
        ("obvious", ObviousCatalogue(stock, seed=0), few),
        ("sdar", Catalogue(stock, seed=0), episodes),
    )
    for way, playable, played in ways:
        wall, cpu, seen = play(playable, played)
        shown.append(seen)
        actions = [action for _, some in played for action in some]
        rows.append(
            Speed(
                way=way,
                products=len(catalogue),
                open_seconds=round(opened, 2),
                megabytes=round(catalogue.bytes / 1e6, 1),
                steps=len(actions),
                searches=sum(action.startswith("search[") for action in actions),
                steps_per_second=round(len(actions) / wall, 1),
                steps_per_cpu_second=round(len(actions) / cpu, 1),
                ratio=round(len(actions) / cpu / rows[0].steps_per_cpu_second, 1) if rows else 1.0,
            )
        )
    # Rounding may swap neighbours in the obvious ranking, and the clicks on them; little else.
    same = sum(one == other for one, other in zip(*shown, strict=False)) / len(shown[0])
    print(f"steps with equal pages in both ways: {same:.1%}")
    return rows


def generate(folder: Path, products: int) -> Path:
    folder.mkdir(parents=True)
    make_records(Shop.draw(0), products, WEBSHOP_CATEGORIES).write(folder)
    return folder


def table(rows: Sequence[Speed]) -> str:
    lines = [
        "| way | products | opens in s | MB | steps | searches | steps/s | steps/CPU s | ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.way} | {row.products} | {row.open_seconds} | {row.megabytes} | {row.steps} "
        f"| {row.searches} | {row.steps_per_second:.0f} | {row.steps_per_cpu_second:.0f} "
        f"| {row.ratio} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with WebShop's files; else generated")
    parser.add_argument("--products", type=int, default=1000, help="of the generated catalogue")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--obvious-steps", type=int, default=1000)
    parser.add_argument("--output", type=Path, help="also write the JSON here")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        data = arguments.data or generate(Path(scratch) / "shop", arguments.products)
        rows = measure(data, arguments.steps, arguments.obvious_steps)
    result = {
        "machine": {"processor": platform.machine(), "python": platform.python_version()},
        "data": "generated" if arguments.data is None else "WebShop",
        "speeds": [asdict(row) for row in rows],
    }
    print(table(rows))
    print(json.dumps(result, indent=1))
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
