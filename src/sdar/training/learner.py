"""The policy in training: playing, scoring and updating with one set of weights.

Shape suffixes: S samples (turns of all episodes of a step), R response tokens.
"""

import copy
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sdar.algorithms.aggregation import global_denominator
from sdar.algorithms.context import GapQuantiles, StepContext
from sdar.algorithms.execution import (
    AdvantageSettings,
    LossSettings,
    StepSamples,
    step_context,
    training_loss,
)
from sdar.algorithms.methods import Method
from sdar.clock import PhaseClock
from sdar.config import ExperimentConfig
from sdar.environments.base import Task
from sdar.policy.batches import pad_batch, padding_share, plan_micro_batches, split_evenly
from sdar.policy.log_probs import (
    PolicyScorer,
    Scores,
    TeacherDistribution,
    copied_head,
    score_responses,
)
from sdar.rollout.collector import RolloutProgress, RolloutSettings, collect
from sdar.rollout.engines.base import RemoteWeights
from sdar.rollout.engines.opening import close_engine, open_engine
from sdar.rollout.episode import Episode
from sdar.training.batches import StepBatch, tasks_of_step
from sdar.training.measures import UpdateMeasures
from sdar.training.run import Parts, learning_rate_at, make_optimizer

CPU_MICRO_BATCH_TOKENS = 4096
"""Padded tokens of a pass on a CPU: what stays in its caches. On a GPU `micro_batch` alone cuts."""


@dataclass
class Learner:
    """What a training step works with."""

    parts: Parts
    config: ExperimentConfig
    method: Method
    seed: int
    accelerator: Any
    scorer: Any
    optimizer: Any
    engine: Any
    reference: PolicyScorer | None
    """The frozen policy the KL term holds the student to; None when that term is off."""
    running: GapQuantiles | None = None
    """What the run keeps from step to step beside weights and optimizer, for the adaptive gate."""

    @classmethod
    def prepare(
        cls, parts: Parts, config: ExperimentConfig, method: Method, seed: int, accelerator: Any
    ) -> "Learner":
        """Put policy and optimizer on the device, and freeze the reference if it is needed."""
        temperature, training = config.rollout.temperature, config.training
        reference = None
        if training.kl_coefficient != 0:
            reference = PolicyScorer(_frozen_copy(parts.model), temperature=temperature)
        optimizer = make_optimizer(parts.model, training.learning_rate, training.weight_decay)
        scorer, optimizer = accelerator.prepare(
            PolicyScorer(parts.model, temperature=temperature), optimizer
        )
        parts.model.eval()  # no dropout: what is sampled and what is trained are one policy
        engine = open_engine(
            config,
            parts.model,
            parts.tokenizer,
            trusted=partial(_probe_scores, scorer, accelerator),
            rank=accelerator.process_index,
        )
        return cls(parts, config, method, seed, accelerator, scorer, optimizer, engine, reference)

    def close(self) -> None:
        """End the engine."""
        close_engine(self.engine)

    def tasks(self, step: int) -> tuple[list[Task], list[int]]:
        """The step's tasks, each as often as its group is large, and the group numbers."""
        training = self.config.training
        return tasks_of_step(
            self.parts.tasks, training.tasks_per_step, training.group_size, self.seed, step
        )

    def rollout(self, step: int, clock: PhaseClock, bar: Any = None) -> list[Episode]:
        """Play the step's episodes with the current weights."""

        def show(progress: RolloutProgress) -> None:
            if bar is not None:
                playing = f"{progress.live} playing, {progress.won} won"
                bar.set_postfix_str(f"turn {progress.turn}, {playing}", refresh=sys.stderr.isatty())

        with_skill = self.method.rollout_with_skill
        tasks, groups = self.tasks(step)
        if isinstance(self.engine, RemoteWeights):
            with clock("weights"):
                self.engine.take_weights(self.parts.model.state_dict().items(), step)
        with self.accelerator.autocast():
            episodes = collect(
                self.engine,
                self.parts.tokenizer,
                self.parts.pool,
                tasks,
                groups,
                settings=RolloutSettings.from_config(self.config, skill=with_skill),
                skills=self.parts.skills if with_skill else None,
                seed=self.seed,
                step=step,
                on_progress=show,
                clock=clock,
            )
        if not self._engine_scores:
            self._rest()
        return episodes

    @property
    def _engine_scores(self) -> bool:
        by_engine = self.config.training.distillation.scored_by == "engine"
        return by_engine and self.method.needs_teacher

    def _rest(self) -> None:
        """The engine's work of this step is done: its memory is the trainer's."""
        if isinstance(self.engine, RemoteWeights):
            self.engine.sleep()

    def score(self, batch: StepBatch, prompts: list[list[int]], scorer: Any = None) -> Tensor:
        """Log-probs `[S, R]` of the sampled tokens after `prompts`, without gradient, on the CPU;
        by the current weights, or by another scorer."""
        return self._scores(batch, prompts, scorer).log_probs

    def score_old(self, batch: StepBatch) -> tuple[Tensor, Tensor | None]:
        """As `score`, after the student's prompts, and the entropy where the method's gate needs
        that of the step's start."""
        entropy = self.method.needs_old_entropy(self.config.training.distillation.gate)
        scores = self._scores(batch, batch.prompts, entropy=entropy)
        return scores.log_probs, scores.entropy

    def score_teacher(
        self, batch: StepBatch, prompts: list[list[int]]
    ) -> tuple[Tensor, TeacherDistribution | None]:
        """As `score`, after the teacher's prompts, and its distributions over the vocabulary where
        the method needs them."""
        if self._engine_scores:
            scored = self.engine.score(prompts, batch.responses)
            self._rest()
            return pad_sequence([torch.tensor(row) for row in scored], batch_first=True), None
        whole = self.method.needs_teacher_distribution
        scores = self._scores(batch, prompts, hidden=whole)
        if scores.hidden is None:
            return scores.log_probs, None
        with self.accelerator.autocast():
            head = copied_head(self.parts.model)
        tokens = tuple(map(len, batch.responses))
        return scores.log_probs, TeacherDistribution(head, scores.hidden, tokens)

    def _scores(
        self, batch: StepBatch, prompts: list[list[int]], scorer: Any = None, **more: bool
    ) -> Scores:
        with self.accelerator.autocast():
            return score_responses(
                self.scorer if scorer is None else scorer,
                prompts,
                batch.responses,
                micro_batch=self.config.training.micro_batch,
                micro_batch_tokens=self.micro_batch_tokens,
                device=self.accelerator.device,
                **more,
            )

    def look_at_step(self, samples: StepSamples, advantages_SR: Tensor) -> StepContext:
        """The step's constants of the loss; takes the step into what the run keeps of the gaps."""
        context = step_context(
            self.method, self.loss_settings(), samples, advantages_SR, self.running
        )
        self.running = context.running
        return context

    def state(self) -> dict[str, Any]:
        """For the checkpoint: what a resumed run needs beside weights and optimizer."""
        return {"running_gap": None if self.running is None else self.running.to_state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave when the checkpoint was written."""
        saved = state.get("running_gap")
        self.running = None if saved is None else GapQuantiles.from_state(saved)

    @property
    def micro_batch_tokens(self) -> int | None:
        return CPU_MICRO_BATCH_TOKENS if self.accelerator.device.type == "cpu" else None

    def update(
        self,
        step: int,
        batch: StepBatch,
        old_SR: Tensor,
        teacher_SR: Tensor | None,
        reference_SR: Tensor | None,
        advantages_SR: Tensor,
        context: StepContext | None = None,
        distribution: TeacherDistribution | None = None,
    ) -> UpdateMeasures:
        """One pass over the samples, minibatch after minibatch, an optimizer step for each.

        Micro-batches are a matter of memory and speed: the loss of each is divided by what the
        whole minibatch is divided by. `context` (`look_at_step`) and `distribution`
        (`score_teacher`) are for the methods that need them.
        """
        training, accelerator = self.config.training, self.accelerator
        settings = self.loss_settings()
        measures = UpdateMeasures(len(batch), batch.response_mask_SR.shape[1])
        lengths = batch.lengths()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(step, self.config)
        for minibatch in split_evenly(len(batch), training.minibatch):
            mask_SR = batch.response_mask_SR[minibatch.start : minibatch.stop]
            denominator = float(global_denominator(mask_SR, training.loss_aggregation))
            plan = plan_micro_batches(
                [lengths[i] for i in minibatch], training.micro_batch, self.micro_batch_tokens
            )
            for rows in ([minibatch[i] for i in part] for part in plan):
                tokens = pad_batch(
                    [batch.prompts[i] for i in rows],
                    [batch.responses[i] for i in rows],
                    accelerator.device,
                )
                width = tokens.mask_SR.shape[1]

                def of_rows(values_SR: Tensor, rows: Any = rows, width: int = width) -> Tensor:
                    return values_SR[rows, :width].to(accelerator.device)

                teacher = None
                if distribution is not None:
                    teacher = distribution.of(rows, accelerator.device)
                scores = self.scorer(tokens, entropy=True, teacher=teacher)
                loss = training_loss(
                    self.method,
                    settings,
                    log_probs=scores.log_probs,
                    old_log_probs=of_rows(old_SR),
                    advantages=of_rows(advantages_SR),
                    response_mask=tokens.mask_SR,
                    teacher_log_probs=None if teacher_SR is None else of_rows(teacher_SR),
                    reference_log_probs=None if reference_SR is None else of_rows(reference_SR),
                    entropy=scores.entropy,
                    teacher_divergence=scores.divergence,
                    context=None if context is None else context.of(of_rows),
                    denominator=denominator,
                )
                accelerator.backward(loss.loss)
                measures.micro_batch(rows, loss, scores.log_probs, int(tokens.mask_SR.sum()))
            norm = accelerator.clip_grad_norm_(self.scorer.parameters(), training.gradient_clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
            measures.minibatch(float(norm), padding_share([lengths[i] for i in minibatch], plan))
        return measures

    def advantage_settings(self) -> AdvantageSettings:
        """The run's part of the advantages."""
        training = self.config.training
        return AdvantageSettings(
            statistics_over=training.statistics_over,
            normalize_by_std=training.normalize_by_std,
            discount=training.discount,
        )

    def loss_settings(self) -> LossSettings:
        """The run's part of the loss."""
        training = self.config.training
        return LossSettings(
            clip_low=training.clip_low,
            clip_high=training.clip_high,
            dual_clip=training.dual_clip,
            loss_agg=training.loss_aggregation,
            kl_coefficient=training.kl_coefficient,
            entropy_coefficient=training.entropy_coefficient,
            distillation_coefficient=training.distillation.coefficient,
            beta=training.distillation.beta,
            gate=training.distillation.gate,
        )


def _probe_scores(
    scorer: Any, accelerator: Any, prompts: list[list[int]], responses: list[list[int]]
) -> Tensor:
    """Log-probs `[S, R]` at temperature 1, in one pass: every rank makes the same number."""
    policy = accelerator.unwrap_model(scorer)
    usual, policy.temperature = policy.temperature, 1.0
    try:
        with accelerator.autocast():
            scores = score_responses(
                scorer,
                prompts,
                responses,
                micro_batch=len(prompts),
                micro_batch_tokens=None,
                device=accelerator.device,
            )
    finally:
        policy.temperature = usual
    return scores.log_probs


def _frozen_copy(model: Any) -> Any:
    frozen = copy.deepcopy(model).requires_grad_(False)
    return frozen.eval()
