"""Configuration of the warm start: demonstrations, fine-tuning on them, rounds of relabelling.

Several keys are null: what suits a tiny policy from random weights does not suit a pretrained one.
"""

import logging
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from sdar.config.execution import LoraConfig
from sdar.section import NOTHING, ROUNDING, Fraction, NonNegative, Section

log = logging.getLogger("sdar.config")
OptimizerName = Literal["muon", "adamw"]


class DemonstrationsConfig(Section):
    """Expert episodes for the warm start: from many worlds, each with its own habits, or with real
    data from the training tasks."""

    worlds: PositiveInt = 1000
    """What a world is depends on the environment: a home, a shop, an archive of facts. Real data
    have none."""
    episodes: PositiveInt = 2500
    """Of real data: on as many training tasks, or on more where the expert does not solve some;
    each is played once before any is played again."""
    hinted: Fraction = 0.5
    """Share of episodes whose prompt contains the skill (with that world's habits)."""
    openings: Annotated[int, Field(ge=0)] = 5000
    """First turns, with the hint followed, of further tasks, each in a world of its own, or of real
    training tasks."""
    mistakes: Fraction = 0.05
    """Share of turns at which a random action is carried out, so that recovery is shown too."""
    seed: int = 1000

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, values: Any) -> Any:
        """`worlds` was called `homes`. Where both stand, a file with the old name was laid over the
        defaults, so its value counts."""
        if not isinstance(values, dict) or "homes" not in values:
            return values
        log.warning("warm_start.demonstrations.homes is called worlds now: rename it")
        kept = {key: value for key, value in values.items() if key != "homes"}
        return {**kept, "worlds": values["homes"]}


class DaggerConfig(Section):
    """Rounds in which the policy plays and the expert relabels every state it reached."""

    rounds: Annotated[int, Field(ge=0)] | None = None
    """Null: 4 for the tiny policy, none for a pretrained model."""
    episodes: PositiveInt = 300
    updates: PositiveInt = 500
    learning_rate_scale: PositiveFloat = 0.5
    """Learning rates of the first round, relative to fine-tuning's."""
    decay: PositiveFloat = 0.75
    """Each later round has this share of the learning rates of the round before."""


class WarmStartConfig(Section):
    """Supervised fine-tuning of `policy.model` before reinforcement learning, with the model's own
    tokenizer and chat template, on what an expert does."""

    enabled: bool = True
    """False: training begins with `policy.model` as it is."""
    seed: int = 0
    updates: PositiveInt | None = None
    """Null: 1200 for the tiny policy, 300 for a pretrained model."""
    batch: PositiveInt = 16
    """Samples (turns) per update."""
    micro_batch: Annotated[PositiveInt | None, ROUNDING] = None
    """Samples per forward-backward pass. Null: the whole batch for the tiny policy, else
    training.micro_batch."""
    optimizer: OptimizerName | None = None
    """`muon` (with AdamW for embedding, head and norms) suits small policies that begin with random
    weights. Null: muon for the tiny policy, adamw for a pretrained model."""
    learning_rate: PositiveFloat | None = None
    """AdamW's; beside Muon that of embedding, head and norms. Null: 3e-3 for the tiny policy and
    beside Muon, else 1e-5, or 1e-4 with LoRA."""
    matrix_learning_rate: PositiveFloat = 0.02
    """Muon's, for the hidden matrices."""
    weight_decay: NonNegative = 0.01
    warmup: PositiveInt = 50
    lora: LoraConfig | None = None
    """Null: all weights are trained. With adapters, the policy is written with them merged."""
    checkpoint_every: Annotated[PositiveInt, NOTHING] = 250
    demonstrations: DemonstrationsConfig = DemonstrationsConfig()
    dagger: DaggerConfig = DaggerConfig()

    @model_validator(mode="after")
    def _possible(self) -> "WarmStartConfig":
        if self.lora is not None and self.optimizer == "muon":
            raise ValueError(
                "optimizer is muon, which is for whole matrices and not for the factors that LoRA "
                "trains: set warm_start.optimizer to adamw, or warm_start.lora to null"
            )
        return self


class Chosen(NamedTuple):
    """The keys of the warm start that may be null, as they are for a model."""

    optimizer: OptimizerName
    learning_rate: float
    updates: int
    dagger_rounds: int
    micro_batch: int | None
    """None: the whole batch at once."""

    def keys(self) -> dict[str, Any]:
        """By the names that the keys have below `warm_start`."""
        values = self._asdict()
        return {**values, "dagger.rounds": values.pop("dagger_rounds")}


def chosen(settings: WarmStartConfig, micro_batch: int | None) -> Chosen:
    """What null stands for. `micro_batch` is training's; None for the tiny policy."""
    tiny = micro_batch is None
    optimizer = settings.optimizer or ("muon" if tiny else "adamw")
    usual_rate = 1e-5 if settings.lora is None else 1e-4
    if tiny or optimizer == "muon":
        usual_rate = 3e-3
    rounds = settings.dagger.rounds
    return Chosen(
        optimizer=optimizer,
        learning_rate=settings.learning_rate or usual_rate,
        updates=settings.updates or (1200 if tiny else 300),
        dagger_rounds=(4 if tiny else 0) if rounds is None else rounds,
        micro_batch=settings.micro_batch or micro_batch,
    )
