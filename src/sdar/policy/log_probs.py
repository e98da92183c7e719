"""Log-probabilities, entropies and divergences of response tokens: one kernel for all uses.

Student, old policy, teacher and reference are all scored here. Prompt positions are dropped before
the head, and the head works on chunks of response tokens: `[chunk, vocabulary]` in float32 is the
most that ever exists, in the backward pass too (which computes each of several chunks again).

Shape suffixes: S samples, T tokens of a padded sequence, R response tokens of a padded response,
N response tokens of all samples, C tokens of a chunk, D hidden size, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from sdar.algorithms.distillation import vocabulary_reverse_kl
from sdar.policy.micro_batches import TokenBatch, one_token, pad_batch, plan_passes
from sdar.policy.paths import (
    CHUNK_LOGITS,
    apply_head,
    features_at,
    features_of_tree,
    has_fp32_head,
    has_scoring_path,
    head_of,
    scoring_path,
    shares_prefixes,
    vocabulary_of,
)
from sdar.policy.probe import find_scoring_path
from sdar.policy.trunk import FAMILIES
from sdar.policy.weights import whole


class Scores(NamedTuple):
    """Per response token `[S, R]`, 0 on padding: log-probability and entropy, in nats."""

    log_probs: Tensor
    entropy: Tensor | None
    divergence: Tensor | None = None
    """KL(policy || teacher) over the vocabulary, in nats."""
    hidden: Tensor | None = None
    """`[N, D]`, what goes into the head: response tokens of sample 0, of sample 1, and so on. Where
    the policy is scored by its own forward (`paths`), the logits."""


@dataclass(frozen=True)
class TeacherDistribution:
    """The teacher's distributions over the vocabulary at response tokens: hidden states and a head.

    `[N, vocabulary]` would be too large to keep. The head is a copy, so the distributions stay what
    they are while the policy learns.
    """

    head: nn.Module
    hidden_ND: Tensor
    """Tokens of sample 0, then of sample 1, and so on; of a whole step on the CPU."""
    tokens: tuple[int, ...]
    """Response tokens of each sample; 0 where the teacher has not scored it."""

    def of(self, rows: Sequence[int], device: torch.device | str) -> "TeacherDistribution":
        """The distributions of samples `rows`, in that order, on `device`."""
        ends = list(accumulate(self.tokens))
        pieces = [self.hidden_ND[ends[row] - self.tokens[row] : ends[row]] for row in rows]
        return replace(
            self,
            hidden_ND=torch.cat(pieces).to(device),
            tokens=tuple(self.tokens[row] for row in rows),
        )


def computing_dtype(values: Tensor) -> torch.dtype:
    """The type a linear layer computes in with these values: autocast's, where that is on."""
    kind = values.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else values.dtype


def scorer_dtype(scorer: nn.Module, hidden_ND: Tensor) -> torch.dtype:
    """The type in which the head of a scorer takes these hidden states."""
    if has_fp32_head(getattr(scorer, "model", None)):
        return hidden_ND.dtype
    return computing_dtype(hidden_ND)


@torch.no_grad()
def copied_head(model: Any) -> nn.Module:
    """The model's output layer as it is now, in the type it computes in. Where it is sharded, all
    ranks call together."""
    if scoring_path(model) != "fast":
        return nn.Identity()
    own = model.lm_head
    with torch.device("meta"):
        head = nn.Linear(own.in_features, own.out_features, bias=own.bias is not None)
    for name, value in own.named_parameters():
        dtype = torch.float32 if has_fp32_head(model) else computing_dtype(value)
        full = whole(value).to(dtype, copy=True)
        setattr(head, name, nn.Parameter(full, requires_grad=False))
    return head


class PolicyScorer(nn.Module):
    """A policy as a function from a batch of tokens to `Scores`.

    A module whose forward is the only way in: what shards or replicates its parameters sees every
    use of them.
    """

    def __init__(
        self, model: Any, *, temperature: float = 1.0, chunk_logits: int = CHUNK_LOGITS
    ) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.chunk_logits = chunk_logits
        # `load_policy` has tried the path; here comes a model that was made otherwise.
        if not has_scoring_path(model) and model.config.model_type not in FAMILIES:
            find_scoring_path(model, PolicyScorer)

    def forward(
        self,
        batch: TokenBatch,
        entropy: bool = False,
        hidden: bool = False,
        teacher: TeacherDistribution | None = None,
    ) -> Scores:
        """Score the responses of `batch`.

        `entropy`, `teacher` (the divergence from it) and `hidden` add these results. All carry
        gradient where autograd is on; nothing flows to the teacher. The divergence of a sample
        that the teacher has not scored is 0.
        """
        read_MD = None if batch.tree is None else features_of_tree(self.model, batch.tree)
        if batch.tree is None or read_MD is None:
            hidden_SRD = features_at(self.model, batch.input_ids_ST, batch.positions_SR)
            hidden_ND = hidden_SRD[batch.mask_SR]
        else:
            hidden_ND = F.embedding(batch.tree.reads_SR[batch.mask_SR], read_MD)
        targets_N = batch.targets_SR[batch.mask_SR]
        taught_N = None
        if teacher is not None and len(teacher.hidden_ND) < len(hidden_ND):
            taught_S = torch.tensor(teacher.tokens, device=hidden_ND.device) > 0
            taught_N = taught_S.repeat_interleave(batch.mask_SR.sum(dim=1))
        scored = self._head(hidden_ND, targets_N, entropy, teacher, taught_N)
        log_probs_SR, entropy_SR, divergence_SR = (
            None if values_N is None else _scatter(values_N, batch.mask_SR) for values_N in scored
        )
        assert log_probs_SR is not None
        return Scores(log_probs_SR, entropy_SR, divergence_SR, hidden_ND if hidden else None)

    def _head(
        self,
        hidden_ND: Tensor,
        targets_N: Tensor,
        entropy: bool,
        teacher: TeacherDistribution | None,
        taught_N: Tensor | None,
    ) -> list[Tensor | None]:
        """Log-prob, entropy and divergence `[N]` of each token, chunk by chunk. `taught_N`: the
        tokens that the teacher has; None: all."""
        size = max(1, self.chunk_logits // vocabulary_of(self.model))
        pieces = list(zip(hidden_ND.split(size), targets_N.split(size), strict=True))
        masks = [None] * len(pieces) if taught_N is None else taught_N.split(size)
        sizes = size if taught_N is None else [int(mask.sum()) for mask in taught_N.split(size)]
        taught = [None] * len(pieces) if teacher is None else teacher.hidden_ND.split(sizes)
        head = None if teacher is None else teacher.head
        recompute = torch.is_grad_enabled() and len(pieces) > 1
        scored = [
            # Nothing random happens there, so there is no generator's state to keep.
            checkpoint(
                self._chunk,
                *piece,
                entropy,
                head,
                taught_CD,
                taught_C,
                use_reentrant=False,
                preserve_rng_state=False,
            )
            if recompute
            else self._chunk(*piece, entropy, head, taught_CD, taught_C)
            for piece, taught_CD, taught_C in zip(pieces, taught, masks, strict=True)
        ]
        kinds = zip(*scored, strict=True)
        return [None if kind[0] is None else torch.cat(kind) for kind in kinds]

    def _chunk(
        self,
        hidden_CD: Tensor,
        targets_C: Tensor,
        entropy: bool,
        teacher_head: nn.Module | None,
        teacher_hidden_CD: Tensor | None,
        taught_C: Tensor | None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        logits_CV = self._logits(head_of(self.model), hidden_CD)
        every_CV = None
        if entropy or teacher_head is not None:
            every_CV = logits_CV.log_softmax(dim=-1)
        if every_CV is not None and torch.is_grad_enabled():
            log_probs_C = every_CV.gather(1, targets_C[:, None])[:, 0]
        else:
            # One formula for all scoring: asking for more results changes no bit of a log-prob.
            log_probs_C = logits_CV.gather(1, targets_C[:, None])[:, 0] - logits_CV.logsumexp(-1)
        if every_CV is None:
            return log_probs_C, None, None
        entropy_C = -(every_CV.exp() * every_CV).sum(dim=-1) if entropy else None
        if teacher_head is None:
            return log_probs_C, entropy_C, None
        assert teacher_hidden_CD is not None, "a teacher's head comes with its hidden states"
        nothing_C = every_CV.new_zeros(len(every_CV))
        if not len(teacher_hidden_CD):
            return log_probs_C, entropy_C, nothing_C
        with torch.no_grad():
            teacher_CV = self._logits(teacher_head, teacher_hidden_CD).log_softmax(dim=-1)
        if taught_C is None:
            return log_probs_C, entropy_C, vocabulary_reverse_kl(every_CV, teacher_CV)
        divergence_C = vocabulary_reverse_kl(every_CV[taught_C], teacher_CV)
        return log_probs_C, entropy_C, nothing_C.masked_scatter(taught_C, divergence_C)

    def _logits(self, head: nn.Module, hidden_CD: Tensor) -> Tensor:
        """At least float32, divided by the temperature."""
        logits_CV = apply_head(self.model, head, hidden_CD)
        if logits_CV.dtype != torch.float64:
            logits_CV = logits_CV.float()
        return logits_CV if self.temperature == 1.0 else logits_CV / self.temperature


@torch.no_grad()
def score_responses(
    scorer: nn.Module,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    *,
    micro_batch: int = 64,
    micro_batch_tokens: int | None = 4096,
    plan: Sequence[Sequence[int]] | None = None,
    entropy: bool = False,
    hidden: bool = False,
    device: torch.device | str = "cpu",
    passes: int = 0,
) -> Scores:
    """`[S, R]` scores of responses after prompts, on the CPU, without gradient.

    The limits of a micro-batch (samples, padded tokens) bound the memory. What is scored together
    changes the rounding: in float32 the last digits, in bfloat16 a log-prob by about .01 and up to
    .1. `plan` gives the micro-batches instead, as rows of `prompts`. `hidden` keeps the hidden
    states too, in the type that the head computes in. At least `passes` passes are made: with
    sharded weights, all ranks must make equally many.
    """
    width = max(map(len, responses), default=0)
    log_probs_SR = torch.zeros(len(responses), width)
    entropy_SR = torch.zeros(len(responses), width) if entropy else None
    hidden_ND: Tensor | None = None
    ends = list(accumulate(map(len, responses)))
    share = shares_prefixes(getattr(scorer, "model", None))
    if plan is None:
        sequences = [[*p, *r] for p, r in zip(prompts, responses, strict=True)]
        plan = plan_passes(sequences, micro_batch, micro_batch_tokens, share=share)
    for _ in range(len(plan), passes):
        scorer(one_token(device), entropy=entropy, hidden=hidden)
    for rows in plan:
        batch = pad_batch(
            [prompts[i] for i in rows], [responses[i] for i in rows], device, share=share
        )
        scores = scorer(batch, entropy=entropy, hidden=hidden)
        columns = scores.log_probs.shape[1]
        log_probs_SR[rows, :columns] = scores.log_probs.cpu()
        if entropy_SR is not None:
            entropy_SR[rows, :columns] = scores.entropy.cpu()
        if hidden:
            part_ND = scores.hidden.to("cpu", scorer_dtype(scorer, scores.hidden))
            if hidden_ND is None:
                hidden_ND = part_ND.new_empty(ends[-1], part_ND.shape[1])
            split = part_ND.split([len(responses[i]) for i in rows])
            for row, sample_RD in zip(rows, split, strict=True):
                hidden_ND[ends[row] - len(responses[row]) : ends[row]] = sample_RD
    return Scores(log_probs_SR, entropy_SR, hidden=hidden_ND)


def _scatter(values_N: Tensor, mask_SR: Tensor) -> Tensor:
    """Back to `[S, R]`, zeros on padding; differentiable."""
    return values_N.new_zeros(mask_SR.shape).masked_scatter(mask_SR, values_N)
