"""Where a run was recorded."""

from pathlib import Path

import pytest

from sdar.errors import SdarError
from sdar.tracking.track import recorded_runs


def test_an_evaluation_s_record_is_found_beside_its_results(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "x" / "sdar" / "seed-0"
    for name in ("evaluation", "evaluating"):
        (run / name).mkdir(parents=True)
    with pytest.raises(SdarError, match="no run was recorded here"):
        recorded_runs(run / "evaluation")
    (run / "evaluating" / "tracking.json").write_text("{}")
    assert recorded_runs(run / "evaluation") == [run / "evaluating"]
    assert recorded_runs(run) == [run / "evaluating"]
    earlier = run / "evaluation" / "tracking.json"  # as earlier versions left it
    earlier.write_text("{}")
    assert recorded_runs(run / "evaluation") == [run / "evaluation"]
