"""Every number of the golden file, losses and gradients: 1e-9 in float64, 1e-5 in float32."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sdar.algorithms.recorded import FORMULAS, TOLERANCES, largest_difference
from sdar.cli.replay import replay

ENTRIES = {
    "sdar_gated_loss": 7,
    "skill_sd_loss": 3,
    "rlsd_token_advantages": 4,
    "grpo_advantages": 5,
    "clipped_policy_loss": 4,
    "reference_kl": 6,
    "sdar_total_loss": 2,
    "gigpo_advantages": 2,
}
CASES = [(name, index) for name, count in ENTRIES.items() for index in range(count)]


def load(shared: Path) -> dict[str, list[dict[str, Any]]]:
    return json.loads((shared / "goldens" / "algorithms.json").read_text())


def test_every_entry_is_checked(shared: Path) -> None:
    assert {name: len(entries) for name, entries in load(shared).items()} == ENTRIES
    assert ENTRIES.keys() == FORMULAS


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("name", "index"), CASES)
def test_golden(shared: Path, name: str, index: int, dtype: torch.dtype) -> None:
    assert largest_difference(name, load(shared)[name][index], dtype) <= TOLERANCES[dtype]


@pytest.mark.parametrize("name", ENTRIES)
def test_a_number_that_is_a_little_off_is_told(shared: Path, tmp_path: Path, name: str) -> None:
    cases = {name: load(shared)[name]}
    recorded = next(
        key for key in ("loss", "token_advantages", "advantages") if key in cases[name][0]
    )
    off = torch.tensor(cases[name][0][recorded], dtype=torch.float64) + 1e-7
    cases[name][0][recorded] = off.tolist()
    file = tmp_path / "cases.json"
    file.write_text(json.dumps(cases))
    report = replay(file, None, None)
    assert (report.checked, report.mismatches) == (2 * len(cases[name]), 1)
    assert f"{name}, case 0 in float64" in report.details[0]
