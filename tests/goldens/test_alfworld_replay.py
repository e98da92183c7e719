"""Transcripts of the stock engine, replayed: every text, list, flag, in order."""

import copy
import json
from pathlib import Path

import pytest

from sdar.cli.replay import replay
from sdar.errors import SdarError

pytest.importorskip("alfworld", reason='needs pip install "sdar[alfworld]"')


@pytest.fixture(scope="module")
def transcripts(shared: Path) -> list[dict]:
    return json.loads((shared / "goldens" / "alfworld_transcripts.json").read_text())


@pytest.mark.slow
def test_all_transcripts_match(shared: Path) -> None:
    report = replay(
        shared / "goldens" / "alfworld_transcripts.json", "alfworld", shared / "data" / "alfworld"
    )
    # 36 first observations and 373 steps.
    assert report.lines() == ["409 checked, 0 mismatches"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("observation", "You see nothing."), ("won", True), ("done", True), ("admissible", ["look"])],
)
def test_a_difference_is_found_and_told(
    shared: Path, transcripts: list[dict], tmp_path: Path, key: str, value: object
) -> None:
    episode = copy.deepcopy(transcripts[0])
    episode["steps"][0][key] = value
    changed = tmp_path / "transcripts.json"
    changed.write_text(json.dumps([episode]))
    report = replay(changed, "alfworld", shared / "data" / "alfworld")
    assert report.mismatches == 1
    assert "step 0" in report.details[0]
    assert report.lines()[-1].endswith("checked, 1 mismatches")


def test_order_of_admissible_commands_counts(
    shared: Path, transcripts: list[dict], tmp_path: Path
) -> None:
    episode = copy.deepcopy(transcripts[0])
    episode["first_admissible"] = episode["first_admissible"][::-1]
    changed = tmp_path / "transcripts.json"
    changed.write_text(json.dumps([episode]))
    assert replay(changed, "alfworld", shared / "data" / "alfworld").mismatches == 1


def test_refusals_name_what_is_wrong(shared: Path, transcripts: list[dict], tmp_path: Path) -> None:
    golden = shared / "goldens" / "alfworld_transcripts.json"
    with pytest.raises(SdarError, match=r"neither json_2\.1\.1/ nor"):
        replay(golden, "alfworld", tmp_path)
    with pytest.raises(SdarError, match="use --environment alfworld"):
        replay(golden, "webshop", tmp_path)
    unknown = tmp_path / "unknown.json"
    unknown.write_text("[1, 2]")
    with pytest.raises(SdarError, match="not a format"):
        replay(unknown, "alfworld", tmp_path)
    unknown.write_text("[1, ")
    with pytest.raises(SdarError, match="cannot be read as JSON"):
        replay(unknown, "alfworld", tmp_path)
    (tmp_path / "json_2.1.1.tar.xz").write_bytes(b"no archive")
    with pytest.raises(SdarError, match="cannot be unpacked"):
        replay(golden, "alfworld", tmp_path)
