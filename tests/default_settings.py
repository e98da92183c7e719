"""The default experiment's settings of loss and advantages, for tests of the algorithms."""

from sdar.algorithms.loss import LossSettings
from sdar.algorithms.step import AdvantageSettings

LOSS = LossSettings(
    clip_low=0.2,
    clip_high=0.2,
    dual_clip=3.0,
    kl_coefficient=0.01,
    kl_estimator="k3",
    entropy_coefficient=0.001,
    distillation_coefficient=0.1,
    beta=5.0,
    gate="gap",
)
ADVANTAGES = AdvantageSettings(statistics_over="steps", normalize_by_std=True, discount=0.95)
