"""WebShop's recorded cases: transcripts, rankings and rewards of the original."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sdar.environments.recorded import RecordedFormat, ReplayReport, are_records
from sdar.environments.webshop.engine.catalogue import Catalogue
from sdar.environments.webshop.engine.environment import ShopSession, ShopState
from sdar.environments.webshop.engine.goals import Goal
from sdar.environments.webshop.engine.reward import purchase_reward

SEED = 0
"""Of prices that a record does not give; those of the cases are recorded."""


def are_transcripts(cases: Any) -> bool:
    return are_records(cases, {"mode", "goal", "first_observation", "first_clickables", "steps"})


def are_rewards(cases: Any) -> bool:
    return are_records(cases, {"goal", "asin", "options", "price", "expected"})


def are_ranks(cases: Any) -> bool:
    return (
        isinstance(cases, dict)
        and bool(cases)
        and all(isinstance(asins, list) for asins in cases.values())
        and all(isinstance(asin, str) for asins in cases.values() for asin in asins)
    )


def are_webshop_cases(cases: Any) -> bool:
    return are_transcripts(cases) or are_rewards(cases) or are_ranks(cases)


def replay_cases(cases: Any, data: Path) -> ReplayReport:
    """Replay `cases` (of one of the three kinds) on the catalogue in the folder `data`."""
    catalogue = Catalogue.open(data, SEED)
    if are_transcripts(cases):
        return replay_transcripts(cases, catalogue)
    if are_rewards(cases):
        return replay_rewards(cases, catalogue)
    return replay_ranks(cases, catalogue)


def replay_transcripts(episodes: Sequence[dict[str, Any]], catalogue: Catalogue) -> ReplayReport:
    """Every first page, step and ranking is one case.

    Compared: observation, search bar, clickables in order, reward, done. After the last step the
    original has begun another episode, so there only observation, reward and done are.
    """
    report = ReplayReport()
    for number, episode in enumerate(episodes):
        where = f"episode {number} ({episode['mode']}, {episode['goal']['asin']})"
        shop = ShopSession(catalogue, episode["mode"])
        first = shop.reset(Goal.from_record(episode["goal"]), episode["product_price"])
        report.compare(
            f"{where}, first observation",
            _expected(episode["first_observation"], episode, "first_"),
            _seen(first),
        )
        for turn, step in enumerate(episode["steps"]):
            seen = shop.step(step["action"])
            report.compare(
                f"{where}, step {turn}, action {step['action']!r}",
                _expected(step["observation"], step),
                _seen(seen),
            )
        for query, asins in episode["rankings"].items():
            report.compare(f"{where}, ranking of {query!r}", asins, _ranked(catalogue, query))
    return report


def replay_ranks(lists: Mapping[str, Sequence[str]], catalogue: Catalogue) -> ReplayReport:
    """Every query with its ten best products is one case."""
    report = ReplayReport()
    for query, asins in lists.items():
        report.compare(f"query {query!r}", asins, _ranked(catalogue, query.lower())[:10])
    return report


def replay_rewards(rows: Sequence[Mapping[str, Any]], catalogue: Catalogue) -> ReplayReport:
    """Every purchase is one case; the reward and all its parts have to be equal."""
    report = ReplayReport()
    for number, row in enumerate(rows):
        goal = Goal.from_record(row["goal"])
        earned = purchase_reward(
            catalogue.by_asin(row["asin"]),
            goal,
            catalogue.by_asin(goal.asin).nouns,
            row["options"],
            row["price"],
        )
        report.compare(f"row {number}, {row['asin']} bought", row["expected"], asdict(earned))
    return report


def _expected(observation: str, record: Mapping[str, Any], prefix: str = "") -> tuple[object, ...]:
    done = record.get("done", False)
    offered = (record[f"{prefix}has_search_bar"], record[f"{prefix}clickables"])
    return (observation, *((False, []) if done else offered), record.get("reward", 0.0), done)


def _seen(state: ShopState) -> tuple[object, ...]:
    offered = (state.has_search_bar, list(state.clickables))
    return (state.observation, *offered, state.reward, state.done)


def _ranked(catalogue: Catalogue, query: str) -> list[str]:
    return [catalogue.product(place).asin for place in catalogue.search(query)]


FORMATS = (
    RecordedFormat(
        "WebShop's cases",
        are_webshop_cases,
        replay_cases,
        known_as="WebShop's transcripts, ranks and rewards",
    ),
)
