"""What the checkpoints of a training run take of a disk.

A checkpoint holds the trained weights in float32 and AdamW's two moments of each: 12 bytes a
trained parameter. It is written and hashed while nothing is computed.
"""

from dataclasses import dataclass

from sdar.config import ExperimentConfig
from sdar.memory.estimate import trained_parameters
from sdar.methods.roles import trained_among
from sdar.policy.shape import shape_of_policy

GB = 10**9


@dataclass(frozen=True)
class CheckpointDisk:
    """Bytes: of a checkpoint, of all that a run writes, of what lies there at most for all runs of
    the experiment. `times` a run writes one."""

    checkpoint: int
    times: int
    written: int
    at_most: int

    def sentence(self) -> str:
        """For people, in GB."""
        return (
            f"a checkpoint has {_gb(self.checkpoint)}; a run writes {self.times}, "
            f"{_gb(self.written)} with its policy; all runs together hold at most "
            f"{_gb(self.at_most)}"
        )


def checkpoint_disk(config: ExperimentConfig) -> CheckpointDisk | None:
    """Of the methods that the experiment trains; None where the model's shape is not known."""
    shape = shape_of_policy(config)
    if shape is None:
        return None
    training = config.training
    checkpoint, policy = 12 * trained_parameters(shape, training.lora), 4 * shape.parameters
    times = -(-training.steps // training.checkpoint_every)
    runs = len(trained_among(config.methods)) * len(config.seeds)
    # A new one is whole before the oldest goes. The warm start keeps two.
    kept = runs * (min(times, training.keep_checkpoints) * checkpoint + policy) + checkpoint
    if config.warm_start.enabled:
        kept += 2 * 12 * trained_parameters(shape, config.warm_start.lora) + policy
    return CheckpointDisk(checkpoint, times, times * checkpoint + policy, kept)


def _gb(count: int) -> str:
    return f"{count / GB:.1f} GB" if count >= GB / 10 else f"{count / 10**6:.0f} MB"
