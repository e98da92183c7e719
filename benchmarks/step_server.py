"""One real training step, again and again from the same weights: a process that is asked for it.

    python benchmarks/step_server.py JSON      (see step_protocol.py; passes_speed.py starts it)

Opens what `sdar train` opens for a method and a seed, from a root whose warm start is complete, and
answers to these words with seconds, each time from the weights and the optimizer of the start:

    step       the trainer's own `training_step`: rollout, log-probs, update
    old, teacher, reference, update     that part of the step, with the arguments it had there
    rollout    the step's episodes alone
    generate   the same episodes, token for token, with transformers' `generate`, turn by turn
    prompts    no seconds: the step's prompts and lengths, for another trainer

JSON: `values` of a configuration, `root`, `method`, `seed`, `step`; `skill_times` gives the teacher
skills of so many times the student's prompt. The source of the commit 165e9f3 is served, too: so
what is imported here has to be there, or has another place named.
"""

import copy
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from step_protocol import READY, main_arguments, private_output, serve, stopwatch

from sdar.clock import PhaseClock
from sdar.config import Layout, parse_config
from sdar.training.learner import Learner
from sdar.training.trainer import training_step

try:
    from sdar.policy.reproducible import make_reproducible
    from sdar.training.parts import make_accelerator, open_parts, trained_method
except ImportError:  # as it was at 165e9f3
    from sdar.training.run import (  # type: ignore[no-redef, import-not-found]
        make_accelerator,
        make_reproducible,
        open_parts,
        trained_method,
    )

PARTS = {
    "old": "score_old",
    "teacher": "score_teacher",
    "reference": "score_reference",
    "update": "update",
}
"""Words for parts of a step, and the learner's method that computes each."""


class StartOfStep:
    """Weights, optimizer and what else a step changes, as they are now."""

    def __init__(self, learner: Any) -> None:
        self.learner = learner
        self.weights = [p for p in learner.parts.model.parameters() if p.requires_grad]
        self.values = [weight.detach().clone() for weight in self.weights]
        self.optimizer = copy.deepcopy(learner.optimizer.state_dict())
        self.state = copy.deepcopy(learner.state())

    @torch.no_grad()
    def restore(self) -> None:
        for weight, value in zip(self.weights, self.values, strict=True):
            weight.copy_(value)
        self.learner.optimizer.load_state_dict(copy.deepcopy(self.optimizer))
        self.learner.restore(copy.deepcopy(self.state))


def record_parts(learner: Any, step: int) -> tuple[Any, dict[str, tuple[Any, ...]]]:
    """A step, and what each part of it was called with, by `PARTS`."""
    arguments: dict[str, tuple[Any, ...]] = {}
    for word, name in PARTS.items():
        own = getattr(learner, name)

        def noting(*given: Any, word: str = word, own: Any = own) -> Any:
            arguments[word] = given
            return own(*given)

        setattr(learner, name, noting)
    try:
        return training_step(learner, step), arguments
    finally:
        for name in PARTS.values():
            delattr(learner, name)


class LongerSkills:
    """As a skill library, with each text repeated until it has so many tokens."""

    def __init__(self, skills: Any, tokenizer: Any, tokens: int) -> None:
        self.skills, self.tokenizer, self.tokens = skills, tokenizer, tokens

    def for_task(self, task: Any) -> Any:
        skill = self.skills.for_task(task)
        ids = self.tokenizer(skill.text, add_special_tokens=False)["input_ids"]
        times = -(-self.tokens // len(ids))
        return replace(skill, text=self.tokenizer.decode((ids * times)[: self.tokens]))


class Steps:
    """Does what a word asks for."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.config = parse_config(given["values"])
        method = trained_method(given["method"])
        self.step, threads = int(given["step"]), self.config.execution.threads
        make_reproducible(threads)
        accelerator = make_accelerator(self.config)
        layout = Layout(Path(given["root"]), self.config.experiment)
        parts = open_parts(self.config, layout, accelerator.device)
        self.learner: Any = Learner.prepare(
            parts, self.config, method, int(given["seed"]), accelerator
        )
        self.start = StartOfStep(self.learner)
        self.clocks = stopwatch(threads)
        self.done = self._record()
        if times := given.get("skill_times"):
            tokens = round(
                times * statistics.mean(len(_prompt(turn)) for turn in _turns(self.done))
            )
            parts.skills = LongerSkills(parts.skills, parts.tokenizer, tokens)
            self.done = self._record()

    def close(self) -> None:
        self.learner.close()
        self.learner.parts.pool.close()

    def do(self, word: str) -> dict[str, Any]:
        if word == READY:
            return self.work()
        if word == "prompts":
            return self.prompts()
        if word == "step":
            phases = {}

            def run() -> None:
                done = training_step(self.learner, self.step)
                phases.update(done.clock.seconds)

            return self._time(run) | {"phases": phases}
        if word == "rollout":
            return self._time(lambda: self.learner.rollout(self.step, PhaseClock()))
        if word == "generate":
            return self._time(self._generate())
        compute, arguments = getattr(self.learner, PARTS[word]), self.arguments[word]
        return self._time(lambda: compute(*arguments))

    def work(self) -> dict[str, Any]:
        """What a step of these is."""
        turns = _turns(self.done)
        if hasattr(self.done, "teacher"):  # as it was at 165e9f3
            taught = list(self.done.teacher)
        else:
            taught = [made for _, _, made in self.done.batch.taught]
        return {
            "samples": len(turns),
            "tokens": sum(self.done.batch.lengths()),
            "prompt_tokens_mean": _mean(len(_prompt(turn)) for turn in turns),
            "response_tokens_mean": _mean(len(turn.response_ids) for turn in turns),
            "teacher_prompt_tokens_mean": _mean(len(_prompt(entry)) for entry in taught),
            "taught": len(taught),
            "distinct_prompts": len({tuple(_prompt(turn)) for turn in turns}),
        }

    def prompts(self) -> dict[str, Any]:
        turns = _turns(self.done)
        return {
            "prompts": [_prompt(turn) for turn in turns],
            "responses": [len(turn.response_ids) for turn in turns],
        }

    def _time(self, run: Callable[[], Any]) -> dict[str, Any]:
        self.start.restore()
        before = self.clocks()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        after = self.clocks()
        return {
            "wall": after[0] - before[0],
            "cpu": after[1] - before[1],
            "tokens": sum(self.done.batch.lengths()),
        }

    def _record(self) -> Any:
        """Play the step once, and keep what its parts were called with."""
        self.start.restore()
        done, self.arguments = record_parts(self.learner, self.step)
        return done

    def _generate(self) -> Callable[[], Any]:
        from generate_engine import GenerateEngine

        learner = self.learner
        said = {
            (episode.slot, turn.moment.index): list(turn.response_ids)
            for episode in self.done.batch.episodes
            for turn in episode.turns
        }
        engine = GenerateEngine(learner.parts.model, learner.parts.tokenizer, said)
        turns = {"rollout": self.config.rollout.model_copy(update={"schedule": "turns"})}
        playing = replace(
            learner.playing, engine=engine, config=self.config.model_copy(update=turns)
        )

        def play() -> None:
            own = learner.playing
            learner.playing = playing
            try:
                learner.rollout(self.step, PhaseClock())
            finally:
                learner.playing = own

        return play


def _turns(done: Any) -> list[Any]:
    return [turn for episode in done.batch.episodes for turn in episode.turns]


def _prompt(entry: Any) -> list[int]:
    """The tokens of a turn's prompt, or the teacher's."""
    if hasattr(entry, "prompt_ids"):  # as it was at 165e9f3
        return list(entry.prompt_ids)
    return list(entry.prompt.token_ids)


def _mean(counts: Any) -> float | None:
    known = list(counts)
    return round(statistics.mean(known), 1) if known else None


def main() -> None:
    with private_output() as answers:
        steps = Steps(main_arguments())
        try:
            serve(steps.do, sys.stdin, answers)
        finally:
            steps.close()


if __name__ == "__main__":  # an environment's workers import this file again
    main()
