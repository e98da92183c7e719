"""The policy in training: playing, scoring and updating with one set of weights.

Shape suffixes: S samples (turns of all episodes of a step), R response tokens.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sdar.algorithms.aggregation import Aggregation, global_denominator
from sdar.algorithms.context import GapQuantiles, StepContext
from sdar.algorithms.inputs import MicroBatch, StepSamples
from sdar.algorithms.loss import LossSettings, training_loss
from sdar.algorithms.step import AdvantageSettings, step_context
from sdar.clock import PhaseClock
from sdar.config import ExperimentConfig
from sdar.environments.base import Task
from sdar.methods.declarations import Method
from sdar.policy.log_probs import (
    PolicyScorer,
    Scores,
    TeacherDistribution,
    copied_head,
    score_responses,
)
from sdar.policy.lora import add_adapters
from sdar.policy.micro_batches import one_token, pad_batch, plan_micro_batches
from sdar.policy.recomputation import recompute_layers
from sdar.policy.sharding import shard, wants_sharding
from sdar.policy.weights import named_full_weights
from sdar.ranks.ranks import Ranks
from sdar.rollout.collector import collect
from sdar.rollout.engines.base import RemoteWeights
from sdar.rollout.engines.opening import close_engine, open_engine
from sdar.rollout.episode import Episode
from sdar.rollout.settings import RolloutProgress, RolloutSettings
from sdar.training.batches import StepBatch, tasks_of_step
from sdar.training.measures import UpdateMeasures
from sdar.training.reference import Reference, frozen_copy
from sdar.training.run import Parts, clip_gradients, learning_rate_at, make_optimizer
from sdar.training.shares import StepShares, slots_of_rank

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
    reference: Reference | None
    """The frozen policy the KL term holds the student to; None when that term is off."""
    ranks: Ranks
    sharded: bool
    """Each rank holds a part of the weights, and all make every pass together."""
    running: GapQuantiles | None = None
    """What the run keeps from step to step beside weights and optimizer, for the adaptive gate."""

    @classmethod
    def prepare(
        cls,
        parts: Parts,
        config: ExperimentConfig,
        method: Method,
        seed: int,
        accelerator: Any,
        ranks: Ranks | None = None,
        folder: Path | None = None,
    ) -> "Learner":
        """Put policy and optimizer on the device, freeze the reference if it is needed, and open
        the engine. `folder` is the run's."""
        training, model = config.training, parts.model
        sharded = wants_sharding(config, accelerator)
        model.eval()  # no dropout: what is sampled and what is trained are one policy
        frozen = None
        if training.kl_coefficient != 0 and training.lora is None:
            frozen = frozen_copy(model)
        if training.lora is not None:
            add_adapters(model, training.lora, seed)
        if training.activation_checkpointing:
            recompute_layers(model)

        def placed(policy: Any) -> Any:
            scorer = PolicyScorer(policy, temperature=config.rollout.temperature)
            if sharded:
                return shard(scorer, accelerator)
            # Not as accelerate prepares for training: a rank passes as often as its share takes,
            # and its gradients are added to the others' once (`Ranks.sum_gradients`).
            return accelerator.prepare_model(scorer, evaluation_mode=True)

        scorer = placed(model)
        optimizer = make_optimizer(model, training.learning_rate, training.weight_decay)
        if not sharded:
            optimizer = accelerator.prepare_optimizer(optimizer)
        reference = None
        if training.kl_coefficient != 0:
            reference = Reference(
                scorer if frozen is None else placed(frozen),
                adapted=model if frozen is None else None,
                away=training.reference == "host",
                device=accelerator.device,
            )
        engine = open_engine(
            config,
            model,
            parts.tokenizer,
            trusted=partial(_probe_scores, scorer, accelerator),
            folder=folder,
            rank=accelerator.process_index,
        )
        return cls(
            parts,
            config,
            method,
            seed,
            accelerator,
            scorer,
            optimizer,
            engine,
            reference,
            ranks or Ranks.of(accelerator),
            sharded,
        )

    def close(self) -> None:
        """End the engine."""
        close_engine(self.engine)

    def tasks(self, step: int) -> tuple[list[Task], list[int]]:
        """The step's tasks, each as often as its group is large, and the group numbers."""
        training = self.config.training
        return tasks_of_step(
            self.parts.tasks, training.tasks_per_step, training.group_size, self.seed, step
        )

    def prefetch(self, step: int) -> None:
        """Let the environment load the tasks of a step while the model computes."""
        tasks, _ = self.tasks(step)
        slots = slots_of_rank(len(tasks), self.ranks.count, self.ranks.rank)
        self.parts.pool.prefetch(list(dict.fromkeys(tasks[slots.start : slots.stop])))

    def rollout(self, step: int, clock: PhaseClock, bar: Any = None) -> list[Episode]:
        """Play the step's episodes with the current weights: this rank its share of the slots.
        All ranks get all episodes."""
        if isinstance(self.engine, RemoteWeights):
            with clock("weights"):
                self.engine.take_weights(named_full_weights(self.parts.model), step)
        episodes = self._play(step, clock, bar)
        if not self._engine_scores:
            self._rest()
        if self.ranks.count == 1:
            return episodes
        with clock("waiting"):
            return [episode for share in self.ranks.gather(episodes) for episode in share]

    def _play(self, step: int, clock: PhaseClock, bar: Any) -> list[Episode]:
        def show(progress: RolloutProgress) -> None:
            if bar is not None:
                playing = f"{progress.live} playing, {progress.won} won"
                bar.set_postfix_str(
                    f"turn {progress.turn:.0f}, {playing}", refresh=sys.stderr.isatty()
                )

        with_skill = self.method.rollout_with_skill
        tasks, groups = self.tasks(step)
        slots = slots_of_rank(len(tasks), self.ranks.count, self.ranks.rank)
        if not slots:
            return []
        with self.accelerator.autocast():
            return collect(
                self.engine,
                self.parts.tokenizer,
                self.parts.pool,
                tasks[slots.start : slots.stop],
                groups[slots.start : slots.stop],
                settings=RolloutSettings.from_config(self.config, skill=with_skill),
                skills=self.parts.skills if with_skill else None,
                seed=self.seed,
                step=step,
                on_progress=show,
                clock=clock,
                first_slot=slots.start,
            )

    @property
    def _engine_scores(self) -> bool:
        by_engine = self.config.training.distillation.scored_by == "engine"
        return by_engine and self.method.needs_teacher

    def _rest(self) -> None:
        """The engine's work of this step is done: its memory is the trainer's."""
        if isinstance(self.engine, RemoteWeights):
            self.engine.sleep()

    def shares(self, batch: StepBatch) -> StepShares:
        """Which rank computes which samples, in which micro-batches."""
        training = self.config.training
        return StepShares.of_step(
            batch.lengths(),
            self.ranks.count,
            minibatch=training.minibatch,
            micro_batch=training.micro_batch,
            micro_batch_tokens=self.micro_batch_tokens,
        )

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

    def score_reference(self, batch: StepBatch) -> Tensor | None:
        """As `score`, by the reference; None where there is none."""
        if self.reference is None:
            return None
        with self.reference.at_hand():
            return self.score(batch, batch.prompts, self.reference.scorer)

    def score_teacher(
        self, batch: StepBatch, prompts: list[list[int]]
    ) -> tuple[Tensor, TeacherDistribution | None]:
        """As `score`, after the teacher's prompts, and its distributions over the vocabulary where
        the method needs them (at this rank's own samples)."""
        mine = self.shares(batch).samples[self.ranks.rank]
        if self._engine_scores:
            scored = self.engine.score(
                [prompts[i] for i in mine], [batch.responses[i] for i in mine]
            )
            self._rest()
            rows = [torch.tensor(row) for row in scored]
            own_SR = pad_sequence(rows, batch_first=True) if rows else torch.zeros(0, 0)
            return self._everywhere(batch, mine, own_SR), None
        if not self.method.needs_teacher_distribution:
            return self._scores(batch, prompts).log_probs, None
        scores = self._scores(batch, prompts, hidden=True)
        with self.accelerator.autocast():
            head = copied_head(self.parts.model)
        tokens = [0] * len(batch)
        for row in mine:
            tokens[row] = len(batch.responses[row])
        hidden_ND = (
            torch.empty(0, self.parts.model.config.hidden_size)
            if scores.hidden is None
            else scores.hidden
        )
        return scores.log_probs, TeacherDistribution(head, hidden_ND, tuple(tokens))

    def _scores(
        self, batch: StepBatch, prompts: list[list[int]], scorer: Any = None, **more: bool
    ) -> Scores:
        """This rank's share, then everybody's; but for the hidden states, which stay here."""
        micro_batch, responses = self.config.training.micro_batch, batch.responses
        shares = self.shares(batch).samples
        passes = 0
        if self.sharded:
            plans = (
                plan_micro_batches(
                    [len(prompts[i]) + len(responses[i]) for i in share],
                    micro_batch,
                    self.micro_batch_tokens,
                )
                for share in shares
            )
            passes = max(map(len, plans))
        mine = shares[self.ranks.rank]
        with self.accelerator.autocast():
            scores = score_responses(
                self.scorer if scorer is None else scorer,
                [prompts[i] for i in mine],
                [responses[i] for i in mine],
                micro_batch=micro_batch,
                micro_batch_tokens=self.micro_batch_tokens,
                device=self.accelerator.device,
                passes=passes,
                **more,
            )
        entropy_SR = scores.entropy
        return Scores(
            self._everywhere(batch, mine, scores.log_probs),
            None if entropy_SR is None else self._everywhere(batch, mine, entropy_SR),
            hidden=scores.hidden,
        )

    def _everywhere(self, batch: StepBatch, mine: list[int], own_SR: Tensor) -> Tensor:
        """`[S, R]` of the whole step from each rank's own samples."""
        if self.ranks.count == 1:
            return own_SR
        every_SR = torch.zeros(batch.response_mask_SR.shape, dtype=own_SR.dtype)
        every_SR[mine, : own_SR.shape[1]] = own_SR
        return self.ranks.sum(every_SR)

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
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(step, self.config)
        for minibatch in self.shares(batch).minibatches:
            of_all = minibatch.samples
            mask_SR = batch.response_mask_SR[of_all.start : of_all.stop]
            mode = training.loss_aggregation
            aggregation = Aggregation(mode, float(global_denominator(mask_SR, mode)))
            plan = minibatch.plans[self.ranks.rank]
            for rows in plan:
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
                with accelerator.autocast():
                    scores = self.scorer(tokens, entropy=True, teacher=teacher)
                tokens_of_loss = MicroBatch(
                    log_probs=scores.log_probs,
                    old_log_probs=of_rows(old_SR),
                    advantages=of_rows(advantages_SR),
                    response_mask=tokens.mask_SR,
                    teacher_log_probs=None if teacher_SR is None else of_rows(teacher_SR),
                    reference_log_probs=None if reference_SR is None else of_rows(reference_SR),
                    entropy=scores.entropy,
                    teacher_divergence=scores.divergence,
                )
                loss = training_loss(
                    self.method,
                    settings,
                    tokens_of_loss,
                    aggregation,
                    None if context is None else context.of(of_rows),
                )
                accelerator.backward(loss.loss)
                measures.micro_batch(rows, loss, scores.log_probs, int(tokens.mask_SR.sum()))
            if self.sharded:
                for _ in range(len(plan), minibatch.passes):
                    self._empty_pass()
            else:
                self.ranks.sum_gradients(self.scorer.parameters())
            norm = clip_gradients(self.scorer.parameters(), training.gradient_clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
            measures.minibatch(norm, minibatch.padding)
        return measures.over_ranks(self.ranks)

    def _empty_pass(self) -> None:
        """Forward and backward of no weight, because other ranks make one."""
        with self.accelerator.autocast():
            scores = self.scorer(one_token(self.accelerator.device), entropy=True)
        self.accelerator.backward(0.0 * scores.log_probs.sum())

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
            kl_coefficient=training.kl_coefficient,
            kl_estimator="k3",
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
