"""A training step that is done: its samples, what was measured, what it cost.

Shape suffixes: S samples (turns of all episodes of a step), R response tokens.
"""

from dataclasses import dataclass

from torch import Tensor

from sdar.clock import PhaseClock
from sdar.memory.peak import peak_memory_gib
from sdar.training.measures import Metrics
from sdar.training.step_batch import StepBatch


@dataclass
class StepResult:
    """Per-token values are `[S, R]`, on the CPU, 0 on padding. `old_SR` and `teacher_SR` are under
    the weights at the step's start; `student_SR`, gap and gate are as the loss saw them. Those of
    the teacher mean nothing in turns that were not taught (`batch.taught_S`)."""

    step: int
    batch: StepBatch
    old_SR: Tensor
    student_SR: Tensor
    teacher_SR: Tensor | None
    reference_SR: Tensor | None
    advantages_SR: Tensor
    gap_SR: Tensor | None
    gate_SR: Tensor | None
    metrics: Metrics
    clock: PhaseClock

    def timings(self) -> dict[str, float]:
        """Seconds of each phase (together they are the step), tokens per second, memory."""
        seconds = dict(self.clock.seconds)
        whole = sum(seconds.values())
        tokens = sum(self.batch.lengths())
        played = seconds["environment"] + seconds["generation"]
        taught = self.batch.taught
        teacher_prompts = sum(len(made.prompt.token_ids) for _, _, made in taught)
        return {
            **{f"{phase}_s": round(value, 4) for phase, value in seconds.items()},
            "total_s": round(whole, 4),
            "tokens": tokens,
            "teacher_prompt_tokens": teacher_prompts,
            "taught_prompt_tokens": sum(len(t.prompt.token_ids) for _, t, _ in taught),
            "teacher_tokens": teacher_prompts + sum(len(t.response_ids) for _, t, _ in taught),
            "tokens_per_second": round(tokens / whole, 1),
            "rollout_tokens_per_second": round(tokens / played, 1),
            "update_tokens_per_second": round(tokens / seconds["update"], 1),
            **peak_memory_gib(),
        }

    def summary(self) -> dict[str, str]:
        """For the progress bar."""
        shown = {"success": f"{self.metrics['train/success']:.2f}"}
        for name in ("gap", "gate"):
            if f"{name}/mean" in self.metrics:
                shown[name] = f"{self.metrics[f'{name}/mean']:+.2f}"
        rate = sum(self.batch.lengths()) / sum(self.clock.seconds.values())
        return shown | {"tok/s": f"{rate:.0f}"}
