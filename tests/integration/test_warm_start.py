"""A warm start that is killed or interrupted and started again is the one that was not."""

import json
import logging
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml

from sdar.config import Layout, parse_config
from sdar.environments.alfworld.practice import practice
from sdar.errors import SdarError
from sdar.interruption import STOPPED_CODE
from sdar.policy.chat import render_prompt
from sdar.policy.loading import load_policy
from sdar.rollout.engines.transformers import TransformersEngine
from sdar.training import warm_start as stage
from sdar.training.demonstrations import make_demonstrations, read_demonstrations
from sdar.training.relabelling import FIRST_OWN_EPISODE

# Not importorskip: importing alfworld creates a data folder in the user's home.
if find_spec("alfworld") is None:
    pytest.skip("games are made from the scenes of the alfworld wheel", allow_module_level=True)

VALUES = {
    "experiment": "warm",
    "environment": {"max_turns": 4},
    "policy": {"tiny": {"layers": 1, "hidden": 32, "intermediate": 64}},
    "tracking": {"enabled": False},
    "execution": {"warm_start_threads": 1},
    "warm_start": {
        "updates": 12,
        "warmup": 2,
        "checkpoint_every": 5,
        "batch": 4,
        "demonstrations": {"worlds": 4, "episodes": 40, "openings": 8},
        "dagger": {"rounds": 2, "episodes": 4, "updates": 6},
    },
}
LAST = 12 + 2 * 6
COMPARED = (
    "metrics.jsonl",
    "policy/model.safetensors",
    "policy/tokenizer.json",
    "relabelled/round-1.parquet",
    "relabelled/round-2.parquet",
)
# The command line, in a process that raises SIGNAL when the warm start enters its CALLth update or
# its CALLth generation. Records every third update, so that there is something to cut and compare.
SCRIPT = """
import os, sys
where, number, call, *arguments = sys.argv[1:]
sys.argv = ["sdar", *arguments]
from sdar.rollout.engines.transformers import TransformersEngine
from sdar.training import sft, warm_start
warm_start.RECORD_EVERY = 3
owner, name = {
    "update": (sft, "supervised_loss"), "generation": (TransformersEngine, "generate")
}[where]
plain, left = getattr(owner, name), int(call)

def mortal(*given, **options):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), int(number))
    return plain(*given, **options)

setattr(owner, name, mortal)
from sdar.cli.app import main
main()
"""


def configuration(**warm_start):
    return parse_config(VALUES | {"warm_start": {**VALUES["warm_start"], **warm_start}})


def run(root: Path, config=None) -> Path:
    config = config or configuration()
    layout = Layout(root, "warm")
    stage.warm_start(config, layout)
    return layout.warm_start


@pytest.fixture(autouse=True)
def _record_often(monkeypatch):
    monkeypatch.setattr(stage, "RECORD_EVERY", 3)


@pytest.fixture(scope="module")
def demonstrated(tmp_path_factory):
    root = tmp_path_factory.mktemp("demonstrated")
    make_demonstrations(configuration(), Layout(root, "warm"))
    return root


@pytest.fixture(scope="module")
def finished(demonstrated, tmp_path_factory):
    root = tmp_path_factory.mktemp("finished") / "root"
    shutil.copytree(demonstrated, root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "RECORD_EVERY", 3)
        return run(root)


@pytest.fixture
def root(demonstrated, tmp_path):
    shutil.copytree(demonstrated / "data", tmp_path / "data")
    return tmp_path


def assert_same(folder, expected):
    for name in COMPARED:
        assert (folder / name).read_bytes() == (expected / name).read_bytes(), name


def steps_of(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def die(root, where, number, call):
    (root / "warm.yaml").write_text(yaml.safe_dump(VALUES))
    options = ["warm-start", "--config", str(root / "warm.yaml"), "--root", str(root)]
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, where, str(int(number)), str(call), *options],
        capture_output=True,
        text=True,
        check=False,
    )


def newest(folder):
    checkpoints = sorted((folder / "checkpoints").glob("step-*"))
    return int(checkpoints[-1].name.removeprefix("step-")) if checkpoints else 0


def test_it_makes_a_policy_that_loads_and_speaks(finished):
    model, tokenizer = load_policy(finished / "policy")
    prompt = render_prompt(tokenizer, [{"role": "user", "content": "You can: ['look']"}])
    (said,) = TransformersEngine(model, tokenizer).generate(
        [prompt], [(0, 0, 0, 0)], max_new_tokens=8, temperature=1.0
    )
    assert 1 <= len(said.token_ids) <= 8
    assert steps_of(finished) == [3, 6, 9, 12, 15, 18, 21, 24]
    records = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [r["sft/round"] for r in records] == [0, 0, 0, 0, 1, 1, 2, 2]
    losses = [r["sft/loss"] for r in records]
    assert losses[3] < losses[0]
    assert newest(finished) == LAST


def test_own_episodes_are_labelled_turn_by_turn_with_and_without_the_hint(finished):
    for number in (1, 2):
        turns = read_demonstrations(finished / "relabelled" / f"round-{number}.parquet")
        episodes = {turn.episode for turn in turns}
        first = FIRST_OWN_EPISODE + (number - 1) * 4
        assert episodes == set(range(first, first + 4))
        for episode in episodes:
            own = [turn for turn in turns if turn.episode == episode]
            assert [turn.turn for turn in own] == list(range(len(own)))
            assert len(own) <= 4
            case = practice(configuration(), episode)
            assert {(turn.hinted, turn.task_type) for turn in own} == {
                (case.hinted, case.game.task_type)
            }


def test_generation_leaves_nothing_behind_in_the_weights(finished, root):
    """Threads, generators: a second one in the same process is the same."""
    torch.manual_seed(5)
    assert_same(run(root), finished)


# Updates 1..12 are fine-tuning, 13..18 and 19..24 the rounds; a round has up to four generations.
@pytest.mark.parametrize(
    ("where", "call", "saved"),
    [
        ("update", 3, 0),
        ("update", 9, 5),
        ("generation", 2, 10),
        ("update", 17, 15),
        ("update", 22, 20),
    ],
)
def test_killed_in_mid_phase_and_continued(where, call, saved, finished, root):
    died = die(root, where, signal.SIGKILL, call)
    assert died.returncode == -signal.SIGKILL, died.stderr
    folder = Layout(root, "warm").warm_start
    assert newest(folder) == saved
    assert not (folder / "policy").exists()
    if saved:
        assert max(steps_of(folder)) >= saved - 2, "it has records to go on from"
    assert_same(run(root), finished)


@pytest.mark.parametrize(("where", "call"), [("update", 8), ("generation", 3)])
def test_ctrl_c_ends_cleanly_and_goes_on(where, call, finished, root):
    ended = die(root, where, signal.SIGINT, call)
    assert ended.returncode == 130, ended.stderr
    assert "Traceback" not in ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("sdar: interrupted;")
    assert "To go on: sdar warm-start --config" in last
    folder = Layout(root, "warm").warm_start
    assert newest(folder) >= 5
    assert not (folder / "policy").exists()
    assert_same(run(root), finished)


@pytest.mark.parametrize(("where", "call", "saved"), [("update", 8, 8), ("generation", 3, 13)])
def test_told_to_stop_it_saves_the_update_and_goes_on(where, call, saved, finished, root):
    """Checkpoints are due every fifth update: those after 8 and 13 are the signal's doing. What the
    policy plays in a round has no states to save: the round's first update is waited for."""
    ended = die(root, where, signal.SIGUSR1, call)
    assert ended.returncode == STOPPED_CODE, ended.stderr
    assert "Traceback" not in ended.stderr
    folder = Layout(root, "warm").warm_start
    assert newest(folder) == saved
    assert not (folder / "policy").exists()
    assert_same(run(root), finished)


def copy_of(finished, root):
    folder = Layout(root, "warm").warm_start
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "policy")
    return folder


def test_finished_it_is_exported_again_without_an_update(finished, root, monkeypatch):
    folder = copy_of(finished, root)
    monkeypatch.setattr(stage, "fine_tune", None)
    run(root)
    assert_same(folder, finished)


def test_a_cut_checkpoint_falls_back_to_the_one_before_and_says_so(finished, root, caplog):
    folder = copy_of(finished, root)
    victim = folder / "checkpoints" / f"step-{LAST:05d}" / "optimizer.pt"
    victim.write_bytes(victim.read_bytes()[:100])
    with caplog.at_level(logging.WARNING, logger="sdar.training"):
        run(root)
    assert f"step-{LAST:05d} is not usable" in caplog.text
    assert "continuing the warm start at update 20" in caplog.text
    assert_same(folder, finished)


def test_other_settings_begin_anew_and_their_checkpoints_stay(finished, root, caplog, monkeypatch):
    """Later checkpoints of other settings must not push out what is being trained now."""
    folder = copy_of(finished, root)
    other = configuration(learning_rate=1e-3)
    plain, saved = stage.save_checkpoint, []

    def broken_off(*given, **options):
        saved.append(plain(*given, **options))
        if len(saved) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, logger="sdar.training"):
        patch.setattr(stage, "save_checkpoint", broken_off)
        with pytest.raises(KeyboardInterrupt):
            run(root, other)
    assert "other settings or data" in caplog.text
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
        "step-00005",
        "step-00010",
    ]
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="sdar.training"):
        run(root, other)
    assert "continuing the warm start at update 10" in caplog.text
    assert (folder / "metrics.jsonl").read_bytes() != (finished / "metrics.jsonl").read_bytes()


def test_what_is_missing_or_broken_is_named_with_its_remedy(finished, root):
    folder = copy_of(finished, root)
    relabelled = folder / "relabelled" / "round-1.parquet"
    relabelled.write_bytes(relabelled.read_bytes()[:50])
    with pytest.raises(SdarError, match=r"round-1\.parquet cannot be read .*remove .*checkpoints"):
        run(root)
    shutil.rmtree(folder / "checkpoints")
    assert_same(run(root), finished)
    data = Layout(root, "warm").demonstrations
    shutil.rmtree(data / "tokenizer")
    with pytest.raises(SdarError, match=r"tokenizer cannot be read .*`sdar demonstrations`"):
        run(root)
    shutil.rmtree(data)
    with pytest.raises(SdarError, match=r"demonstrations\.parquet cannot be read"):
        run(root)


def test_a_prompt_beyond_the_limit_names_the_key(root):
    short = parse_config(VALUES | {"policy": {**VALUES["policy"], "max_prompt_tokens": 20}})
    with pytest.raises(SdarError, match=r"policy\.max_prompt_tokens: .*limit is 20: raise it"):
        run(root, short)


def test_no_space_while_saving_harms_nothing_older(finished, root, file_size_limit):
    folder = copy_of(finished, root)
    shutil.rmtree(folder / "checkpoints" / f"step-{LAST:05d}")
    with file_size_limit(20_000), pytest.raises(SdarError, match="checkpoints are unharmed"):
        run(root)
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-00020"]
    assert_same(run(root), finished)
