"""The update of a training step: its samples once, minibatch after minibatch.

Shape suffixes: S samples (turns of all episodes of a step), R response tokens.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sdar.algorithms.aggregation import Aggregation, global_denominator
from sdar.algorithms.context import StepContext
from sdar.algorithms.inputs import MicroBatch
from sdar.algorithms.loss import training_loss
from sdar.config import ExperimentConfig
from sdar.methods.declarations import Method
from sdar.policy.log_probs import TeacherDistribution
from sdar.policy.micro_batches import pad_batch
from sdar.records.tables import turn_columns
from sdar.training.measures import UpdateMeasures
from sdar.training.optimizer import clip_gradients, learning_rate_at
from sdar.training.placed import PlacedPolicy
from sdar.training.settings import loss_settings
from sdar.training.skips import Skips, first_not_finite, take_step
from sdar.training.step_batch import StepBatch


@dataclass(frozen=True)
class Updating:
    """Updates the policy from the samples of a step, each rank from its share of them."""

    policy: PlacedPolicy
    config: ExperimentConfig
    method: Method
    optimizer: Any
    skips: Skips

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
        whole minibatch is divided by. `context` (`step_context`) and `distribution`
        (`Scoring.teacher`) are for the methods that need them.

        A minibatch with a number that is not finite is not learned from (`sdar.training.skips`).
        Raises `SdarError` after too many of them, and where weights are not finite after a step.
        """
        training, policy = self.config.training, self.policy
        accelerator, ranks = policy.accelerator, policy.ranks
        settings = loss_settings(self.config)
        measures = UpdateMeasures(len(batch), batch.response_mask_SR.shape[1])
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(step, self.config)
        inputs = {
            "a log-prob before the update": old_SR,
            "a log-prob of the teacher": teacher_SR,
            "a log-prob of the reference": reference_SR,
            "an advantage": advantages_SR,
        }
        minibatches = policy.shares(batch).minibatches
        if policy.sharded:
            ranks.require_same("the passes of the update", [each.passes for each in minibatches])
        for number, minibatch in enumerate(minibatches):
            name = f"step {step:05d}, minibatch {number}"
            of_all = minibatch.samples
            mask_SR = batch.response_mask_SR[of_all.start : of_all.stop]
            mode = training.loss_aggregation
            aggregation = Aggregation(mode, float(global_denominator(mask_SR, mode)))
            plan = minibatch.plans[ranks.rank]
            losses = 0.0
            for rows in plan:
                tokens = pad_batch(
                    [batch.prompts[i] for i in rows],
                    [batch.responses[i] for i in rows],
                    accelerator.device,
                    share=policy.shares_prefixes,
                )
                width = tokens.mask_SR.shape[1]

                def of_rows(values_SR: Tensor, rows: Any = rows, width: int = width) -> Tensor:
                    return values_SR[rows, :width].to(accelerator.device)

                teacher = None
                if distribution is not None:
                    teacher = distribution.of(rows, accelerator.device)
                with accelerator.autocast():
                    scores = policy.scorer(tokens, entropy=True, teacher=teacher)
                micro_batch = MicroBatch(
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
                    micro_batch,
                    aggregation,
                    None if context is None else context.of(of_rows),
                )
                accelerator.backward(loss.loss)
                measures.micro_batch(rows, loss, scores.log_probs, int(tokens.mask_SR.sum()))
                losses += float(loss.loss.detach())
            if policy.sharded:
                for _ in range(len(plan), minibatch.passes):
                    policy.empty_pass()
            else:
                ranks.sum_gradients(policy.scorer.parameters())
            norm = clip_gradients(policy.scorer.parameters(), training.gradient_clip)
            here = {what: _rows(values_SR, of_all) for what, values_SR in inputs.items()}
            wrong = first_not_finite({**here, "the loss": losses, "the gradient": norm})
            # The losses are those of this rank's samples: what one finds, all skip.
            wrong = next(filter(None, ranks.gather(wrong)), None)
            if wrong is None:
                weights = policy.scorer.parameters()
                take_step(self.optimizer, weights, name, "training.learning_rate")
                self.skips.taken()
            self.optimizer.zero_grad()
            measures.minibatch(norm if wrong is None else None, minibatch.padding)
            if wrong is not None:
                self.skips.skip(name, wrong, _inspected(batch, of_all, here))
        return measures.over_ranks(ranks)


def _rows(values_SR: Tensor | None, samples: range) -> Tensor | None:
    return None if values_SR is None else values_SR[samples.start : samples.stop]


def _inspected(
    batch: StepBatch, samples: range, values: Mapping[str, Tensor | None]
) -> Iterator[dict[str, Any]]:
    """A row for each sample of a minibatch that could not be learned from."""
    for row, sample in enumerate(samples):
        episode, turn = batch.owners[sample], batch.turns[sample]
        tokens = len(turn.response_ids)
        per_token = {
            what: None if values_SR is None else values_SR[row, :tokens].tolist()
            for what, values_SR in values.items()
        }
        yield {
            "sample": sample,
            "slot": episode.slot,
            "return": float(episode.episode_return),
            **turn_columns(episode, turn),
            "prompt_ids": list(turn.prompt.token_ids),
            "response_ids": list(turn.response_ids),
            **per_token,
        }
