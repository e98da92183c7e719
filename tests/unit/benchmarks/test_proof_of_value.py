"""The proof that two commits compute the same: what is compared, told apart and let pass.

Trees of results are made here; no commit is run.
"""

import argparse
import fcntl
import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from proof_comparison import (
    KINDS,
    NO_FUNCTION_OF_THE_RUN,
    Compared,
    Declared,
    compare_trees,
)
from proof_fields import Difference, compare_bytes, compare_files
from proof_of_value import parse_allowed, read_allowed, report, table, unused
from proof_runs import ProofError, Tree, command, config_file, locked, open_tree

RUN = "runs/small/sdar/seed-0"


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def make_tree(root: Path) -> Path:
    """A file of each kind, as an experiment `small` leaves them."""
    write(root / "data/small/tasks/tasks.jsonl", '{"id": "a"}\n')
    write(root / "data/small/tasks/.snakemake_timestamp", str(root))
    write(root / "data/small/demonstrations/demonstrations.parquet", b"PAR1")
    write(root / "runs/small/warm_start/policy/model.safetensors", b"\x00\x01\x02\x03")
    write(root / RUN / "metrics.jsonl", '{"step": 0, "loss": 0.5}\n{"step": 1, "loss": 0.25}\n')
    write(root / RUN / "timings.jsonl", f'{{"step": 0, "host": "{root}"}}\n')
    write(root / RUN / "evaluation/summary.json", json.dumps({"success": 0.5, "tasks": 6}))
    pl.DataFrame({"task": ["a", "b"], "return": [1.0, 2.0]}).write_parquet(
        root / RUN / "evaluation/episodes.parquet"
    )
    pl.DataFrame({"step": [0]}).write_parquet(root / RUN / "episodes.parquet")
    comparison = {"costs": [{"method": "sdar", "seconds": {"update": 0.25}}], "rates": [0.5]}
    write(root / "results/small/comparison.json", json.dumps(comparison))
    write(root / "results/small/comparison.md", "# small\n\n| 0.5 |\n\n## Cost\n\n| 0.25 |\n")
    write(root / "results/small/answers.json", "{}")
    write(root / "results/small/figures/curves.svg", "<svg><path d='M 0 1'/></svg>")
    write(root / "results/small/comparison.html", "<html></html>")
    return root


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    return make_tree(tmp_path / "old"), make_tree(tmp_path / "new")


def compare(trees: tuple[Path, Path], *declared: Declared) -> list[Compared]:
    return compare_trees(*trees, "small", declared)


def unequal(compared: list[Compared]) -> list[Compared]:
    return [one for one in compared if one.verdict != "equal"]


def fields(old: Path, new: Path) -> dict[str, tuple[str, str, str]]:
    return {d.field: (d.where, d.old, d.new) for d in compare_files(old, new)}


def test_equal_trees_are_equal_and_have_every_kind(trees: tuple[Path, Path]) -> None:
    compared = compare(trees)
    assert {one.kind for one in compared} == set(KINDS)
    assert {one.verdict for one in compared} == {"equal"}
    assert report(compared, [], True).endswith("\nEQUAL")


def test_times_hidden_files_and_other_experiments_are_not_compared(
    trees: tuple[Path, Path],
) -> None:
    write(trees[1] / "runs/other/sdar/seed-0/metrics.jsonl", "{}\n")
    paths = [one.path for one in compare(trees)]
    assert not [path for path in paths if "timings" in path or "/." in path or "other" in path]
    assert f"{RUN}/metrics.jsonl" in paths


def test_a_changed_field_is_named_with_both_values(trees: tuple[Path, Path]) -> None:
    write(
        trees[1] / RUN / "metrics.jsonl",
        '{"step": 0, "loss": 0.5}\n{"step": 1, "loss": 0.125}\n',
    )
    (one,) = unequal(compare(trees))
    assert (one.kind, one.path, one.verdict) == ("metrics", f"{RUN}/metrics.jsonl", "differs")
    assert one.differences == [Difference("loss", "line 2", "0.25", "0.125")]
    text = report([one], [], False)
    assert f"differs: {RUN}/metrics.jsonl" in text
    assert "loss (line 2)" in text
    assert text.endswith("\nNOT EQUAL")


def test_a_missing_file_is_in_one_tree_only(trees: tuple[Path, Path]) -> None:
    (trees[1] / RUN / "evaluation/summary.json").unlink()
    write(trees[1] / "results/small/figures/new.svg", "<svg/>")
    verdicts = {one.path: one.verdict for one in unequal(compare(trees))}
    assert verdicts == {
        f"{RUN}/evaluation/summary.json": "only in old",
        "results/small/figures/new.svg": "only in new",
    }


def test_a_declared_field_is_let_pass_and_named(trees: tuple[Path, Path]) -> None:
    path = trees[1] / RUN / "evaluation/summary.json"
    write(path, json.dumps({"success": 0.5, "tasks": 7}))
    allowed = Declared("evaluations", "tasks", "worlds are counted")
    idle = Declared("metrics", "loss", "not so")
    compared = compare(trees, allowed, idle)
    assert [one.verdict for one in unequal(compared)] == ["declared"]
    assert unused([allowed, idle], compared) == [idle]
    text = report(compared, [allowed, idle], True)
    assert "1 x worlds are counted" in text
    assert "not needed: metrics:loss" in text


def test_a_declared_field_hides_no_other(trees: tuple[Path, Path]) -> None:
    path = trees[1] / RUN / "evaluation/summary.json"
    write(path, json.dumps({"success": 1.0, "tasks": 7}))
    (one,) = unequal(compare(trees, Declared("evaluations", "tasks", "worlds are counted")))
    assert one.verdict == "differs"
    assert [d.field for d in one.differences if d.reason is None] == ["success"]


def test_seconds_are_no_function_of_the_run(trees: tuple[Path, Path]) -> None:
    for name in ("comparison.json", "comparison.md"):
        path = trees[1] / "results/small" / name
        write(path, path.read_text().replace("0.25", "0.75"))
    compared = compare(trees, *NO_FUNCTION_OF_THE_RUN)
    assert [one.verdict for one in unequal(compared)] == ["declared", "declared"]
    path = trees[1] / "results/small/comparison.md"
    write(path, path.read_text().replace("0.5", "0.6"))
    compared = compare(trees, *NO_FUNCTION_OF_THE_RUN)
    assert [one.verdict for one in unequal(compared)] == ["declared", "differs"]


def test_json_leaves_types_and_order_count(tmp_path: Path) -> None:
    old = write(tmp_path / "old.json", '{"a": {"b": [1, 2]}, "c": NaN, "d": 1}')
    new = write(tmp_path / "new.json", '{"d": 1.0, "a": {"b": [1, 3]}, "c": NaN, "e": null}')
    assert fields(old, new) == {
        "a.b.1": ("", "2", "3"),
        "d": ("", "1", "1.0"),
        "e": ("", "missing", "null"),
        "(order)": ("", "a.b.0", "d"),
    }


def test_equal_values_in_other_bytes_differ(tmp_path: Path) -> None:
    old = write(tmp_path / "old.json", '{"a": 1}')
    new = write(tmp_path / "new.json", '{"a":1}')
    assert fields(old, new) == {"(bytes)": ("byte 5", "' 1}'", "'1}'")}


def test_json_lines_of_another_number(tmp_path: Path) -> None:
    old = write(tmp_path / "old.jsonl", '{"a": 1}\n')
    new = write(tmp_path / "new.jsonl", '{"a": 1}\n{"a": 2}\n')
    assert fields(old, new) == {"(lines)": ("", "1", "2")}


def test_parquet_columns_rows_and_types(tmp_path: Path) -> None:
    old, new, longer = (tmp_path / f"{name}.parquet" for name in ("old", "new", "longer"))
    nan = float("nan")
    pl.DataFrame({"a": [1, 2], "b": [nan, 2.0], "c": ["x", "y"], "d": [1, 2]}).write_parquet(old)
    pl.DataFrame({"a": [1, 3], "b": [nan, 2.0], "d": [1.0, 2.0], "e": [0, 0]}).write_parquet(new)
    assert fields(old, new) == {
        "a": ("row 1", "2", "3"),
        "c": ("type", "String", "missing"),
        "d": ("type", "Int64", "Float64"),
        "e": ("type", "missing", "Int64"),
    }
    pl.read_parquet(old).head(1).write_parquet(longer)
    assert fields(longer, old) == {"(rows)": ("", "1", "2")}


def test_markdown_by_its_sections(tmp_path: Path) -> None:
    old = write(tmp_path / "old.md", "# A\n1\n## Cost\n2\n")
    new = write(tmp_path / "new.md", "# A\n1\n## Cost\n3\n## B\n")
    assert fields(old, new) == {"Cost": ("section", "2", "3"), "B": ("section", "missing", "## B")}


@pytest.mark.parametrize(
    ("old", "new", "where"), [(b"abc", b"abd", "byte 2"), (b"ab", b"abc", "byte 2")]
)
def test_the_first_byte(old: bytes, new: bytes, where: str) -> None:
    assert compare_bytes(old, new).where == where


def test_the_table_counts_files_by_kind_and_verdict(trees: tuple[Path, Path]) -> None:
    (trees[0] / RUN / "metrics.jsonl").unlink()
    rows = {line[:16].strip(): line[16:].split() for line in table(compare(trees)).splitlines()}
    assert rows["metrics"] == ["0", "0", "0", "0", "1"]
    assert rows["evaluations"] == ["2", "0", "0", "0", "0"]


def test_allowances_are_read_from_words_and_files(tmp_path: Path) -> None:
    declared = Declared("results/*/comparison.json", "costs.*", "a = b: so")
    assert parse_allowed("results/*/comparison.json:costs.*=a = b: so") == declared
    assert declared.covers("comparison", "results/small/comparison.json", "costs.0.seconds")
    assert not declared.covers("comparison", "results/small/comparison.md", "costs.0.seconds")
    path = write(tmp_path / "allowed", "# why\n\nmetrics:loss=in bits\n")
    assert read_allowed(path) == [Declared("metrics", "loss", "in bits")]
    for wrong in ("metrics", "metrics:loss", "metrics:loss=", "loss=in bits"):
        with pytest.raises(argparse.ArgumentTypeError, match="KIND:FIELD=REASON"):
            parse_allowed(wrong)


def test_a_worktree_runs_its_own_program(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "1a2b3c4", "1a2b3c4")
    write(tree.root / "pyproject.toml", '[project.scripts]\nsdar = "sdar.there.main:start"\n')
    words = command(tree, "minute", "2")
    assert words[-2:] == ["--", "all"]
    assert words[words.index("--configfile") + 1] == "config/experiments/minute.yaml"
    assert config_file("default") == Path("config/config.yaml")
    program = (tmp_path / "1a2b3c4.bin/sdar").read_text()
    assert "from sdar.there.main import start" in program
    # A process that it spawns imports it again.
    assert program.endswith('if __name__ == "__main__":\n    sys.exit(start())\n')
    assert str(tmp_path / "1a2b3c4.bin") in (tmp_path / "1a2b3c4.yaml").read_text()


def test_an_unknown_commit_is_said(tmp_path: Path) -> None:
    with pytest.raises(ProofError, match="no-such-commit"):
        open_tree(tmp_path, "no-such-commit")


def test_complete_experiments_are_remembered(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "1a2b3c4", "1a2b3c4")
    assert tree.seconds() == {}
    write(tree.beside(".json"), '{"commit": "1a2b3c4", "seconds": {"minute": 60.5}}')
    assert tree.seconds() == {"minute": 60.5}


def test_a_worktree_is_locked_while_what_was_started_there_lives(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "1a2b3c4", "1a2b3c4")
    with locked(tree) as lock:
        waits = [sys.executable, "-c", "input()"]
        started = subprocess.Popen(waits, stdin=subprocess.PIPE, pass_fds=[lock])
    with tree.beside(".lock").open("w") as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        started.communicate(b"\n")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
