"""What stands in the way of training and of the warm start ends with 2 and one sentence."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from sdar.config import Layout, parse_config
from sdar.errors import SdarError
from sdar.training.demonstrations import make_demonstrations, read_demonstrations
from sdar.training.warm_tokenizer import load_own_tokenizer

# Runs cases of PLACE KIND in one process, each in a folder of its own, and says how they end.
SCRIPT = """
import contextlib, io, json, shutil, sys
from pathlib import Path
import trainer_world, typer
from sdar.cli.options import friendly
from sdar.files.lock import only_writer

@friendly
def train(root):
    with only_writer(root / "runs" / "world" / "sdar" / "seed-0"):
        trainer_world.run(root, steps=1)

sys.argv = ["sdar"]
root, cases = Path(CASES[0]), CASES[1:]
for number, (place, kind) in enumerate(cases):
    folder = root / str(number)
    path = folder / place
    if kind == "file":
        path.parent.mkdir(parents=True)
        path.write_text("x")
    else:
        (path / "inside").mkdir(parents=True)
    said, code = io.StringIO(), 0
    with contextlib.redirect_stderr(said):
        try:
            train(folder)
        except typer.Exit as end:
            code = end.exit_code
        except BaseException as error:
            code = repr(error)
    print(json.dumps([place, code, said.getvalue().splitlines()[-1]]), flush=True)
"""
RUN = "runs/world/sdar/seed-0"
IN_THE_WAY = [
    ("runs", "file"),
    ("runs/world", "file"),
    ("runs/world/sdar", "file"),
    (RUN, "file"),
    (f"{RUN}/checkpoints", "file"),
    (f"{RUN}/tokens", "file"),
    (f"{RUN}/provenance.json", "folder"),
    (f"{RUN}/config.yaml", "folder"),
    (f"{RUN}/episodes.parquet", "folder"),
    (f"{RUN}/metrics.jsonl", "folder"),
    (f"{RUN}/timings.jsonl", "folder"),
]


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    root = tmp_path_factory.mktemp("ends")
    script = f"CASES = {[str(root), *IN_THE_WAY]!r}\n{SCRIPT}"
    paths = [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    assert done.returncode == 0, done.stderr
    return {place: (code, said) for place, code, said in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("place", [place for place, _ in IN_THE_WAY])
def test_what_is_in_the_way_of_a_run_is_named(place, ends):
    code, said = ends[place]
    assert code == 2, said
    assert said.startswith("sdar: ")
    assert "runs" in said
    assert any(word in said for word in ("Is a directory", "Not a directory", "File exists"))
    assert len(said) < 1000


@pytest.fixture(scope="module")
def demonstrated(tmp_path_factory):
    root = tmp_path_factory.mktemp("demonstrated")
    values = {
        "experiment": "warm",
        "environment": {"max_turns": 4},
        "policy": {"tiny": {"layers": 1, "hidden": 32, "intermediate": 64}},
        "tracking": {"enabled": False},
        "warm_start": {"demonstrations": {"worlds": 4, "episodes": 20, "openings": 4}},
    }
    config, layout = parse_config(values), Layout(root, "warm")
    make_demonstrations(config, layout)
    return config, layout


FRAMES = {
    "no rows": lambda frame: frame.head(0),
    "gaps": lambda frame: frame.with_columns(response=pl.lit(None, dtype=pl.String)),
    "other types": lambda frame: frame.with_columns(response=pl.lit(3)),
    "a column less": lambda frame: frame.drop("user"),
}
BYTES = {"junk": os.urandom(999), "empty": b"", "a list": b"[]", "no text": b"\xff\xfe"}


@pytest.mark.parametrize("damage", [*FRAMES, "junk", "empty", "cut"])
def test_demonstrations_that_are_none(damage, demonstrated, tmp_path):
    source = demonstrated[1].demonstrations / "demonstrations.parquet"
    path = tmp_path / source.name
    if damage in FRAMES:
        FRAMES[damage](pl.read_parquet(source)).write_parquet(path)
    else:
        path.write_bytes(BYTES.get(damage, source.read_bytes()[:-30]))
    with pytest.raises(SdarError, match=r"demonstrations\.parquet cannot be read .*`sdar demonst"):
        read_demonstrations(path)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("damage", [*BYTES, "deleted"])
def test_a_tokenizer_that_is_none(name, damage, demonstrated, tmp_path):
    folder = tmp_path / "tokenizer"
    shutil.copytree(demonstrated[1].demonstrations / "tokenizer", folder)
    (folder / name).unlink()
    if damage != "deleted":
        (folder / name).write_bytes(BYTES[damage])
    with pytest.raises(SdarError, match=r"tokenizer cannot be read .*`sdar demonstrations`"):
        load_own_tokenizer(folder)


def test_no_space_for_demonstrations(demonstrated, tmp_path, file_size_limit):
    config, layout = demonstrated[0], Layout(tmp_path, "warm")
    for most in (500, 2000, 8000):
        with file_size_limit(most), pytest.raises(SdarError, match="cannot be written"):
            make_demonstrations(config, layout)
        assert not layout.demonstrations.exists(), "whole or not there"
