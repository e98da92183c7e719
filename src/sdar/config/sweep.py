"""Configuration of the sweep: the ablation over gate, beta, lambda, skill retrieval, and share of
the turns that are taught."""

from typing import Literal

from pydantic import PositiveInt, field_validator

from sdar.methods.gates import RunGate
from sdar.methods.roles import SweptMethod
from sdar.section import Name, NonNegative, Section, Seed, Share

RetrievalKind = Literal["type", "keyword", "all", "random", "none"]


class SweepConfig(Section):
    """Every combination of these lists, each trained and compared with lambda = 0: the target
    `sweep`. An empty list stands for the experiment's own value; all five empty: no sweep. See
    `sdar sweep list`."""

    gates: tuple[RunGate, ...] = ()
    betas: tuple[NonNegative, ...] = ()
    coefficients: tuple[NonNegative, ...] = ()
    """Lambdas. 0 is always among them: it is the baseline."""
    retrievals: tuple[RetrievalKind, ...] = ()
    shares: tuple[Share, ...] = ()
    """Of the turns, those that the teacher scores (`training.distillation.share`)."""
    method: SweptMethod = "sdar"
    """What is varied. Its baseline is the same method at lambda = 0: grpo, or gigpo."""
    seeds: tuple[Seed, ...] = ()
    """Empty: the experiment's seeds."""
    panels: tuple[Name, ...] = ()
    """Panels each run is evaluated on, taken together. Empty: the first of evaluation.panels."""
    steps: PositiveInt | None = None
    """Training steps of each run; null: training.steps."""
    max_teacher_prompt_tokens: PositiveInt | None = None
    """The teacher's limit in the sweep's runs, their context raised to hold it; null: that of the
    policy section. Retrieval `all` needs several times that of `type`."""

    @field_validator("gates", "betas", "coefficients", "retrievals", "shares", "seeds", "panels")
    @classmethod
    def _distinct(cls, values: tuple[object, ...]) -> tuple[object, ...]:
        if len(set(values)) != len(values):
            raise ValueError(f"lists a value twice: {list(values)}; remove the repeat")
        return values

    @property
    def is_set(self) -> bool:
        """Something is to be varied."""
        varied = (self.gates, self.betas, self.coefficients, self.retrievals, self.shares)
        return any(map(bool, varied))
