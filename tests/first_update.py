"""What two runs that should train alike are compared by in single precision: their first update.

Its gradient is a sum over samples at weights that both start from, so two runs differ in it by the
order of summation alone, on every processor. The weights behind it are no measure: AdamW divides a
gradient by its own size, and where that is almost zero, rounding by rounding.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

ONE_UPDATE = {"steps": 1, "minibatch": 64}
"""Keys of `training` for a run of a single optimizer step."""
ROUNDING = 5e-6
"""Most of a gradient, relative to its norm, that is rounding: in fact some 4e-7. One of two ranks
whose share counts for 1e-4 less moves it by some 5e-5."""


def with_one_update(values: dict[str, Any]) -> dict[str, Any]:
    """An experiment's values, trained for one optimizer step."""
    return values | {"training": values["training"] | ONE_UPDATE}


def gradients(run: Path) -> dict[int, Tensor]:
    """The clipped gradients of a run's only update by the number of their parameter: AdamW's first
    moments, which are a tenth of them after one step."""
    path = run / "checkpoints" / "step-00001" / "optimizer.pt"
    state = torch.load(path, weights_only=True)["state"]
    assert {int(of_parameter["step"]) for of_parameter in state.values()} == {1}, "one update"
    return {number: of_parameter["exp_avg"] for number, of_parameter in state.items()}


def gradient_norm(run: Path) -> float:
    """The norm before clipping."""
    (line,) = (run / "metrics.jsonl").read_text().splitlines()
    return float(json.loads(line)["update/gradient_norm"])


def difference(gradients: dict[int, Tensor], expected: dict[int, Tensor]) -> float:
    """Largest difference of a parameter's gradient, relative to its norm."""
    assert gradients.keys() == expected.keys()
    return max(float((gradients[n] - expected[n]).norm() / expected[n].norm()) for n in expected)


def assert_same_first_update(run: Path, expected: Path) -> None:
    """Both made one update, from one gradient but for its rounding."""
    assert difference(gradients(run), gradients(expected)) < ROUNDING
    assert gradient_norm(run) == pytest.approx(gradient_norm(expected), rel=ROUNDING)
