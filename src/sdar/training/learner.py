"""The policy in training: playing, scoring and updating with one set of weights.

Shape suffixes: S samples (turns of all episodes of a step), R response tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdar.algorithms.context import GapQuantiles, StepContext
from sdar.algorithms.inputs import StepSamples
from sdar.algorithms.step import AdvantageSettings, step_context
from sdar.algorithms.teaching import NOT_RETIRED, Retirement
from sdar.clock import PhaseClock
from sdar.config import ExperimentConfig
from sdar.methods.declarations import Method
from sdar.policy.log_probs import TeacherDistribution
from sdar.policy.lora import add_adapters
from sdar.policy.recomputation import recompute_layers
from sdar.policy.reproducible import exact_kernels
from sdar.policy.sharding import wants_sharding
from sdar.ranks.ranks import Ranks
from sdar.rollout.engines.opening import close_engine, open_engine
from sdar.rollout.episode import Episode
from sdar.training.measures import Metrics, UpdateMeasures, gap_size
from sdar.training.optimizer import make_optimizer
from sdar.training.parts import Parts
from sdar.training.placed import PlacedPolicy, place
from sdar.training.playing import Playing
from sdar.training.reference import Reference, frozen_copy
from sdar.training.scoring import Scoring, probe_scores
from sdar.training.settings import advantage_settings, loss_settings, teaching_schedule
from sdar.training.skips import Skips
from sdar.training.step_batch import StepBatch
from sdar.training.updating import Updating


@dataclass
class Learner:
    """What a training step works with."""

    parts: Parts
    config: ExperimentConfig
    method: Method
    seed: int
    optimizer: Any
    engine: Any
    reference: Reference | None
    """The frozen policy of the KL term; None when that term is off."""
    playing: Playing
    scoring: Scoring
    updating: Updating
    running: GapQuantiles | None = None
    """What the adaptive gate keeps from step to step."""
    retirement: Retirement = NOT_RETIRED
    """What the schedule of the distillation term does."""

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
            half = accelerator.mixed_precision == "bf16" and not sharded
            frozen = frozen_copy(model, torch.bfloat16 if half else None)
        if training.lora is not None:
            add_adapters(model, training.lora, seed)
        if training.activation_checkpointing:
            recompute_layers(model)

        scorer = place(model, config, accelerator, sharded)
        optimizer = make_optimizer(model, training.learning_rate, training.weight_decay)
        if not sharded:
            optimizer = accelerator.prepare_optimizer(optimizer)
        reference = None
        if training.kl_coefficient != 0:
            reference = Reference(
                scorer if frozen is None else place(frozen, config, accelerator, sharded),
                adapted=model if frozen is None else None,
                away=training.reference == "host",
                device=accelerator.device,
            )
        engine = open_engine(
            config,
            model,
            parts.tokenizer,
            trusted=partial(probe_scores, scorer, accelerator),
            folder=folder,
            rank=accelerator.process_index,
        )
        ranks = ranks or Ranks.of(accelerator)
        policy = PlacedPolicy(model, scorer, config, accelerator, ranks, sharded)
        return cls(
            parts,
            config,
            method,
            seed,
            optimizer,
            engine,
            reference,
            Playing(parts, config, method, seed, accelerator, ranks, engine),
            Scoring(policy, config, method, engine, reference),
            Updating(
                policy,
                config,
                method,
                optimizer,
                Skips(training.skipped_in_a_row, folder, writes=ranks.first),
            ),
        )

    def close(self) -> None:
        """End the engine."""
        close_engine(self.engine)

    def prefetch(self, step: int) -> None:
        """Let the environment load the tasks of a step while the model computes."""
        self.playing.prefetch(step)

    def rollout(self, step: int, clock: PhaseClock, bar: Any = None) -> list[Episode]:
        """The step's episodes, played with the current weights."""
        return self.playing.rollout(step, clock, bar, taught=self.asks_teacher(step))

    def coefficient_left(self, step: int) -> float:
        """What the schedule leaves of the distillation term's coefficient at a step."""
        return teaching_schedule(self.config).left(step, self.retirement)

    def asks_teacher(self, step: int) -> bool:
        """Whether the teacher scores turns of this step."""
        return self.method.asks_teacher(self.coefficient_left(step))

    def score_old(self, batch: StepBatch) -> tuple[Tensor, Tensor | None]:
        """Log-probs by the current weights, and the entropy where the method needs it."""
        return self.scoring.old(batch)

    def first_minibatch(self, batch: StepBatch) -> slice:
        """The samples of the step's first optimizer step."""
        samples = self.scoring.policy.shares(batch).minibatches[0].samples
        return slice(samples.start, samples.stop)

    def score_reference(self, batch: StepBatch) -> Tensor | None:
        """Log-probs by the reference; None where there is none."""
        return self.scoring.by_reference(batch)

    def score_teacher(
        self, batch: StepBatch, prompts: list[list[int]]
    ) -> tuple[Tensor, TeacherDistribution | None]:
        """Log-probs after the teacher's prompts, and its distributions where they are needed."""
        return self.scoring.teacher(batch, prompts)

    def advantage_settings(self) -> AdvantageSettings:
        """The run's part of the advantages."""
        return advantage_settings(self.config)

    def look_at_step(self, samples: StepSamples, advantages_SR: Tensor, step: int) -> StepContext:
        """The step's constants of the loss; takes the step into what the run keeps of the gaps."""
        settings, left = loss_settings(self.config), self.coefficient_left(step)
        context = step_context(self.method, settings, samples, advantages_SR, self.running, left)
        if context.running is None or context.running.finite:
            self.running = context.running
        return context

    def follow_schedule(self, step: int, batch: StepBatch, gap_SR: Tensor | None) -> Metrics:
        """Take a step's gaps into what decides whether later ones are taught; returns what the
        schedule gave this one. Nothing where the coefficient is constant."""
        schedule, method = teaching_schedule(self.config), self.method
        if schedule.kind == "constant" or method.distillation == "none":
            return {}
        configured = method.coefficient(self.config.training.distillation.coefficient)
        measured: Metrics = {"teacher/coefficient": configured * self.coefficient_left(step)}
        size = gap_size(batch, gap_SR)
        if size is not None:
            measured["gap/size"] = size
        self.retirement = schedule.after(self.retirement, size)
        return measured

    def state(self) -> dict[str, Any]:
        """For the checkpoint: what a resumed run needs besides weights and optimizer."""
        return {
            "running_gap": None if self.running is None else self.running.to_state(),
            "retirement": self.retirement.to_state(),
            "skips": self.updating.skips.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave when the checkpoint was written."""
        saved = state.get("running_gap")
        self.running = None if saved is None else GapQuantiles.from_state(saved)
        if "retirement" in state:
            self.retirement = Retirement.from_state(state["retirement"])
        self.updating.skips.restore(state)

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
        """Learn from the step's samples, see `Updating.update`."""
        values = (old_SR, teacher_SR, reference_SR, advantages_SR, context, distribution)
        device = self.playing.accelerator.device
        with exact_kernels(device, self.config.execution.deterministic):
            return self.updating.update(step, batch, *values)
