"""Several runs in one process, each with its own precision."""

import pytest
import trainer_world

from sdar.training.parts import make_accelerator


@pytest.mark.parametrize("order", [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_a_run_computes_in_its_own_precision_whatever_ran_before_it(order):
    for dtype in order:
        accelerator = make_accelerator(trainer_world.configuration({"policy": {"dtype": dtype}}))
        assert accelerator.mixed_precision == ("bf16" if dtype == "bfloat16" else "no")
