"""Pools: the same episodes whatever the number of workers, and clean ends."""

import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

pytest.importorskip("alfworld", reason='needs pip install "sdar[alfworld]"')

from alfworld_games import small_games

from sdar.environments.alfworld.config import AlfworldConfig
from sdar.environments.alfworld.engine.pool import LocalPool, ProcessPool, make_pool
from sdar.environments.alfworld.engine.process import _limit_blocking
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


def lose(pool: ProcessPool, index: int, how: signal.Signals) -> int:
    """Stop or kill a worker, and wait for half a second instead of minutes; its process id. The
    others keep the pool's limit: on a busy machine a worker's start takes seconds."""
    worker = pool._workers[index]
    worker._seconds = 0.5
    _limit_blocking(worker._connection, 0.5)
    assert worker.process.pid is not None
    os.kill(worker.process.pid, how)
    return worker.process.pid


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("turn", [0, 1, 5, 9])
def test_the_episodes_of_a_lost_worker_are_played_again(
    games: list[Task],
    expected: list[dict[int, Observation]],
    how: signal.Signals,
    turn: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nobody notices but the log: before the first game, after a reset, in the middle, and in the
    second round, which starts after the first's last turn."""

    class Disturbed(ProcessPool):
        asked = 0

        def _ask(self, request: str, shares: dict[int, object]) -> None:
            if self.asked == turn:
                gone.append(lose(self, 1, how))
            self.asked += 1
            super()._ask(request, shares)

    gone: list[int] = []
    with Disturbed(2) as pool:
        seen = play(pool, games, ahead=turn == 5)
        assert seen == expected
        assert [list(answers) for answers in seen] == [list(answers) for answers in expected]
        assert not psutil.pid_exists(gone[0])
    (said,) = [
        record.getMessage() for record in caplog.records if record.name == "sdar.environments"
    ]
    why = (
        "ended unexpectedly (exit code -9"
        if how == signal.SIGKILL
        else "has not answered for 0.5 s"
    )
    assert f"environment worker 1 (process {gone[0]}, playing train/" in said
    assert why in said


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_is_lost_while_actions_are_under_way(
    games: list[Task], expected: list[dict[int, Observation]], how: signal.Signals
) -> None:
    stepped = [[turn[slot] for turn in expected[:8] if slot in turn] for slot in range(8)]

    class Disturbed(ProcessPool):
        received = 0

        def receive(self, slots: Sequence[int]) -> dict[int, Observation]:
            self.received += 1
            if self.received in (3, 8):
                lose(self, self.received % 2, how)
            return super().receive(slots)

    with Disturbed(2) as pool:
        apart = play_apart(pool, games, seed=0)
    assert [seen[: len(turns)] for seen, turns in zip(apart, stepped, strict=True)] == stepped


def test_one_that_is_lost_again_and_again_is_named_and_nothing_hangs(games: list[Task]) -> None:
    class Doomed(ProcessPool):
        def _request(self, index: int, request: str, share: dict[int, object]) -> None:
            if index == 1:
                pids.append(lose(self, 1, signal.SIGSTOP))
            super()._request(index, request, share)

    pids: list[int] = []
    pool = Doomed(2)
    named = (
        r"environment worker 1 \(process \d+, playing \S+\) has not answered for 0\.5 s, as 3 in"
    )
    with pytest.raises(SdarError, match=named) as told:
        pool.reset({0: games[0], 1: games[1]})
    assert len(pids) == len(set(pids)) == 3
    assert str(pids[-1]) in str(told.value)
    assert games[1].id in str(told.value)
    assert len(str(told.value)) < 1000
    assert not any(psutil.pid_exists(pid) for pid in pids)
    with pytest.raises(SdarError, match="closed"):
        pool.reset({0: games[0]})
    pool.close()


def test_a_stopped_worker_whose_pipe_is_full_does_not_hang_the_caller(games: list[Task]) -> None:
    with ProcessPool(1) as pool:
        first = pool.reset({0: games[0], 1: games[0]})
        pid = lose(pool, 0, signal.SIGSTOP)
        pool.send({0: "look " * 200_000})
        pool.send({1: "inventory"})
        answers = pool.receive([0, 1])
        assert answers[0].text == "Nothing happens."
        assert answers[0].admissible_actions == first[0].admissible_actions
        assert "carrying" in answers[1].text
        assert not psutil.pid_exists(pid)


def test_long_work_is_no_silence(games: list[Task]) -> None:
    """A worker says that it is at work: only a single game that takes too long counts."""

    def replay(turns: int) -> float:
        pool._past[0] = (games[0], ["look"] * turns)
        start = time.monotonic()
        pool._request(0, "replay", pool._past)
        pool._receive(0)
        return time.monotonic() - start

    with ProcessPool(1) as pool:
        pool.reset({0: games[0]})
        worker = pool._workers[0]
        per_turn = replay(1000) / 1000
        worker._seconds = 2.0
        replay(int(2 * worker._seconds / per_turn))  # in one request, twice the limit
        assert pool._workers[0] is worker


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
from sdar.environments.alfworld.engine.process import _limit_blocking
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
