"""How many tokens of a step begin like others: what computing equal beginnings once would save.

    python benchmarks/prefix_shares.py [EXPERIMENT.yaml ...] [--mistakes .3] [--data FOLDER]

Without a model: the environment's expert plays the episodes of one training step, some turns with a
possible action that nobody asked for, and samples of a group err apart. Each prompt goes into a
trie over token ids, whose nodes are tokens in their contexts; a response's tokens are all its own,
for sampled thoughts differ. Per experiment and prompt layout: distinct prompts, tokens, nodes as
share of them (student, teacher), and the teacher's nodes per node of the student's. Tokens are
those of a tiny policy's tokenizer, trained on these very texts.
"""

import argparse
import random
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from sdar.config import ExperimentConfig, Layout, load_config
from sdar.environments.base import Moment, PastTurn, Task
from sdar.environments.chat import Message, PromptLayout
from sdar.environments.packages import environment_package
from sdar.environments.tasks import make_tasks, read_knowledge, read_tasks
from sdar.policy.chat import ChatFormat
from sdar.policy.tokenizer import train_tokenizer
from sdar.skills.library import SkillLibrary

EXPERIMENTS = ("alfworld", "webshop", "searchqa", "textworld-express")
TINY = {"alfworld": "config/config.yaml"}


@dataclass(frozen=True)
class Taken:
    """One turn: what there was to see, and the response."""

    moment: Moment
    response: str


class Trie:
    """Sequences of token ids; counts what was put in, and the nodes that hold it."""

    def __init__(self) -> None:
        self.tokens = self.own = 0
        self._children: list[dict[int, int]] = [{}]

    @property
    def nodes(self) -> int:
        return len(self._children) - 1 + self.own

    def add(self, ids: Sequence[int], own: int) -> None:
        """A sequence, and `own` tokens behind it that no other sequence has."""
        self.tokens += len(ids) + own
        self.own += own
        node = 0
        for token in ids:
            following = self._children[node]
            if token not in following:
                following[token] = len(self._children)
                self._children.append({})
            node = following[token]


def play(
    config: ExperimentConfig, layout: Layout, tasks: Sequence[Task], mistakes: float
) -> list[Taken]:
    """The turns of `tasks` by the expert, which is not told the habits."""
    environment = config.environment
    package = environment_package(environment.name)
    if environment.plays_data:
        make = package.experts(environment, layout.tasks)
    taken = []
    with closing(package.open_pool(environment, layout.tasks)) as pool:
        for number, task in enumerate(tasks):
            draw = random.Random(f"{number}/{task.id}")
            seen = pool.reset({0: task})[0]
            if environment.plays_data:
                expert: Any = make(task, seen, number)
            else:
                expert = package.expert(task, seen, None)
            past: list[PastTurn] = []
            for _ in range(environment.max_turns):
                moment = Moment.after(past, task, seen, window=environment.history)
                thought, action = expert.act()
                if draw.random() < mistakes:
                    action = package.mistake(task, seen, draw)
                taken.append(Taken(moment, package.response(thought, action)))
                past.append(PastTurn(seen.text, action))
                seen = pool.step({0: action})[0]
                expert.observe(action, seen)
                if seen.done or seen.won:
                    break
    return taken


def chats(
    config: ExperimentConfig, turns: Sequence[Taken], layout: PromptLayout, skills: Any
) -> list[list[Message]]:
    """The turns' prompts: the student's, or with the skills the teacher's."""
    package = environment_package(config.environment.name)
    return [
        package.build_messages(
            replace(turn.moment, layout=layout),
            None if skills is None else skills.lookup(turn.moment.task.task_type).text,
        )
        for turn in turns
    ]


def count(tokenizer: Any, prompts: Sequence[list[Message]], turns: Sequence[Taken]) -> Trie:
    trie = Trie()
    chat = ChatFormat.of(tokenizer)
    for prompt, turn in zip(prompts, turns, strict=True):
        response = tokenizer(turn.response, add_special_tokens=False)["input_ids"]
        trie.add(chat.prompt_ids(prompt), len(response) + 1)  # and the end of the turn
    return trie


def measure(path: Path, mistakes: float, data: Path | None) -> list[str]:
    """The rows of one experiment, one per layout."""
    config = load_config(path)
    if data is not None:
        section = config.environment.model_copy(update={"data": data})
        config = config.model_copy(update={"environment": section})
    with tempfile.TemporaryDirectory() as folder:
        layout = Layout(Path(folder), config.experiment)
        make_tasks(config.environment, config.evaluation.panels, layout)
        training, draw = config.training, random.Random(0)
        split = read_tasks(layout, "train")
        chosen = draw.sample(split, min(training.tasks_per_step, len(split)))
        groups = [task for task in chosen for _ in range(training.group_size)]
        turns = play(config, layout, groups, mistakes)
        knowledge = read_knowledge(config.environment, layout)
    skills = SkillLibrary(config.skills.library, knowledge, config.environment.name)
    rows = []
    for order in get_args(PromptLayout):
        student, teacher = (chats(config, turns, order, told) for told in (None, skills))
        texts = [
            "".join(f"<|im_start|>{each['role']}\n{each['content']}<|im_end|>\n" for each in prompt)
            + f"<|im_start|>assistant\n{turn.response}<|im_end|>"
            for prompt, turn in zip(teacher, turns, strict=True)
        ]
        names = environment_package(config.environment.name).names()
        tiny = config.policy.tiny
        tokenizer = train_tokenizer(texts, tiny.vocabulary, tiny.context, names)
        of_student, of_teacher = (count(tokenizer, each, turns) for each in (student, teacher))
        distinct = len({prompt[-1]["content"] for prompt in student})
        shares = [each.nodes / each.tokens for each in (of_student, of_teacher)]
        rows.append(
            f"| {config.experiment} | {order} | {len(turns)} | {distinct / len(turns):.2f} "
            f"| {of_student.tokens:,} / {of_teacher.tokens:,} | {shares[0]:.2f} | {shares[1]:.2f} "
            f"| {of_teacher.nodes / of_student.nodes:.2f} |"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    usual = [Path(TINY.get(e, f"config/experiments/{e}-tiny.yaml")) for e in EXPERIMENTS]
    parser.add_argument("experiments", type=Path, nargs="*", default=usual)
    parser.add_argument("--mistakes", type=float, default=0.3)
    parser.add_argument("--data", type=Path, help="play these data (environment.data)")
    given = parser.parse_args()
    print("| experiment | layout | samples | distinct | tokens | student | teacher | ratio |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    for path in given.experiments:
        for row in measure(path, given.mistakes, given.data):
            print(row, flush=True)


if __name__ == "__main__":
    main()
