"""Finished chunks of an evaluation: kept where they are what was written, else played again."""

import os

import pyarrow as pa
import pytest

from sdar.evaluation.partial import Partial

EPISODES = pa.table({"task_id": ["a", "b"], "success": [True, False]})
TOKENS = pa.table({"token": ["x"], "gap": [0.5]})
KEY = {"policy": "p"}


@pytest.fixture
def partial(tmp_path):
    partial = Partial(tmp_path / ".partial", KEY)
    partial.write("valid-0", EPISODES, TOKENS)
    return partial


def test_a_chunk_that_is_whole_is_kept(partial):
    again = Partial(partial.folder, KEY)
    assert again.has("valid-0")
    assert not again.has("valid-1")
    episodes, tokens = again.read("valid-0")
    assert episodes.equals(EPISODES)
    assert tokens.equals(TOKENS)


@pytest.mark.parametrize("which", ["episodes.parquet", "tokens.parquet", "done.json"])
@pytest.mark.parametrize("damage", ["cut", "junk", "empty", "flipped", "deleted", "folder"])
def test_a_chunk_that_was_harmed_is_played_again(which, damage, partial, caplog):
    path = partial.folder / f"valid-0.{which}"
    data = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "deleted":
        path.write_bytes(
            {
                "cut": data[: len(data) // 2],
                "junk": os.urandom(200),
                "empty": b"",
                "flipped": data[:40] + bytes([data[40] ^ 1]) + data[41:],
            }[damage]
        )
    again = Partial(partial.folder, KEY)
    assert not again.has("valid-0")
    assert "played again" in caplog.text or which == "done.json"


def test_one_without_its_mark_is_not_finished(partial):
    (partial.folder / "valid-0.done.json").unlink()
    assert not partial.has("valid-0")


@pytest.mark.parametrize("junk", [b"", b"\xff\xfe", b"[]", b'{"policy": "q"}'])
def test_chunks_of_something_else_are_thrown_away(junk, partial):
    (partial.folder / "key.json").write_bytes(junk)
    assert not Partial(partial.folder, KEY).has("valid-0")


@pytest.mark.parametrize(
    "junk", [b"", b"\xff\xfe", b"[]", b"{", b'{"spans": 3}', b'{"spans": [3]}']
)
def test_how_it_was_computed_survives_damage(junk, partial):
    assert partial.computed_with({"threads": 1}) == [{"from_chunk": 1, "threads": 1}]
    (partial.folder / "computed_with.json").write_bytes(junk)
    assert partial.computed_with({"threads": 1}) == [{"from_chunk": 1, "threads": 1}]
