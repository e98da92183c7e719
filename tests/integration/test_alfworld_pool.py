"""Pools: the same episodes whatever the number of workers, and clean ends."""

import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

pytest.importorskip("alfworld", reason='needs pip install "sdar[alfworld]"')

from alfworld_games import small_games

from sdar.environments.alfworld.config import AlfworldConfig
from sdar.environments.alfworld.engine.pool import LocalPool, ProcessPool, make_pool
from sdar.environments.base import EnvironmentPool, Observation, Task
from sdar.errors import SdarError


@pytest.fixture(scope="module")
def games(tmp_path_factory: pytest.TempPathFactory) -> list[Task]:
    return small_games(tmp_path_factory.mktemp("games"), 4)


def play(pool: EnvironmentPool, games: list[Task], ahead: bool) -> list[dict[int, Observation]]:
    """Two rounds of two episodes a game; slots in an unsorted order, episodes leave on the way."""
    seen = []
    for round_ in range(2):
        tasks = {slot: games[slot // 2] for slot in (5, 0, 3, 1, 7, 2, 6, 4)}
        if ahead:
            pool.prefetch([games[0], games[3], games[0]])
        live = pool.reset(tasks)
        rngs = {slot: random.Random(10 * round_ + slot) for slot in tasks}
        for turn in range(8):
            seen.append(live)
            live = pool.step(
                {
                    slot: rngs[slot].choice(seen[-1][slot].admissible_actions)
                    for slot in live
                    if turn < slot + 2
                }
            )
    return seen


@pytest.fixture(scope="module")
def expected(games: list[Task]) -> list[dict[int, Observation]]:
    pool = LocalPool()
    seen = play(pool, games, ahead=False)
    pool.close()
    return seen


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("ahead", [False, True])
def test_results_do_not_depend_on_the_workers(
    games: list[Task], expected: list[dict[int, Observation]], workers: int, ahead: bool
) -> None:
    with ProcessPool(workers) as pool:
        seen = play(pool, games, ahead)
    assert seen == expected
    # The order of the slots is the caller's too, not that of the replies.
    assert [list(turn) for turn in seen] == [list(turn) for turn in expected]


def test_the_configuration_chooses(games: list[Task]) -> None:
    local = make_pool(AlfworldConfig(workers=0))
    assert isinstance(local, LocalPool)
    pool = make_pool(AlfworldConfig(workers=2))
    assert isinstance(pool, ProcessPool)
    assert len(pool._workers) == 2
    assert pool.reset({9: games[0]}) == local.reset({9: games[0]})
    pool.close()
    local.close()
    assert local.reset({0: games[1]})[0].admissible_actions


def test_all_episodes_of_a_game_go_to_one_worker_and_games_are_spread(games: list[Task]) -> None:
    with ProcessPool(2) as pool:
        pool.reset({slot: games[slot // 2] for slot in range(8)})
        of_slot = [pool._of_slot[slot] for slot in range(8)]
    assert of_slot == [0, 0, 1, 1, 0, 0, 1, 1]


@pytest.mark.parametrize("make", [LocalPool, lambda: ProcessPool(2)])
def test_a_corrupt_game_is_an_error_of_the_user_and_the_pool_lives_on(
    games: list[Task], tmp_path: Path, make: Callable[[], EnvironmentPool]
) -> None:
    file = tmp_path / "game.tw-pddl"
    file.write_text("{")
    bad = replace(games[0], location=str(file))
    pool = make()
    pool.prefetch([bad])
    with pytest.raises(SdarError, match=r"game\.tw-pddl cannot be read"):
        pool.reset({0: games[1], 1: bad, 2: games[2]})
    assert pool.reset({0: games[1]})[0].admissible_actions
    pool.close()


@pytest.mark.parametrize("make", [LocalPool, lambda: ProcessPool(1)])
def test_a_step_before_the_reset_is_refused(make: Callable[[], EnvironmentPool]) -> None:
    pool = make()
    with pytest.raises(ValueError, match="slot 3 was stepped before its first reset"):
        pool.step({3: "look"})
    pool.close()


def test_a_dead_worker_is_named_and_nothing_hangs(games: list[Task]) -> None:
    pool = ProcessPool(2)
    pool.reset({0: games[0], 1: games[1]})
    pids = [worker.process.pid for worker in pool._workers]
    os.kill(pids[1], signal.SIGKILL)
    with pytest.raises(SdarError, match=r"environment worker 1 ended unexpectedly \(exit code -9"):
        pool.step({0: "look", 1: "look"})
    assert not any(psutil.pid_exists(pid) for pid in pids)
    with pytest.raises(SdarError, match="closed"):
        pool.reset({0: games[0]})
    pool.close()


def play_apart(pool: EnvironmentPool, games: list[Task], seed: int) -> list[list[Observation]]:
    """The episodes of `play`'s first round, each slot's actions sent and received at times drawn
    from `seed`; what each slot saw."""
    slots = (5, 0, 3, 1, 7, 2, 6, 4)
    first = pool.reset({slot: games[slot // 2] for slot in slots})
    seen = {slot: [first[slot]] for slot in slots}
    rngs = {slot: random.Random(slot) for slot in slots}
    moment, waiting = random.Random(seed), set[int]()
    while waiting or any(len(seen[slot]) < min(slot + 3, 9) for slot in slots):
        due = [slot for slot in slots if slot in waiting and moment.random() < 0.5]
        for slot, observation in pool.receive(due).items():
            seen[slot].append(observation)
        waiting -= set(due)
        going = [s for s in slots if s not in waiting and len(seen[s]) < min(s + 3, 9)]
        sent = [slot for slot in going if moment.random() < 0.5]
        pool.send({s: rngs[s].choice(seen[s][-1].admissible_actions) for s in sent})
        waiting |= set(sent)
    return [seen[slot] for slot in range(8)]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_sent_actions_are_answered_as_stepped_ones(
    games: list[Task], expected: list[dict[int, Observation]], workers: int
) -> None:
    pool = make_pool(AlfworldConfig(workers=workers))
    stepped = [[turn[slot] for turn in expected[:8] if slot in turn] for slot in range(8)]
    for seed in (0, 1):
        apart = play_apart(pool, games, seed)
        # `play` does not look at the answers to the last actions.
        assert [seen[: len(turns)] for seen, turns in zip(apart, stepped, strict=True)] == stepped
    pool.close()


@pytest.mark.parametrize("make", [LocalPool, lambda: ProcessPool(1)])
def test_answers_belong_to_actions(games: list[Task], make: Callable[[], EnvironmentPool]) -> None:
    pool = make()
    first = pool.reset({0: games[0], 1: games[1]})
    with pytest.raises(ValueError, match="slot 1 was asked for an answer, but was sent no action"):
        pool.receive([1])
    pool.send({0: "inventory", 1: "inventory"})
    with pytest.raises(ValueError, match="slot 0 was sent an action before its last was answered"):
        pool.send({0: "look"})
    # An episode that starts anew, as after Ctrl-C, is not given the answer to an old action.
    assert pool.reset({0: games[0]})[0] == first[0]
    pool.send({0: "look"})
    answers = pool.receive([1, 0])
    assert list(answers) == [1, 0]
    assert "carrying" in answers[1].text
    assert "carrying" not in answers[0].text
    pool.close()


def test_a_worker_that_dies_while_actions_are_under_way_is_named(games: list[Task]) -> None:
    pool = ProcessPool(2)
    pool.reset({0: games[0], 1: games[1]})
    pids = [worker.process.pid for worker in pool._workers]
    os.kill(pids[1], signal.SIGSTOP)  # it cannot answer any more
    pool.send({0: "look"})
    pool.send({1: "look"})
    assert pool.receive([0])[0].admissible_actions
    os.kill(pids[1], signal.SIGKILL)
    with pytest.raises(SdarError, match=r"environment worker 1 ended unexpectedly \(exit code -9"):
        pool.receive([1])
    assert not any(psutil.pid_exists(pid) for pid in pids)
    with pytest.raises(SdarError, match="closed"):
        pool.send({0: "look"})


def test_more_actions_and_answers_under_way_than_pipes_hold(games: list[Task]) -> None:
    """Caller and worker would wait for each other for ever if the worker did not read ahead."""
    slots = 1500
    with ProcessPool(1) as pool:
        pool.reset(dict.fromkeys(range(slots), games[0]))
        for slot in range(slots):
            pool.send({slot: "look " * 500})
        answers = pool.receive(range(slots))
        sent = sum(len("look " * 500) for _ in range(slots))
        answered = sum(len(pickle.dumps({slot: answers[slot]})) for slot in range(slots))
    assert min(sent, answered) > 400_000, "the test needs more than the pipes hold"


def test_close_ends_the_workers_even_while_they_load(games: list[Task]) -> None:
    pool = ProcessPool(2)
    pids = [worker.process.pid for worker in pool._workers]
    pool.prefetch(games)
    pool.close()
    pool.close()
    assert not any(psutil.pid_exists(pid) for pid in pids)


SCRIPT = """
import sys, time
from pathlib import Path
from sdar.environments.alfworld.engine.pool import ProcessPool
from sdar.environments.base import Task

if __name__ == "__main__":
    pool = ProcessPool(2)
    try:
        pool.reset({i: Task("", "", "", "", path) for i, path in enumerate(sys.argv[1:])})
        print(*[worker.process.pid for worker in pool._workers], flush=True)
        while True:
            pool.step({0: "look", 1: "look"})
            time.sleep(0.01)
    except KeyboardInterrupt:
        pool.close()
        print("closed", flush=True)
"""


@pytest.fixture
def running(games: list[Task], tmp_path: Path):
    """A program with two workers, in a process group of its own as in a terminal."""
    script = tmp_path / "program.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(script), games[0].location, games[1].location],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 2
    yield process, pids
    process.kill()
    process.communicate()


def wait_until_gone(pids: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(psutil.pid_exists(pid) for pid in pids)


def test_ctrl_c_ends_quietly(running: tuple[subprocess.Popen, list[int]]) -> None:
    process, pids = running
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (out.strip(), err, process.returncode) == ("closed", "", 0)
    assert wait_until_gone(pids, 5)


def test_workers_end_when_their_parent_is_killed(
    running: tuple[subprocess.Popen, list[int]],
) -> None:
    process, pids = running
    process.kill()
    process.wait()
    assert wait_until_gone(pids, 20)
