"""Plans of panels: every task once, streams apart, recorded tasks chosen fairly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdar.environments.base import Task
from sdar.errors import SdarError
from sdar.evaluation.panels import plan_chunks, recorded_tasks


def tasks(panel: str, count: int, types: int = 3) -> list[Task]:
    return [Task(f"{panel}/{i:03d}", panel, f"type-{i % types}", "do.", "x") for i in range(count)]


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 9), st.integers(1, 3))
def test_each_task_once_per_seed_and_prompt(first: int, second: int, size: int, seeds: int) -> None:
    panels = {"a": tasks("a", first), "b": tasks("b", second)}
    chunks = plan_chunks(panels, list(range(seeds)), size, prompts=(True, False))
    played = [(c.with_skill, c.evaluation_seed, t.id) for c in chunks for t in c.tasks]
    assert len(played) == len(set(played)) == 2 * seeds * (first + second)
    assert max(len(chunk.tasks) for chunk in chunks) <= size
    assert len({chunk.name for chunk in chunks}) == len(chunks)


def test_streams_differ_between_chunks_and_stay_clear_of_training() -> None:
    chunks = plan_chunks({"a": tasks("a", 40), "b": tasks("b", 40)}, [0], 10)
    assert len({chunk.step for chunk in chunks}) == len(chunks)
    assert all(chunk.step < 0 for chunk in chunks)


def test_a_panel_does_not_depend_on_the_others_or_on_the_order_of_its_tasks() -> None:
    alone = plan_chunks({"b": tasks("b", 12)[::-1]}, [0], 5)
    both = plan_chunks({"a": tasks("a", 7), "b": tasks("b", 12)}, [0], 5)
    assert alone == [chunk for chunk in both if chunk.panel == "b"]
    assert [c.step for c in alone] == [c.step for c in both if c.panel == "b"]


def test_empty_and_repeated_are_refused() -> None:
    with pytest.raises(SdarError, match="panel a: no tasks"):
        plan_chunks({"a": []}, [0], 5)
    with pytest.raises(SdarError, match="a/001 is listed twice"):
        plan_chunks({"a": tasks("a", 3) + tasks("a", 2)[1:]}, [0], 5)


def test_recorded_tasks_are_spread_over_types_and_panels() -> None:
    panels = {"a": tasks("a", 30), "b": tasks("b", 30)}
    chosen = recorded_tasks(panels, 12)
    assert len(chosen) == 12
    spread = {(panel, task_id, int(task_id[-3:]) % 3) for panel, task_id in chosen}
    for panel in panels:
        counts = [sum(1 for p, _, kind in spread if (p, kind) == (panel, k)) for k in range(3)]
        assert counts == [2, 2, 2]
    assert chosen == recorded_tasks({"a": tasks("a", 30)[::-1], "b": tasks("b", 30)}, 12)
    assert recorded_tasks(panels, 2) <= chosen


def test_no_more_recorded_than_there_are() -> None:
    assert len(recorded_tasks({"a": tasks("a", 4)}, 99)) == 4


def test_the_papers_panels_are_planned_whole() -> None:
    """Sizes of the real panels: ALFWorld, WebShop, and the seven sets of Search-QA in one."""
    sizes = {"valid_seen": 140, "valid_unseen": 134, "webshop": 500, "searchqa": 51_713}
    panels = {panel: tasks(panel, size) for panel, size in sizes.items()}
    chunks = plan_chunks(panels, [0], size=512)
    played = [task.id for chunk in chunks for task in chunk.tasks]
    assert len(played) == len(set(played)) == sum(sizes.values())
    assert len({chunk.name for chunk in chunks}) == len({chunk.step for chunk in chunks})
    # The last chunk holds one question, which counts as one: nothing is averaged by chunk.
    assert len(chunks[-1].tasks) == 51_713 % 512 == 1
