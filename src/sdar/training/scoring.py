"""The log-probs of a step's sampled tokens: the student's before the update, the teacher's, the
reference's.

All are without gradient, on the CPU, and of all ranks' samples.

Shape suffixes: S samples (turns of all episodes of a step), R response tokens.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sdar.config import ExperimentConfig
from sdar.methods.declarations import Method
from sdar.policy.log_probs import Scores, TeacherDistribution, copied_head, score_responses
from sdar.policy.micro_batches import plan_passes
from sdar.policy.reproducible import exact_kernels
from sdar.training.placed import PlacedPolicy
from sdar.training.playing import engine_scores, rest
from sdar.training.reference import Reference
from sdar.training.step_batch import StepBatch


@dataclass(frozen=True)
class Scoring:
    """Scores the samples of a step, this rank its share of them."""

    policy: PlacedPolicy
    config: ExperimentConfig
    method: Method
    engine: Any
    reference: Reference | None

    @property
    def sampler_gives_old(self) -> bool:
        """Whether the log-probs of sampling are those before the update: the same model computes
        them in float32, at the temperature of the loss. Sharded weights are sampled from a copy."""
        config = self.config
        return (
            config.training.old_log_probs == "auto"
            and config.rollout.engine == "transformers"
            and config.policy.dtype == "float32"
            and not self.policy.sharded
            and config.rollout.temperature == 1.0
            and not self.method.needs_old_entropy(config.training.distillation.gate)
        )

    def log_probs(self, batch: StepBatch, prompts: list[list[int]], scorer: Any = None) -> Tensor:
        """`[S, R]` by the current weights, or by another scorer."""
        return self._scores(batch, prompts, scorer).log_probs

    def old(self, batch: StepBatch) -> tuple[Tensor, Tensor | None]:
        """As `log_probs`, after the student's prompts, and the entropy where the method's gate
        needs that of the step's start."""
        if self.sampler_gives_old:
            return batch.engine_log_probs(), None
        entropy = self.method.needs_old_entropy(self.config.training.distillation.gate)
        # In bfloat16 a log-prob depends on what is scored beside it. The update's first ratio is 1
        # only where its own micro-batches give the old log-probs, too.
        plans = None
        if self.config.policy.dtype == "bfloat16":
            minibatches = self.policy.shares(batch).minibatches
            plans = [
                [rows for minibatch in minibatches for rows in minibatch.plans[rank]]
                for rank in range(self.policy.ranks.count)
            ]
        scores = self._scores(batch, batch.prompts, plans=plans, entropy=entropy)
        return scores.log_probs, scores.entropy

    def by_reference(self, batch: StepBatch) -> Tensor | None:
        """As `log_probs`, by the reference; None where there is none."""
        if self.reference is None:
            return None
        with self.reference.at_hand():
            return self.log_probs(batch, batch.prompts, self.reference.scorer)

    def teacher(
        self, batch: StepBatch, prompts: list[list[int]]
    ) -> tuple[Tensor, TeacherDistribution | None]:
        """As `log_probs`, after the teacher's prompts, and its distributions over the vocabulary
        where the method needs them (at this rank's own samples). A sample without a prompt is not
        scored."""
        mine = [i for i in self.policy.own_samples(batch) if prompts[i]]
        if engine_scores(self.config):
            scored = self.engine.score(
                [prompts[i] for i in mine], [batch.responses[i] for i in mine]
            )
            rest(self.engine)
            rows = [torch.tensor(row) for row in scored]
            own_SR = pad_sequence(rows, batch_first=True) if rows else torch.zeros(0, 0)
            return self.policy.everywhere(batch, mine, own_SR), None
        if not self.method.needs_teacher_distribution:
            return self._scores(batch, prompts).log_probs, None
        scores = self._scores(batch, prompts, hidden=True)
        with self.policy.accelerator.autocast():
            head = copied_head(self.policy.model)
        tokens = [0] * len(batch)
        for row in mine:
            tokens[row] = len(batch.responses[row])
        # A rank without samples that are taught has no rows, of whatever width.
        hidden_ND = torch.empty(0, 0) if scores.hidden is None else scores.hidden
        return scores.log_probs, TeacherDistribution(head, hidden_ND, tuple(tokens))

    def _scores(
        self,
        batch: StepBatch,
        prompts: list[list[int]],
        scorer: Any = None,
        plans: list[list[list[int]]] | None = None,
        **more: bool,
    ) -> Scores:
        """All ranks' samples, each scored by its rank; hidden states only of this rank's own.
        `plans`: sample numbers by rank and micro-batch; None: the fewest passes over all."""
        policy, micro_batch = self.policy, self.config.training.micro_batch
        responses = batch.responses
        shares = [[i for i in share if prompts[i]] for share in policy.shares(batch).samples]
        if plans is None:
            plans = []
            for share in shares:
                places = plan_passes(
                    [[*prompts[i], *responses[i]] for i in share],
                    micro_batch,
                    policy.micro_batch_tokens,
                    share=policy.shares_prefixes,
                )
                plans.append([[share[place] for place in rows] for rows in places])
        mine = shares[policy.ranks.rank]
        place_of = {sample: place for place, sample in enumerate(mine)}
        passes = 0
        if policy.sharded:
            passes = max(map(len, plans))
            policy.ranks.require_same("the passes of scoring", passes)
        with policy.accelerator.autocast(), self._exactly():
            scores = score_responses(
                policy.scorer if scorer is None else scorer,
                [prompts[i] for i in mine],
                [responses[i] for i in mine],
                plan=[[place_of[i] for i in rows] for rows in plans[policy.ranks.rank]],
                device=policy.accelerator.device,
                passes=passes,
                **more,
            )
        entropy_SR = scores.entropy
        return Scores(
            policy.everywhere(batch, mine, scores.log_probs),
            None if entropy_SR is None else policy.everywhere(batch, mine, entropy_SR),
            hidden=scores.hidden,
        )

    def _exactly(self) -> AbstractContextManager[None]:
        device = self.policy.accelerator.device
        return exact_kernels(device, self.config.execution.deterministic)


def probe_scores(
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
