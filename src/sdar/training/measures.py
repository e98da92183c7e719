"""What is measured of a training step. Pure: everything is a function of the run alone.

Keys of metrics.jsonl, flat, a section before the slash. Gate figures are over all response tokens
of the step at once, as the loss saw them: the gate is the weight that was applied, so a centred one
may be negative.

Shape suffixes: S samples, R response tokens.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from sdar.algorithms.context import StepContext, mean_over_step
from sdar.algorithms.gates import QUANTILES, gate_by_position, gate_statistics
from sdar.algorithms.loss import TrainingLoss
from sdar.methods.declarations import Method
from sdar.ranks.ranks import Ranks
from sdar.sums import add_in_order
from sdar.training.step_batch import StepBatch

Metrics = dict[str, float | int | str]


def rollout_measures(batch: StepBatch, max_response_tokens: int) -> Metrics:
    """Success, returns, turns, validity and lengths of a step's episodes."""
    episodes, turns = batch.episodes, batch.turns
    at_limit = [len(turn.response_ids) >= max_response_tokens for turn in turns]
    measured: Metrics = {
        "train/success": _mean([e.won for e in episodes]),
        "train/return": _mean([e.episode_return for e in episodes]),
        "train/turns": _mean([len(e.turns) for e in episodes]),
        "train/samples": len(turns),
        "train/invalid_share": _mean([not turn.valid for turn in turns]),
        "train/inadmissible_share": _mean([not turn.admissible for turn in turns]),
        "train/prompt_tokens": _mean([len(turn.prompt.token_ids) for turn in turns]),
        "train/response_tokens": _mean([len(turn.response_ids) for turn in turns]),
        "train/response_limit_share": _mean(at_limit),
        "train/dropped_history": sum(turn.prompt.dropped_history for turn in turns),
        "train/cut_prompts": sum(turn.prompt.cut > 0 for turn in turns),
    }
    by_type: dict[str, list[bool]] = defaultdict(list)
    for episode in episodes:
        by_type[episode.task.task_type].append(episode.won)
    for task_type, won in by_type.items():
        measured[f"success/{task_type}"] = _mean(won)
    student_skills = {e.task.task_type: e.skill_digest for e in episodes if e.skill_digest}
    return measured | {f"student_skill/{kind}": digest for kind, digest in student_skills.items()}


def teacher_measures(batch: StepBatch) -> Metrics:
    """Which skill each task type's samples were taught with, how long the prompts were, and how
    many turns were taught, where not all were."""
    taught, measured = batch.taught, Metrics()
    if len(taught) < len(batch):
        measured["teacher/taught_share"] = len(taught) / len(batch)
    if not taught:
        return measured
    prompts = [made.prompt for _, _, made in taught]
    measured |= {
        "teacher/prompt_tokens": _mean([len(prompt.token_ids) for prompt in prompts]),
        "teacher/dropped_history": sum(prompt.dropped_history for prompt in prompts),
        "teacher/cut_prompts": sum(prompt.cut > 0 for prompt in prompts),
    }
    for owner, _, prompt in taught:
        key = f"skill_samples/{owner.task.task_type}"
        measured[key] = int(measured.get(key, 0)) + 1
        measured[f"skill/{owner.task.task_type}"] = f"{prompt.skill}@{prompt.digest}"
    return measured


@dataclass
class UpdateMeasures:
    """Collects the losses of a step's micro-batches, and gap, gate and log-prob of each token."""

    samples: int
    width: int
    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    counts: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    gradient_norms: list[float] = field(default_factory=list)
    padding_shares: list[float] = field(default_factory=list)
    skipped: int = 0

    def __post_init__(self) -> None:
        self.log_probs_SR = torch.zeros(self.samples, self.width)
        self.gap_SR: Tensor | None = None
        self.gate_SR: Tensor | None = None

    def micro_batch(
        self, rows: Sequence[int], loss: TrainingLoss, log_probs_SR: Tensor, tokens: int
    ) -> None:
        """Take in one micro-batch: `rows` are its samples, `tokens` its response tokens."""
        for name, value in loss.statistics.items():
            # Losses are shares of their minibatch and add up; the others are means over tokens.
            count = 1.0 if name.endswith("loss") else float(loss.counts.get(name, tokens))
            self.sums[name] += count * float(value)
            self.counts[name] += count
        width = log_probs_SR.shape[1]
        self.log_probs_SR[rows, :width] = log_probs_SR.detach().float().cpu()
        self.gap_SR = self._keep(self.gap_SR, rows, loss.gap)
        self.gate_SR = self._keep(self.gate_SR, rows, loss.gate)

    def minibatch(self, gradient_norm: float | None, padding_share: float) -> None:
        """Take in what an optimizer step did: the norm before clipping, None where the step was
        skipped, and padding computed."""
        if gradient_norm is None:
            self.skipped += 1
        else:
            self.gradient_norms.append(gradient_norm)
        self.padding_shares.append(padding_share)

    def over_ranks(self, ranks: Ranks) -> "UpdateMeasures":
        """The same of all ranks' micro-batches together. All ranks call it."""
        if ranks.count == 1:
            return self
        mine = dict(self.sums), dict(self.counts), self.gap_SR is None, self.gate_SR is None
        of_ranks = ranks.gather(mine)
        self.sums, self.counts = defaultdict(float), defaultdict(float)
        for sums, counts, _, _ in of_ranks:
            for name, total in sums.items():
                self.sums[name] += total
                self.counts[name] += counts[name]
        ranks.sum(self.log_probs_SR)

        def summed(kept_SR: Tensor | None, absent: Sequence[bool]) -> Tensor | None:
            if all(absent):
                return None
            # A rank without samples has none, and adds nothing.
            return ranks.sum(torch.zeros_like(self.log_probs_SR) if kept_SR is None else kept_SR)

        self.gap_SR = summed(self.gap_SR, [no_gap for _, _, no_gap, _ in of_ranks])
        self.gate_SR = summed(self.gate_SR, [no_gate for _, _, _, no_gate in of_ranks])
        return self

    def measures(self) -> Metrics:
        """Losses averaged over minibatches, the rest over tokens."""
        minibatches = max(len(self.padding_shares), 1)
        measured: Metrics = {}
        for name, total in self.sums.items():
            if name in _FROM_ALL_TOKENS or not self.counts[name]:
                continue
            over = minibatches if name.endswith("loss") else self.counts[name]
            measured[_NAMES.get(name, f"loss/{name}")] = total / over
        measured["update/gradient_norm"] = _mean(self.gradient_norms)
        measured["update/padding_share"] = _mean(self.padding_shares)
        measured["update/minibatches"] = len(self.padding_shares)
        measured["update/skipped"] = float(self.skipped)
        return measured

    def _keep(self, kept: Tensor | None, rows: Sequence[int], new: Tensor | None) -> Tensor | None:
        if new is None:
            return kept
        if kept is None:
            kept = torch.zeros(self.samples, self.width)
        kept[rows, : new.shape[1]] = new.detach().float().cpu()
        return kept


_FROM_ALL_TOKENS = ("gate_mean", "gate_active_ratio", "teacher_gap_mean")
_NAMES = {
    "loss": "loss/total",
    "policy_loss": "loss/policy",
    "distillation_loss": "loss/distillation",
    "entropy": "policy/entropy",
    "reference_kl": "policy/reference_kl",
    "approx_kl": "policy/approx_kl",
    "clip_fraction": "policy/clip_share",
    "dual_clip_fraction": "policy/dual_clip_share",
}


def gap_and_gate_measures(
    batch: StepBatch, gap_SR: Tensor | None, gate_SR: Tensor | None
) -> Metrics:
    """Gate and gap over all response tokens that were taught, by place, by task type, and on
    failures; nothing where none was."""
    mask_SR = batch.response_mask_SR & batch.taught_S[:, None]
    if gap_SR is None or not mask_SR.any():
        return {}
    has_gate = gate_SR is not None
    weight_SR = gate_SR if gate_SR is not None else torch.zeros_like(gap_SR)
    failed = torch.tensor([not owner.won for owner in batch.owners])[:, None]
    invalid = torch.tensor([not turn.valid for turn in batch.turns])[:, None]
    inadmissible = torch.tensor([not turn.admissible for turn in batch.turns])[:, None]
    parts = {"failed": failed, "invalid": invalid, "inadmissible": inadmissible}
    measured: Metrics = {}
    for name, value in gate_statistics(weight_SR, gap_SR, mask_SR, parts=parts).items():
        if name.startswith("teacher_gap_"):
            measured["gap/" + name.removeprefix("teacher_gap_")] = value
        elif name.startswith("gate_") and has_gate:
            measured["gate/" + name.removeprefix("gate_")] = value
    gaps_N = gap_SR[mask_SR].double().numpy()
    for q, value in zip(QUANTILES, np.quantile(gaps_N, QUANTILES), strict=True):
        measured[f"gap/q{round(100 * q):02d}"] = float(value)
    for place, mean in gate_by_position(gap_SR, mask_SR).items():
        measured[f"gap/position/{place}"] = mean
    if gate_SR is not None:
        for place, mean in gate_by_position(gate_SR, mask_SR).items():
            measured[f"gate/position/{place}"] = mean
    types = [owner.task.task_type for owner, _, _ in batch.taught]
    for task_type in dict.fromkeys(types):
        rows_S = torch.tensor([owner.task.task_type == task_type for owner in batch.owners])
        inside_SR = mask_SR & rows_S[:, None]
        measured[f"gap/task_type/{task_type}"] = float(gap_SR[inside_SR].double().mean())
        if gate_SR is not None:
            measured[f"gate/task_type/{task_type}"] = float(gate_SR[inside_SR].double().mean())
    return measured


def gap_size(batch: StepBatch, gap_SR: Tensor | None) -> float | None:
    """Mean |gap| over the response tokens that were taught, in nats; None where none was."""
    if gap_SR is None or not batch.taught_S.any():
        return None
    taught_SR = batch.response_mask_SR & batch.taught_S[:, None]
    return float(gap_SR[taught_SR].double().abs().mean())


def context_measures(context: StepContext, method: Method, mask_SR: Tensor) -> Metrics:
    """The step's constants of the loss, as far as the method has them."""
    measured: Metrics = {}
    if method.gate_baseline != "none":
        measured["gate/baseline"] = context.baseline
    if context.keep is not None:
        measured["gate/kept_share"] = mean_over_step(context.keep, mask_SR)
    if context.running is not None:
        measured["gap/running_q10"] = context.running.q10
        measured["gap/running_median"] = context.running.median
        measured["gap/running_q90"] = context.running.q90
    return measured


def engine_measures(engine_SR: Tensor, trainer_SR: Tensor, mask_SR: Tensor) -> Metrics:
    """|log-prob by the engine - log-prob by the trainer|: large when its weights are wrong."""
    apart_N = (engine_SR - trainer_SR)[mask_SR].abs().double()
    return {
        "policy/engine_difference": float(apart_N.mean()),
        "policy/engine_difference_max": float(apart_N.max()),
    }


def _mean(values: Sequence[float]) -> float:
    return add_in_order(values) / len(values) if values else 0.0
