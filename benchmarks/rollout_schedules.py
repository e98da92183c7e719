"""Whole rollouts, turn by turn and continuously, with the default experiment's policy and engine.

The policy is random, so what it says is no action: on ALFWorld a drawn admissible action is carried
out in its place. One token in 32 ends a response, so that their lengths differ (20 tokens on
average, 32 at most). All schedules play the same episodes; they take turns, and the fastest of
several repeats counts, which is what a shared machine allows. CPU seconds are this process's. Steps
of the engine (a token of every live response) do not depend on the machine; where a step costs the
same however many responses there are, as on a GPU, they are what generation costs.
"""

import os
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path

from sdar.clock import PhaseClock
from sdar.config import ExperimentConfig, parse_config
from sdar.environments.alfworld.package import PACKAGE
from sdar.environments.alfworld.world.generator import Request, make_game
from sdar.environments.alfworld.world.home import Home
from sdar.environments.base import EnvironmentPool, Observation, Task
from sdar.environments.pools import in_thread
from sdar.environments.practices import WorldPractices
from sdar.policy.tiny import make_tiny_policy
from sdar.policy.tokenizer import train_tokenizer
from sdar.rollout.collector import collect
from sdar.rollout.engines.transformers_continuous import ContinuousTransformersEngine
from sdar.rollout.settings import RolloutSettings
from sdar.training.demonstrations import as_text, expert_episode, library_of

EPISODES, GROUP, BATCH = 24, 4, 8
RESPONSES_END = 32


class Acting:
    """A pool in which a drawn admissible action takes the place of what is sent: a function of slot
    and turn."""

    def __init__(self, pool: EnvironmentPool) -> None:
        self.pool = pool

    def reset(self, tasks: dict[int, Task]) -> dict[int, Observation]:
        self.draws = {slot: random.Random(slot) for slot in tasks}
        self.seen = self.pool.reset(tasks)
        return self.seen

    def step(self, actions: dict[int, str]) -> dict[int, Observation]:
        self.send(actions)
        return self.receive(list(actions))

    def send(self, actions: dict[int, str]) -> None:
        offered = {slot: self.seen[slot].admissible_actions for slot in actions}
        self.pool.send({slot: self.draws[slot].choice(these) for slot, these in offered.items()})

    def receive(self, slots: Sequence[int]) -> dict[int, Observation]:
        answers = self.pool.receive(slots)
        self.seen.update(answers)
        return answers

    def prefetch(self, tasks: list[Task]) -> None:
        self.pool.prefetch(tasks)

    def close(self) -> None:
        self.pool.close()


class Waiting:
    """An environment that takes `seconds` to answer a request, however much it asks for, and does
    not compute meanwhile, as a search server on another machine. Episode i ends after
    `turns[i]` turns."""

    def __init__(self, seconds: float, turns: Sequence[int]) -> None:
        self.seconds = seconds
        self.turns = turns
        self.asked: dict[int, Future[None]] = {}

    def reset(self, tasks: dict[int, Task]) -> dict[int, Observation]:
        self.played = dict.fromkeys(tasks, 0)
        return {slot: self._see(slot) for slot in tasks}

    def step(self, actions: dict[int, str]) -> dict[int, Observation]:
        time.sleep(self.seconds)
        return self._take(actions)

    def send(self, actions: dict[int, str]) -> None:
        answer = in_thread(partial(time.sleep, self.seconds))
        self.asked.update(dict.fromkeys(actions, answer))

    def receive(self, slots: Sequence[int]) -> dict[int, Observation]:
        for slot in slots:
            self.asked.pop(slot).result()
        return self._take(slots)

    def prefetch(self, tasks: list[Task]) -> None:
        """Nothing: there is nothing to load."""

    def close(self) -> None:
        self.asked.clear()

    def _take(self, slots: Sequence[int]) -> dict[int, Observation]:
        for slot in slots:
            self.played[slot] += 1
        return {slot: self._see(slot) for slot in slots}

    def _see(self, slot: int) -> Observation:
        place = f"shelf {slot % 9 + 1}"
        text = f"You arrive at {place}. On the {place}, you see a mug {self.played[slot] + 1}."
        done = self.played[slot] >= self.turns[slot]
        return Observation(text, (f"go to {place}", "look", "inventory"), False, done)


@dataclass(frozen=True)
class Work:
    """What is played."""

    name: str
    pool: EnvironmentPool
    max_turns: int
    batch: int
    answers_after: tuple[int, ...]


@dataclass(frozen=True)
class Cost:
    """Of one rollout: seconds, and counts."""

    wall: float
    cpu: float
    environment: float
    tokens: int
    steps: int


@contextmanager
def works(config: ExperimentConfig, folder: Path) -> Iterator[tuple[list[Work], list[Task]]]:
    home = Home.draw(0, size="small")
    kinds = config.environment.task_types
    games = EPISODES // GROUP
    made = [make_game(Request(0, "train", i, home, kinds, games, folder)) for i in range(games)]
    tasks = [replace(t, location=str(folder / t.location)) for t in made for _ in range(GROUP)]
    draw = random.Random(0)
    # Most are short, a few go on for long: 1 + a geometric number of turns, 20 at most.
    uneven = [min(20, 1 + int(draw.expovariate(1 / 4))) for _ in range(EPISODES)]
    with closing(Acting(PACKAGE.open_pool(config.environment, folder))) as alfworld:
        yield (
            [
                Work("ALFWorld, 5 turns", alfworld, 5, EPISODES, (1, 4)),
                Work("4 turns, 100 ms", Waiting(0.1, [4] * EPISODES), 4, EPISODES, (1, 8)),
                Work("1-20 turns, small batch", Waiting(0.0, uneven), 20, BATCH, (1,)),
                Work("1-20 turns, small batch, 100 ms", Waiting(0.1, uneven), 20, BATCH, (1, 8)),
            ],
            tasks,
        )


def measure(repeats: int) -> Iterator[dict[str, object]]:
    """A line for each work and schedule, as soon as it is known."""
    config = parse_config({})
    practices = WorldPractices(config)
    turns = [t for i in range(30) for t in expert_episode(config, practices, i, library_of(config))]
    tiny = config.policy.tiny
    tokenizer = train_tokenizer(list(map(as_text, turns)), tiny.vocabulary, tiny.context)
    model = make_tiny_policy(tiny, tokenizer, seed=0).eval()
    # Made from scratch it says its last token again and again; so it says anything.
    model.model.norm.weight.data.mul_(0.05)
    ends = frozenset(range(RESPONSES_END - 1, model.config.vocab_size, RESPONSES_END))
    engine = ContinuousTransformersEngine(model, tokenizer, ends=ends)
    steps = count()
    model.lm_head.register_forward_hook(lambda *_: (next(steps), None)[1])

    def play(work: Work, tasks: list[Task], schedule: str, answer_after: int) -> Cost:
        settings = replace(
            RolloutSettings.from_config(config),
            max_turns=work.max_turns,
            batch=work.batch,
            schedule=schedule,
            answer_after=answer_after,
        )
        clock, before = PhaseClock(), next(steps)
        wall, cpu = time.perf_counter(), time.process_time()
        episodes = collect(
            engine,
            tokenizer,
            work.pool,
            tasks,
            [place // GROUP for place in range(EPISODES)],
            settings=settings,
            skills=None,
            seed=0,
            step=0,
            clock=clock,
        )
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        tokens = sum(len(turn.response_ids) for e in episodes for turn in e.turns)
        return Cost(wall, cpu, clock.seconds["environment"], tokens, next(steps) - before - 1)

    with (
        tempfile.TemporaryDirectory() as folder,
        works(config, Path(folder)) as (all_works, tasks),
    ):
        for work in all_works:
            ways = [("turns", 1), *(("continuous", after) for after in work.answers_after)]
            costs: dict[tuple[str, int], list[Cost]] = {way: [] for way in ways}
            play(replace(work, max_turns=1), tasks, *ways[0])  # games loaded, memory touched
            for _ in range(repeats):
                for way in ways:
                    costs[way].append(play(work, tasks, *way))
            turns_wall = min(cost.wall for cost in costs[ways[0]])
            for (schedule, after), timed in costs.items():
                best = min(timed, key=lambda cost: cost.wall)
                yield {
                    "work": work.name,
                    "batch": work.batch,
                    "schedule": schedule,
                    **({"answer_after": after} if schedule == "continuous" else {}),
                    "seconds": round(best.wall, 2),
                    "all_seconds": [round(cost.wall, 2) for cost in timed],
                    "cpu_seconds": round(min(cost.cpu for cost in timed), 2),
                    "waiting_seconds": round(best.environment, 2),
                    "tokens": best.tokens,
                    "engine_steps": best.steps,
                    "speed_relative_to_turns": round(turns_wall / best.wall, 2),
                    "load": round(os.getloadavg()[0], 1),
                }
