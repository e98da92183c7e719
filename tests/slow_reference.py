"""Training steps the slow way: what `sdar.training` and `sdar.algorithms` must equal.

Written from the formulas alone (docs/methods.md), and sharing no code with what it checks: one
sample at a time, the logits of the whole vocabulary from the Hugging Face model, a Python loop over
tokens, autograd, torch's AdamW. One class per method; `TWINS` names them as `METHODS` does.

Shape suffixes: R tokens of one response, V vocabulary. What has none is a number of one token.
"""

import copy
import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """One turn as it was played: token ids, and what became of it."""

    prompt: list[int]
    response: list[int]
    teacher_prompt: list[int] | None
    """None where the turn is not taught: whoever asks for its log-probs gets NaN."""
    group: int
    episode: int
    turn: int
    last: bool
    """The last turn of its episode."""
    episode_return: float
    penalty: float
    valid: bool
    won: bool
    observation: str


@dataclass
class Token:
    """One response token: what the step knows of it, and then the current forward pass."""

    old: Tensor
    old_entropy: Tensor
    teacher: Tensor
    teacher_V: Tensor
    reference: Tensor
    advantage: float = 0.0
    valid: bool = True
    taught: bool = True
    now: Tensor = field(default_factory=lambda: torch.tensor(math.nan))
    """The only log-prob with a gradient, like the next two."""
    now_V: Tensor = field(default_factory=lambda: torch.tensor(math.nan))
    entropy: Tensor = field(default_factory=lambda: torch.tensor(math.nan))

    @property
    def old_gap(self) -> Tensor:
        return self.teacher - self.old


@dataclass
class Measured:
    """Of one training step: a loss per minibatch, a gap and a gate per token."""

    policy: list[float] = field(default_factory=list)
    distillation: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    gates: list[float] = field(default_factory=list)
    gates_of_failures: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return math.fsum(values) / len(values)


def deviation(values: Sequence[float]) -> float:
    """The unbiased standard deviation; 1 for a single value."""
    if len(values) == 1:
        return 1.0
    centre = mean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def sign(value: float) -> float:
    return float(value > 0) - float(value < 0)


def between(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def log_probs_RV(model: Any, prompt: list[int], response: list[int], temperature: float) -> Tensor:
    """Log-probs of every token of the vocabulary at each place of the response."""
    logits_TV = model(input_ids=torch.tensor([prompt + response]), use_cache=False).logits[0]
    first = len(prompt) - 1
    return (logits_TV[first : first + len(response)] / temperature).log_softmax(dim=-1)


_ANSWERS: dict[tuple[Any, ...], Tensor] = {}


def frozen_log_probs_RV(
    model: Any, weights: str, prompt: list[int], response: list[int], temperature: float
) -> Tensor:
    """The same without gradient, of a model with the digest `weights`: it is asked only once for
    what all methods want to know of the policy that all of them start from."""
    key = (weights, tuple(prompt), tuple(response), temperature)
    if key not in _ANSWERS:
        with torch.no_grad():
            _ANSWERS[key] = log_probs_RV(model, prompt, response, temperature)
    return _ANSWERS[key]


def digest(model: Any) -> str:
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()


class Grpo:
    """GRPO, and all that every method has in common. `training` is the run's configuration."""

    policy_coefficient = 1.0
    coefficient: float | None = None
    """Of the distillation term; None: the run's lambda."""
    fixed_gate: str | None = None
    fixed_clip_high: float | None = None

    def __init__(self, model: Any, training: Any, temperature: float = 1.0) -> None:
        self.model = copy.deepcopy(model)
        self.initial, self.initial_weights = model, digest(model)
        self.training = training
        self.temperature = temperature
        self.optimizer = self.make_optimizer()
        self.number = 0

    # One training step.

    def step(self, number: int, samples: Sequence[Sample]) -> Measured:
        """Step `number` (from 0) on the samples, in their order; moves `self.model`."""
        self.number = number
        weights = digest(self.model)
        tokens = [self.known_before(sample, weights) for sample in samples]
        for sample, row, own in zip(samples, tokens, self.advantages(samples, tokens), strict=True):
            for token, advantage in zip(row, own, strict=True):
                token.advantage, token.valid = advantage, sample.valid
        self.look_at_step([token for row in tokens for token in row if token.taught])
        measured = Measured()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        for rows in self.minibatches(len(samples)):
            self.optimizer.zero_grad()
            self.loss([samples[i] for i in rows], [tokens[i] for i in rows], measured).backward()
            measured.gradient_norms.append(self.clip_gradient())
            self.optimizer.step()
        return measured

    def known_before(self, sample: Sample, weights: str) -> list[Token]:
        """What is computed once per step, with the weights at its start and those of the run's."""
        rest = sample.response, self.temperature
        old_RV = frozen_log_probs_RV(self.model, weights, sample.prompt, *rest)
        reference_RV = frozen_log_probs_RV(self.initial, self.initial_weights, sample.prompt, *rest)
        teacher_RV = torch.full_like(old_RV, math.nan)
        if sample.teacher_prompt is not None:
            teacher_RV = frozen_log_probs_RV(self.model, weights, sample.teacher_prompt, *rest)
        return [
            Token(
                old=old_RV[place, token],
                old_entropy=-(old_RV[place].exp() * old_RV[place]).sum(),
                teacher=teacher_RV[place, token],
                teacher_V=teacher_RV[place],
                reference=reference_RV[place, token],
                taught=sample.teacher_prompt is not None,
            )
            for place, token in enumerate(sample.response)
        ]

    def look_at_step(self, tokens: list[Token]) -> None:
        """Take statistics over all response tokens of the step that are taught, before any
        update."""

    def minibatches(self, samples: int) -> list[list[int]]:
        """Consecutive, of like size, none above the configured one."""
        count = math.ceil(samples / self.training.minibatch)
        edges = [samples * part // count for part in range(count + 1)]
        return [list(range(edges[part], edges[part + 1])) for part in range(count)]

    def learning_rate(self) -> float:
        warm = round(self.training.warmup_ratio * self.training.steps)
        if self.number + 1 >= warm:
            return self.training.learning_rate
        return self.training.learning_rate * (self.number + 1) / warm

    def decays(self, parameter: Tensor) -> bool:
        return parameter.dim() >= 2

    def make_optimizer(self) -> torch.optim.AdamW:
        decay = self.training.weight_decay
        return torch.optim.AdamW(
            [
                {"params": [p], "weight_decay": decay if self.decays(p) else 0.0}
                for p in self.model.parameters()
            ],
            lr=self.training.learning_rate,
            betas=(0.9, 0.999),
            eps=1e-8,
        )

    def clip_gradient(self) -> float:
        """The global norm before clipping; 1e-6 beside it is torch's and accelerate's custom."""
        gradients = [p.grad for p in self.model.parameters()]
        norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients))
        factor = min(1.0, self.training.gradient_clip / (norm + 1e-6))
        for gradient in gradients:
            gradient *= factor
        return norm

    # The loss of a minibatch.

    def loss(
        self, samples: Sequence[Sample], tokens: Sequence[Sequence[Token]], measured: Measured
    ) -> Tensor:
        lengths = [len(sample.response) for sample in samples]
        policy = entropy = anchor = distillation = torch.tensor(0.0)
        for sample, row in zip(samples, tokens, strict=True):
            now_RV = log_probs_RV(self.model, sample.prompt, sample.response, self.temperature)
            weight = self.weight(len(sample.response), lengths)
            for place, token in enumerate(row):
                token.now_V = now_RV[place]
                token.now = now_RV[place, sample.response[place]]
                token.entropy = -(token.now_V.exp() * token.now_V).sum()
                policy = policy + weight * self.surrogate(token)
                entropy = entropy + weight * token.entropy
                anchor = anchor + weight * self.anchor(token)
                if token.taught:
                    distillation = distillation + weight * self.term(token) / self.share()
                self.measure(token, sample, measured)
        measured.policy.append(policy.item())
        measured.distillation.append(distillation.item())
        chosen = self.training.distillation.coefficient
        return (
            self.policy_coefficient * policy
            - self.training.entropy_coefficient * entropy
            + self.training.kl_coefficient * anchor
            + (chosen if self.coefficient is None else self.coefficient) * distillation
        )

    def share(self) -> float:
        """Of the turns, those that are taught."""
        return self.training.distillation.share

    def weight(self, length: int, lengths: list[int]) -> float:
        """Of a token in a response of `length`, in a minibatch of responses of `lengths`."""
        if self.training.loss_aggregation == "token-mean":
            return 1 / sum(lengths)
        if self.training.loss_aggregation == "seq-mean-token-mean":
            return 1 / (len(lengths) * length)
        return 1 / len(lengths)

    def surrogate(self, token: Token) -> Tensor:
        """PPO's, with the dual clip."""
        advantage, ratio = token.advantage, torch.exp(token.now - token.old)
        high = self.fixed_clip_high or self.training.clip_high
        clipped = ratio.clamp(1 - self.training.clip_low, 1 + high)
        loss = torch.maximum(-advantage * ratio, -advantage * clipped)
        if advantage < 0:
            loss = torch.minimum(loss, torch.tensor(-advantage * self.training.dual_clip))
        return loss

    def anchor(self, token: Token) -> Tensor:
        d = token.reference - token.now
        return (d.exp() - d - 1).clamp(-10, 10)

    def term(self, token: Token) -> Tensor:
        """The distillation term of a token; none here."""
        return torch.tensor(0.0)

    def gap(self, token: Token) -> Tensor:
        return token.teacher - token.now.detach()

    def stop(self, gate: Tensor) -> Tensor:
        return gate.detach()

    def gate(self, gap: Tensor, entropy: Tensor) -> Tensor:
        beta = self.training.distillation.beta
        kind = self.fixed_gate or self.training.distillation.gate
        if kind == "gap":
            return torch.sigmoid(beta * gap)
        if kind == "entropy":
            return torch.sigmoid(beta * entropy)
        if kind == "soft_or":
            return torch.sigmoid(beta * (1 - (1 - entropy) * (1 - gap)))
        return torch.tensor(0.5)

    def measure(self, token: Token, sample: Sample, measured: Measured) -> None:
        gap = self.gap(token).detach()
        gate = float(self.gate(gap, token.entropy.detach()))
        measured.gaps.append(float(gap))
        measured.gates.append(gate)
        if not sample.won:
            measured.gates_of_failures.append(gate)
        measured.ratios.append(math.exp(token.now.item() - token.old.item()))

    # Advantages: one number per token.

    def advantages(
        self, samples: Sequence[Sample], tokens: Sequence[Sequence[Token]]
    ) -> list[list[float]]:
        """[sample][token]."""
        per_sample = self.sample_advantages(samples)
        return [[a] * len(row) for a, row in zip(per_sample, tokens, strict=True)]

    def sample_advantages(self, samples: Sequence[Sample]) -> list[float]:
        return [self.against_group(sample, samples) for sample in samples]

    def score(self, sample: Sample) -> float:
        return sample.episode_return - sample.penalty

    def against_group(self, sample: Sample, samples: Sequence[Sample]) -> float:
        group = [other for other in samples if other.group == sample.group]
        if self.training.statistics_over == "steps":
            values = [self.score(other) for other in group]
        else:
            values = [
                mean(self.score(other) for other in group if other.episode == episode)
                for episode in sorted({other.episode for other in group})
            ]
        if len(values) == 1:
            return self.score(sample)
        return self.standardised(self.score(sample), values)

    def standardised(self, value: float, values: Sequence[float]) -> float:
        centred = value - mean(values)
        if not self.training.normalize_by_std:
            return centred
        return centred / (deviation(values) + 1e-6)


class Sdar(Grpo):
    def term(self, token: Token) -> Tensor:
        gate = self.stop(self.gate(self.gap(token), token.entropy))
        return gate * (token.teacher - token.now)


class Opsd(Sdar):
    policy_coefficient = 0.0


class GrpoOpsd(Sdar):
    fixed_gate = "none"


class SkillSd(Grpo):
    coefficient = 0.001

    def term(self, token: Token) -> Tensor:
        return torch.exp((token.now - token.old).clamp(max=10)) * self.k3(token)

    def k3(self, token: Token) -> Tensor:
        d = token.now - token.teacher
        return torch.exp((-d).clamp(max=20)) - 1 + d


class ReverseKl(Grpo):
    def term(self, token: Token) -> Tensor:
        return -self.gap(token) * token.now


class ReverseKlFull(Grpo):
    def term(self, token: Token) -> Tensor:
        return (token.now_V.exp() * (token.now_V - token.teacher_V)).sum()


class SdarCentred(Sdar):
    def look_at_step(self, tokens: list[Token]) -> None:
        gates = [float(self.gate(token.old_gap, token.old_entropy)) for token in tokens]
        self.baseline = mean(gates)

    def term(self, token: Token) -> Tensor:
        gate = self.stop(self.gate(self.gap(token), token.entropy))
        return (gate - self.baseline) * (token.teacher - token.now)


class SdarAdaptive(Sdar):
    running: list[float] | None = None
    keep = 0.9

    def look_at_step(self, tokens: list[Token]) -> None:
        gaps = sorted(float(token.old_gap) for token in tokens)
        own = [self.quantile(gaps, q) for q in (0.1, 0.5, 0.9)]
        if self.running is None:
            self.running = own
        else:
            self.running = [
                self.keep * before + (1 - self.keep) * new
                for before, new in zip(self.running, own, strict=True)
            ]

    def quantile(self, ascending: list[float], q: float) -> float:
        place = q * (len(ascending) - 1)
        below, above = math.floor(place), math.ceil(place)
        return ascending[below] + (place - below) * (ascending[above] - ascending[below])

    def floor(self) -> float:
        beta = self.training.distillation.beta
        return 1 / beta if beta > 0 else math.inf

    def gate(self, gap: Tensor, entropy: Tensor) -> Tensor:
        low, centre, high = self.running or (math.nan,) * 3
        scale = max((high - low) / 2, self.floor())
        return torch.tanh((gap - centre) / scale).clamp(min=0)


class SdarObjective(Sdar):
    def opposed(self, token: Token) -> bool:
        return token.advantage < 0 or not token.valid

    def term(self, token: Token) -> Tensor:
        return super().term(token) * (0.0 if self.opposed(token) else 1.0)


class Gigpo(Grpo):
    def sample_advantages(self, samples: Sequence[Sample]) -> list[float]:
        returns = [self.discounted(sample, samples) for sample in samples]
        advantages = []
        for sample, own in zip(samples, returns, strict=True):
            peers = [
                value
                for other, value in zip(samples, returns, strict=True)
                if self.alike(sample, other)
            ]
            turn = self.standardised(own, peers) if len(peers) > 1 else 0.0
            # GiGPO's episode term is over turns, whatever `statistics_over` says.
            scores = [self.score(other) for other in samples if other.group == sample.group]
            episode = self.standardised(self.score(sample), scores)
            advantages.append(episode + turn)
        return advantages

    def alike(self, sample: Sample, other: Sample) -> bool:
        return other.group == sample.group and other.observation == sample.observation

    def discounted(self, sample: Sample, samples: Sequence[Sample]) -> float:
        """The environment pays on the last turn; an invalid action costs on its own."""
        total = 0.0
        for other in samples:
            if other.episode == sample.episode and other.turn >= sample.turn:
                earned = (other.episode_return if other.last else 0.0) - other.penalty
                total += self.training.discount ** (other.turn - sample.turn) * earned
        return total


class SdarGigpo(Gigpo, Sdar):
    pass


class Rlsd(Grpo):
    def mix(self) -> float:
        return 0.5 * (1 - min(self.number, 100) / 100)

    def advantages(
        self, samples: Sequence[Sample], tokens: Sequence[Sequence[Token]]
    ) -> list[list[float]]:
        mix = self.mix() / self.share()
        credited = []
        for a, row in zip(self.sample_advantages(samples), tokens, strict=True):
            if not row[0].taught:
                credited.append([a] * len(row))
                continue
            weights = [between(math.exp(sign(a) * float(t.old_gap)), 0.8, 1.2) for t in row]
            credited.append([a * ((1 - mix) + mix * weight) for weight in weights])
        return credited


class AgentOpsd(Grpo):
    fixed_clip_high = 0.24
    discount = 0.95
    mix = 0.5

    def advantages(
        self, samples: Sequence[Sample], tokens: Sequence[Sequence[Token]]
    ) -> list[list[float]]:
        plain = self.sample_advantages(samples)
        weights = [1.0] * len(samples)
        for episode in sorted({sample.episode for sample in samples}):
            rows = [i for i, sample in enumerate(samples) if sample.episode == episode]
            rows.sort(key=lambda i: samples[i].turn)
            if not tokens[rows[0]][0].taught:
                continue
            values = [self.prior(samples[rows[0]], samples)]
            carried = 0.0
            for i in rows:
                evidence = math.fsum(float(token.old_gap) for token in tokens[i])
                carried = self.discount * carried + evidence
                logit = math.log(values[0] / (1 - values[0])) + carried
                values.append(1 / (1 + math.exp(-logit)))
            credits = [sign(plain[i]) * (values[k + 1] - values[k]) for k, i in enumerate(rows)]
            if len(rows) > 1:
                for i, credit in zip(rows, credits, strict=True):
                    z = (credit - mean(credits)) / (deviation(credits) + 1e-6)
                    weights[i] = between(1 + 0.2 * z, 0.8, 1.2)
        mix = self.mix / self.share()
        mixed = [a * (1 - mix + mix * w) for a, w in zip(plain, weights, strict=True)]
        return [[a] * len(row) for a, row in zip(mixed, tokens, strict=True)]

    def prior(self, sample: Sample, samples: Sequence[Sample]) -> float:
        won = {other.episode: other.won for other in samples if other.group == sample.group}
        rate = mean(float(value) for value in won.values())
        return rate if 0 < rate < 1 else 0.5


TWINS: dict[str, type[Grpo]] = {
    "grpo": Grpo,
    "skill_grpo": Grpo,
    "sdar": Sdar,
    "opsd": Opsd,
    "grpo_opsd": GrpoOpsd,
    "skill_sd": SkillSd,
    "rlsd": Rlsd,
    "gigpo": Gigpo,
    "sdar_gigpo": SdarGigpo,
    "reverse_kl": ReverseKl,
    "agent_opsd": AgentOpsd,
    "reverse_kl_full": ReverseKlFull,
    "sdar_centred": SdarCentred,
    "sdar_adaptive": SdarAdaptive,
    "sdar_objective": SdarObjective,
}
