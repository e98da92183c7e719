"""Synthetic but realistic work for step_speed.py: prompts and responses of ALFWorld's lengths.

The words of environment and skill are made up, so that prompts have the lengths asked for; how
they become prompts, and parsing, are ALFWorld's own. Random weights never end a response, so all
are as long as the limit. Groups share their first prompt, as they do in training.
"""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerFast

from sdar.environments.alfworld.config import ALFWORLD_TASK_TYPES
from sdar.environments.alfworld.package import PACKAGE
from sdar.environments.base import Moment, Observation, Task
from sdar.environments.pools import SentActions
from sdar.policy.chat import render_prompt
from sdar.policy.tokenizer import train_tokenizer
from sdar.skills import Skill

WORDS = ("shelf", "drawer", "cabinet", "table", "sink", "fridge", "lamp", "apple", "knife", "mug")
ACTIONS = ("go to shelf 1", "open fridge 1", "take mug 2 from table 1", "look", "inventory")


def words(count: int, seed: int) -> str:
    """So many names of things, numbered; another `seed`, others."""
    return " ".join(
        f"{WORDS[(seed + i * i) % len(WORDS)]} {1 + (seed + i) % 9}" for i in range(count)
    )


def tasks(count: int) -> list[Task]:
    kinds = ALFWORLD_TASK_TYPES
    return [
        Task(f"train/{i}", "train", kinds[i % len(kinds)], "put a clean mug in shelf.", f"{i}")
        for i in range(count)
    ]


class World:
    """An `EnvironmentPool` whose episodes all last `turns`; every third is won."""

    def __init__(self, turns: int, length: int) -> None:
        self.turns = turns
        self.length = length
        self.taken: dict[int, int] = {}
        self._sent = SentActions()

    def reset(self, tasks: dict[int, Task]) -> dict[int, Observation]:
        self._sent.drop(tasks)
        self.taken = dict.fromkeys(tasks, 0)
        return {slot: self.see(int(task.location), False) for slot, task in tasks.items()}

    def step(self, actions: dict[int, str]) -> dict[int, Observation]:
        seen = {}
        for slot in actions:
            self.taken[slot] += 1
            over = self.taken[slot] == self.turns
            seen[slot] = self.see(1000 + 97 * slot + self.taken[slot], over, over and slot % 3 == 0)
        return seen

    def send(self, actions: dict[int, str]) -> None:
        self._sent.put(actions)

    def receive(self, slots: Sequence[int]) -> dict[int, Observation]:
        return self.step(self._sent.take(slots))

    def see(self, seed: int, done: bool, won: bool = False) -> Observation:
        return Observation(words(self.length, seed), ACTIONS, won, done)

    def prefetch(self, tasks: Sequence[Task]) -> None:
        pass

    def close(self) -> None:
        pass


class Skills:
    """As `SkillLibrary`, with one skill of `length` names for every task."""

    def __init__(self, length: int) -> None:
        text = words(length, 5)
        self.skill = Skill("all", text, "")

    def for_task(self, task: Task) -> Skill:
        return self.skill


def make_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """About one token per word of the texts here."""
    texts = [" " + " ".join(f"{word} {number}" for word in WORDS for number in range(1, 10))]
    texts += [words(60, seed) for seed in range(20)]
    chats = [chat(words(40, seed)) for seed in range(20)]
    texts += [messages[0]["content"] for messages in chats]
    return train_tokenizer(texts, min(vocabulary, 2048), 1 << 15)


def chat(observation: str, skill: str | None = None) -> list[dict[str, str]]:
    return PACKAGE.build_messages(Moment(tasks(1)[0], (), observation, ACTIONS, 0), skill)


def lengths(tokenizer: Any, prompt: int, skill: int) -> tuple[int, int]:
    """Names in an observation, and in a skill, so that a prompt has about `prompt` tokens and the
    teacher's about `skill` more."""

    def tokens(seen: int, told: int | None = None) -> int:
        text = None if told is None else words(told, 5)
        return len(render_prompt(tokenizer, chat(words(seen, 0), text)))

    seen = max(1, round(8 + (prompt - tokens(8)) * 100 / (tokens(108) - tokens(8))))
    more = tokens(8, 108) - tokens(8, 8)
    told = max(1, round(8 + (skill + tokens(8) - tokens(8, 8)) * 100 / more))
    return seen, told
