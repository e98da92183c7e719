"""The run's choices as the algorithms take them: filled here alone."""

from sdar.algorithms.loss import LossSettings
from sdar.algorithms.step import AdvantageSettings
from sdar.algorithms.teaching import TeachingSchedule
from sdar.config import ExperimentConfig


def advantage_settings(config: ExperimentConfig) -> AdvantageSettings:
    """The run's part of the advantages."""
    training = config.training
    return AdvantageSettings(
        statistics_over=training.statistics_over,
        normalize_by_std=training.normalize_by_std,
        discount=training.discount,
        teacher_share=training.distillation.share,
    )


def loss_settings(config: ExperimentConfig) -> LossSettings:
    """The run's part of the loss."""
    training = config.training
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
        teacher_share=training.distillation.share,
    )


def teaching_schedule(config: ExperimentConfig) -> TeachingSchedule:
    """The run's schedule of the distillation term."""
    chosen = config.training.distillation
    return TeachingSchedule(
        kind=chosen.schedule,
        steps=chosen.steps or 1,
        below=chosen.retire_below or 0.0,
        over=chosen.retire_over,
    )
