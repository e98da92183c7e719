"""Whole training steps, method by method, against the slow twin of `slow_reference`.

Both sides compute in double precision, where they differ by rounding, some 1e-13, so that 1e-6 is a
sharp limit: AdamW divides each gradient by its own size and so turns a rounding error in a gradient
near zero into a visible step in single precision; in double precision the error is far below
AdamW's epsilon of 1e-8, which damps it. That the limit tells right from wrong is tested as well:
each of `MISTAKES`, made on purpose, must exceed it tenfold.

The real step plays its episodes itself, with a pool of scripted worlds. As a random policy hardly
ever wins or writes a valid action, outcomes are then drawn anew from a seed, before either side has
seen them: see `redraw_outcomes`.
"""

import copy
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import first_update
import pytest
import scripted
import slow_reference
import torch
import trainer_world
from double_precision import double_precision, in_double, precision
from slow_reference import TWINS, Sample

from sdar.config import ExperimentConfig, Layout
from sdar.environments.packages import environment_package
from sdar.files import lines
from sdar.methods.declarations import METHODS
from sdar.policy.reproducible import make_reproducible
from sdar.rollout.episode import Episode
from sdar.rollout.teacher import Teaching
from sdar.training import trainer
from sdar.training.learner import Learner
from sdar.training.parts import Parts, make_accelerator

TOLERANCE = 1e-6
TRAINED = sorted(name for name, method in METHODS.items() if method.trained)
GROUP_SIZE = 3

# One optimizer step: the policy that is trained is the one that played, every ratio is 1.
ONE_MINIBATCH = {"steps": 1, "minibatch": 64, "micro_batch": 5, "learning_rate": 1e-2}
# Two steps of several optimizer steps, far enough from the policy that played for the clips, the
# importance weights and the gap of the current forward pass to matter; with warm-up.
SEVERAL = {
    "steps": 2,
    "minibatch": 4,
    "micro_batch": 3,
    "learning_rate": 1e-2,
    "warmup_ratio": 1.0,
    "gradient_clip": 0.5,
    "dual_clip": 1.5,
    "clip_high": 0.1,
    "kl_coefficient": 0.1,
    "entropy_coefficient": 0.01,
    "distillation": {"coefficient": 0.5},
}
# What a run may choose beside that.
OTHER_CHOICES = {
    **SEVERAL,
    "steps": 1,
    "warmup_ratio": 0.0,
    "loss_aggregation": "seq-mean-token-mean",
    "statistics_over": "episodes",
    "normalize_by_std": False,
    "clip_high": 0.3,
    "weight_decay": 0.1,
    "discount": 0.8,
    "distillation": {"coefficient": 0.3, "beta": 0.8, "gate": "soft_or"},
}
# A part of the turns taught.
PARTLY = {**SEVERAL, "distillation": {"coefficient": 0.5, "share": 0.4}}
OTHERWISE = ["grpo", "sdar", "sdar_gigpo", "sdar_centred", "sdar_adaptive"]


class Worlds(scripted.ScriptedPool):
    """Worlds that look alike at the start to all episodes of a task, as real ones do."""

    def _see(self, slot: int, text: str, won: bool) -> Any:
        if text.startswith("You see"):
            text = f"You see a {scripted.PLACES[len(self.tasks[slot].id) % 4]}."
        return super()._see(slot, text, won)


@dataclass
class Real:
    """A real run: the weights before each step and after the last, and what was played."""

    method: str
    config: ExperimentConfig
    model: Any
    samples: list[list[Sample]] = field(default_factory=list)
    weights: list[dict[str, torch.Tensor]] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)


TO_SINGLE = torch.Tensor.float


@pytest.fixture(scope="module", autouse=True)
def in_double_precision():
    """Numbers are 64 bit wherever the trainer asks for the usual 32."""
    with double_precision():
        yield


@cache
def policy(dtype: torch.dtype) -> Any:
    """The scripted policy, with tokens enough that end a response for lengths to differ."""
    model = scripted.policy(seed=0, spread=1.5)
    model.generation_config.eos_token_id = list(range(2, 40))
    return model if dtype == torch.float32 else in_double(model)


def redraw_outcomes(episodes: list[Episode], step: int, config: ExperimentConfig) -> None:
    """Give episodes and turns outcomes drawn from the step's number.

    Group 0 has wins, losses and invalid actions. The episodes of group 1 have equal returns: all
    lost at step 0, where penalties alone tell its turns apart; all won at step 1, and every action
    valid, so that there is nothing to tell apart.
    """
    draw = random.Random(f"outcomes {step}")
    for episode in episodes:
        if episode.group == 0:
            place = episode.slot % GROUP_SIZE
            episode.won = place == 0 or (place > 1 and draw.random() < 0.5)
        else:
            episode.won = step > 0
        episode.episode_return = config.environment.success_reward * episode.won
        for turn in episode.turns:
            turn.valid = (episode.group == 1 and step > 0) or draw.random() < 0.6
            turn.penalty = 0.0 if turn.valid else config.environment.invalid_action_penalty


def to_samples(parts: Parts, config: ExperimentConfig, episodes: list[Episode]) -> list[Sample]:
    """Turns as the slow trainer takes them. The teacher's prompts are data here: the real ones."""
    limit = config.policy.max_teacher_prompt_tokens
    package = environment_package(config.environment.name)
    teaching = Teaching(parts.tokenizer, package, parts.skills, limit)
    turns = [(episode, turn) for episode in episodes for turn in episode.turns]
    return [
        Sample(
            prompt=list(turn.prompt.token_ids),
            response=list(turn.response_ids),
            teacher_prompt=None
            if turn.teacher is None
            else teaching.prompt(episode.task, turn).prompt.token_ids,
            group=episode.group,
            episode=episode.slot,
            turn=turn.moment.index,
            last=turn.moment.index == len(episode.turns) - 1,
            episode_return=episode.episode_return,
            penalty=turn.penalty,
            valid=turn.valid,
            won=episode.won,
            observation=turn.moment.observation,
        )
        for episode, turn in turns
    ]


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """`real(method, settings)`: the run of the real trainer, once for all tests that look at it."""
    runs: dict[str, Real] = {}

    def run(method: str, settings: dict[str, Any], temperature: float = 1.0) -> Real:
        key = f"{method} {temperature} {settings}"
        if key not in runs:
            root, model = tmp_path_factory.mktemp(method), policy(torch.float64)
            runs[key] = real_run(root, model, method, settings, temperature)
        return runs[key]

    return run


def real_run(
    root: Path, model: Any, method: str, settings: dict[str, Any], temperature: float = 1.0
) -> Real:
    config = trainer_world.configuration(
        tasks_per_step=2, group_size=GROUP_SIZE, recorded_episodes=1, **settings
    )
    rollout = config.rollout.model_copy(update={"temperature": temperature})
    config = config.model_copy(update={"rollout": rollout})
    parts = Parts(
        model=copy.deepcopy(model),
        tokenizer=scripted.tokenizer(),
        pool=Worlds(modulus=6),
        tasks=scripted.tasks(5),
        skills=trainer_world.Skills(),
        inputs={},
    )
    real = Real(method, config, model)
    play = Learner.rollout

    def played(learner: Learner, step: int, *rest: Any, **named: Any) -> list[Episode]:
        real.weights.append(copy.deepcopy(parts.model.state_dict()))
        episodes = play(learner, step, *rest, **named)
        redraw_outcomes(episodes, step, config)
        samples = to_samples(parts, config, episodes)
        real.samples.append(samples)
        return episodes

    make_reproducible(threads=1)
    layout = Layout(root, config.experiment)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "rollout", played)
        # Asking for the versions of all packages takes as long as a step, and is not looked at.
        patch.setattr(trainer, "write_provenance", lambda *_, **__: None)
        trainer.train_with(parts, config, layout, method, 0, make_accelerator(config))
    real.weights.append(copy.deepcopy(parts.model.state_dict()))
    real.metrics = lines.read(layout.run(method, 0) / "metrics.jsonl")
    return real


def slow_twin(run: Real, kind: Any = None) -> Any:
    if kind is None and run.method not in TWINS:
        pytest.fail(
            f"method {run.method!r} has no slow twin: write its formulas anew as a class in "
            "tests/slow_reference.py and name it in TWINS"
        )
    kind = kind or TWINS[run.method]
    return kind(run.model, run.config.training, run.config.rollout.temperature)


def differences(run: Real, slow: Any) -> Iterator[float]:
    """Largest difference of any parameter, after each step."""
    for number, samples in enumerate(run.samples):
        slow.step(number, samples)
        weights = slow.model.state_dict()
        after = run.weights[number + 1]
        assert weights.keys() == after.keys()
        yield max(float((weights[name] - after[name]).abs().max()) for name in weights)


def test_twins_are_twins_of_methods():
    assert sorted(TWINS) == TRAINED


@pytest.mark.parametrize("method", TRAINED)
def test_one_step_of_one_minibatch(method, real):
    run = real(method, ONE_MINIBATCH)
    assert max(differences(run, slow_twin(run))) < TOLERANCE


@pytest.mark.parametrize("method", TRAINED)
def test_steps_of_several_minibatches(method, real):
    run = real(method, SEVERAL)
    assert run.metrics[0]["update/minibatches"] >= 3
    assert max(differences(run, slow_twin(run))) < TOLERANCE


@pytest.mark.parametrize("method", [name for name in TRAINED if METHODS[name].needs_teacher])
def test_steps_of_which_a_part_is_taught(method, real):
    run = real(method, PARTLY)
    for samples, metrics in zip(run.samples, run.metrics, strict=True):
        taught = [sample.teacher_prompt is not None for sample in samples]
        assert {True, False} == set(taught)
        assert metrics["teacher/taught_share"] == sum(taught) / len(taught)
    assert max(differences(run, slow_twin(run))) < TOLERANCE


@pytest.mark.parametrize("method", OTHERWISE)
def test_other_choices_of_a_run(method, real):
    run = real(method, OTHER_CHOICES, temperature=0.8)
    assert max(differences(run, slow_twin(run))) < TOLERANCE


def test_the_world_puts_every_part_to_work(real):
    """What the comparisons above rest on: were it not so, they would hold for lesser reasons."""
    run = real("sdar", SEVERAL)
    first, second = run.samples
    assert len({len(sample.response) for sample in first}) > 3
    for group, outcomes in ((0, {True, False}), (1, {False})):
        assert {sample.won for sample in first if sample.group == group} == outcomes
    assert {sample.valid for sample in first} == {True, False}
    assert all(sample.won and sample.valid for sample in second if sample.group == 1)
    for group in (0, 1):
        ends = [sample.turn for sample in first if sample.group == group and sample.last]
        assert min(ends) == 0
        assert max(ends) > 1
    slow = slow_twin(run)
    measured = [slow.step(number, samples) for number, samples in enumerate(run.samples)]
    for step, metrics in zip(measured, run.metrics, strict=True):
        assert min(step.ratios) < 0.8
        assert max(step.ratios) > run.config.training.dual_clip
        assert min(step.gaps) < -1
        assert max(step.gaps) > 1
        assert max(step.gradient_norms) > run.config.training.gradient_clip
        assert metrics["policy/clip_share"] > 0


def test_metrics_of_a_step_are_those_of_the_slow_step(real):
    run = real("sdar", SEVERAL)
    slow = slow_twin(run)
    for number, samples in enumerate(run.samples):
        measured, metrics = slow.step(number, samples), run.metrics[number]
        expected = {
            "loss/policy": slow_reference.mean(measured.policy),
            "loss/distillation": slow_reference.mean(measured.distillation),
            "gap/mean": slow_reference.mean(measured.gaps),
            "gate/mean": slow_reference.mean(measured.gates),
            "gate/mass_failed": sum(measured.gates_of_failures) / sum(measured.gates),
            "update/gradient_norm": slow_reference.mean(measured.gradient_norms),
        }
        assert {name: metrics[name] for name in expected} == pytest.approx(
            expected, abs=TOLERANCE, rel=0
        )


def test_in_single_precision_the_trainer_differs_by_rounding(tmp_path):
    """The trainer as it runs, so that nothing above rests on its being run in double precision."""
    with precision(torch.float32, TO_SINGLE):
        run = real_run(tmp_path, policy(torch.float32), "sdar", ONE_MINIBATCH)
    assert {weight.dtype for weight in run.weights[-1].values()} == {torch.float32}
    run.model = in_double(run.model)
    slow = slow_twin(run)
    slow.step(0, run.samples[0])
    # The gradient, and weights on the whole: see `first_update` on single ones.
    parameters = sorted(slow.model.parameters(), key=lambda p: p.dim() < 2)  # as the trainer's
    expected = {n: slow.optimizer.state[p]["exp_avg"] for n, p in enumerate(parameters)}
    ours = first_update.gradients(Layout(tmp_path, run.config.experiment).run("sdar", 0))
    assert {gradient.dtype for gradient in ours.values()} == {torch.float32}
    assert first_update.difference(ours, expected) < 1e-5
    moved = [(w - run.weights[-1][n]).abs().flatten() for n, w in slow.model.state_dict().items()]
    assert torch.cat(moved).mean() < 1e-3 * run.config.training.learning_rate


# A mistake a line: a method's twin with one thing in it wrong. The comparison must see each.

Mistake = tuple[str, dict[str, Any]]
MISTAKES: dict[str, Mistake] = {
    "no importance ratio": ("grpo", {"surrogate": lambda self, t: -t.advantage * t.now}),
    "ratio not clipped": (
        "grpo",
        {"surrogate": lambda self, t: -t.advantage * torch.exp(t.now - t.old)},
    ),
    "gradient not clipped": ("grpo", {"clip_gradient": lambda self: 0.0}),
    "vectors decay": ("grpo", {"decays": lambda self, parameter: True}),
    "no warm-up": ("grpo", {"learning_rate": lambda self: self.training.learning_rate}),
    "no penalty": ("grpo", {"score": lambda self, sample: sample.episode_return}),
    "anchored to nothing": ("grpo", {"anchor": lambda self, t: torch.tensor(0.0)}),
    "mean by micro-batches of one sample": (
        "grpo",
        {"weight": lambda self, length, lengths: 1 / len(lengths) / length},
    ),
    "order of minibatches": (
        "grpo",
        {"minibatches": lambda self, samples: slow_reference.Grpo.minibatches(self, samples)[::-1]},
    ),
    "gate not stopped": (
        "sdar",
        {"stop": lambda self, gate: gate, "gap": lambda self, t: t.teacher - t.now},
    ),
    "gap of the policy that played": ("sdar", {"gap": lambda self, t: t.old_gap}),
    "constant gate": ("sdar", {"fixed_gate": "none"}),
    "with a policy term": ("opsd", {"policy_coefficient": 1.0}),
    "another coefficient": ("skill_sd", {"coefficient": None}),
    "importance weight stopped": (
        "skill_sd",
        {"term": lambda self, t: torch.exp(t.now.detach() - t.old) * self.k3(t)},
    ),
    "gap not stopped": ("reverse_kl", {"gap": lambda self, t: t.teacher - t.now}),
    "mix does not fall": ("rlsd", {"mix": lambda self: 0.5}),
    "usual clip range": ("agent_opsd", {"fixed_clip_high": None}),
    "evidence not discounted": ("agent_opsd", {"discount": 1.0}),
    "prior of one half": ("agent_opsd", {"prior": lambda self, sample, samples: 0.5}),
    "alike across groups": (
        "gigpo",
        {"alike": lambda self, sample, other: sample.observation == other.observation},
    ),
    "student's own weight stopped": (
        "reverse_kl_full",
        {"term": lambda self, t: (t.now_V.detach().exp() * (t.now_V - t.teacher_V)).sum()},
    ),
    "sampled tokens alone": (
        "reverse_kl_full",
        {"term": lambda self, t: -self.gap(t) * t.now},
    ),
    "centred on one half": (
        "sdar_centred",
        {"look_at_step": lambda self, tokens: setattr(self, "baseline", 0.5)},
    ),
    "quantiles of the step alone": ("sdar_adaptive", {"keep": 0.0}),
    "invalid not opposed": ("sdar_objective", {"opposed": lambda self, t: t.advantage < 0}),
    "worse not opposed": ("sdar_objective", {"opposed": lambda self, t: not t.valid}),
    "even is opposed": (
        "sdar_objective",
        {"opposed": lambda self, t: t.advantage <= 0 or not t.valid},
    ),
}
MISTAKES_WHERE_A_PART_IS_TAUGHT: dict[str, Mistake] = {
    "not made up for": ("sdar", {"share": lambda self: 1.0}),
    "credit not made up for": ("rlsd", {"share": lambda self: 1.0}),
    "a turn's credit not made up for": ("agent_opsd", {"share": lambda self: 1.0}),
}
MISTAKES_IN_OTHER_CHOICES: dict[str, Mistake] = {
    "mean over tokens": ("grpo", {"weight": lambda self, length, lengths: 1 / sum(lengths)}),
    "divided by the deviation": (
        "grpo",
        {
            "standardised": lambda self, value, values: (
                (value - slow_reference.mean(values)) / (slow_reference.deviation(values) + 1e-6)
            )
        },
    ),
    "gap gate": ("sdar", {"fixed_gate": "gap"}),
    "returns not discounted": (
        "sdar_gigpo",
        {"discounted": lambda self, sample, samples: self.score(sample)},
    ),
    "baseline of the gap gate": (
        "sdar_centred",
        {
            "look_at_step": lambda self, tokens: setattr(
                self,
                "baseline",
                slow_reference.mean(float(torch.sigmoid(0.8 * t.old_gap)) for t in tokens),
            )
        },
    ),
    "no floor": ("sdar_adaptive", {"floor": lambda self: 0.0}),
}


def shows(run: Real, wrong: dict[str, Any]) -> bool:
    mistaken = slow_twin(run, type("Mistaken", (TWINS[run.method],), wrong))
    return any(difference > 10 * TOLERANCE for difference in differences(run, mistaken))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_shows(mistake, real):
    method, wrong = MISTAKES[mistake]
    assert shows(real(method, SEVERAL), wrong)


@pytest.mark.parametrize("mistake", MISTAKES_IN_OTHER_CHOICES)
def test_mistake_in_other_choices_shows(mistake, real):
    method, wrong = MISTAKES_IN_OTHER_CHOICES[mistake]
    assert shows(real(method, OTHER_CHOICES, temperature=0.8), wrong)


@pytest.mark.parametrize("mistake", MISTAKES_WHERE_A_PART_IS_TAUGHT)
def test_mistake_where_a_part_is_taught_shows(mistake, real):
    method, wrong = MISTAKES_WHERE_A_PART_IS_TAUGHT[mistake]
    assert shows(real(method, PARTLY), wrong)
