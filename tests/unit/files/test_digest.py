"""Digests are part of what is kept on disk: checkpoints continue and caches are found by them."""

import hashlib
from pathlib import Path

from sdar.files.digest import file_digest, folder_digest, json_digest, parts_digest, text_digest

# `printf abc | sha256sum`
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_bytes_have_one_digest_however_they_come(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert text_digest("abc") == ABC
    assert parts_digest([b"a", b"", b"bc"]) == ABC
    assert file_digest(path) == ABC
    assert text_digest("é") == hashlib.sha256(b"\xc3\xa9").hexdigest()


def test_a_json_value_has_one_digest_whatever_the_order_of_its_keys() -> None:
    assert json_digest({"b": [1, None], "a": "é"}) == json_digest({"a": "é", "b": [1, None]})
    assert json_digest({"b": [1, None], "a": "é"}) == text_digest(
        '{"a": "\\u00e9", "b": [1, null]}'
    )


def test_a_folder_s_digest_is_of_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").write_bytes(b"abc")
    (tmp_path / "a").write_bytes(b"")
    parts = [b"a", hashlib.sha256(b"").digest(), b"b/c", bytes.fromhex(ABC)]
    before = folder_digest(tmp_path)
    assert before == parts_digest(parts)
    (tmp_path / "a").rename(tmp_path / "d")
    assert folder_digest(tmp_path) != before
