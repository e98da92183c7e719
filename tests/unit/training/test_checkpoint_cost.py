"""A word, once, where checkpoints take too much of a run's time."""

import logging
import re

import pytest

from sdar.training.checkpoint_cost import CheckpointCost


@pytest.mark.parametrize(
    ("seconds", "checkpoint", "said"),
    [
        (10.0, 0.0, None),
        (14.0, 4.0, None),  # too short for a word
        (15.0, 5.0, None),  # 5 of 55 seconds
        (70.0, 60.0, "took 60 s, 55% .* training.checkpoint_every 54 would make it 10%"),
    ],
)
def test_what_is_said_of_a_checkpoint(seconds, checkpoint, said, caplog):
    cost = CheckpointCost(every=5)
    with caplog.at_level(logging.WARNING):
        cost.step(10.0, 0.0)
        cost.step(seconds, checkpoint)
        cost.step(seconds, checkpoint)
    assert len(caplog.records) == (said is not None)
    if said is not None:
        assert re.search(said, caplog.text)
