"""The warm start of a pretrained model: it is that model that is tuned, with its own tokenizer, and
a warm start that was broken off and goes on is the one that was not."""

import json
import shutil
from pathlib import Path
from typing import Any

import pretrained_world
import pytest
import torch
from pretrained_world import DAGGER, LORA
from safetensors.torch import load_file
from transformers import AutoTokenizer

from sdar.config import ExperimentConfig, Layout
from sdar.errors import SdarError
from sdar.interruption import Stopped, take
from sdar.policy.loading import load_policy
from sdar.training import sft, warm_policy
from sdar.training import warm_start as stage
from sdar.training.demonstrations import make_demonstrations, read_demonstrations

KINDS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"lora": LORA},
    "dagger": {"updates": 4, "dagger": DAGGER},
    "muon": {"optimizer": "muon"},
    "bfloat16": {"values": {"policy": {"dtype": "bfloat16"}}},
}


@pytest.fixture(autouse=True)
def _record_always(monkeypatch):
    monkeypatch.setattr(stage, "RECORD_EVERY", 1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, and demonstrations for it."""
    root = tmp_path_factory.mktemp("made")
    model = pretrained_world.save_model(root / "model")
    make_demonstrations(pretrained_world.configuration(model), Layout(root, "pretrained"))
    return root


@pytest.fixture
def root(made, tmp_path):
    shutil.copytree(made / "data", tmp_path / "data")
    return tmp_path


def configuration(made: Path, kind: str = "full", **more: Any) -> ExperimentConfig:
    return pretrained_world.configuration(made / "model", **KINDS[kind], **more)


def run(root: Path, config: ExperimentConfig) -> Path:
    layout = Layout(root, config.experiment)
    stage.warm_start(config, layout)
    return layout.warm_start


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def files(folder: Path) -> dict[str, bytes]:
    kept = [
        folder / "metrics.jsonl",
        *(folder / "relabelled").glob("*"),
        *(folder / "policy").iterdir(),
    ]
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_model_itself_that_learns(kind, made, root):
    """It used to be a tiny policy made in its place."""
    folder = run(root, configuration(made, kind))
    before, after = weights(made / "model"), weights(folder / "policy")
    assert before.keys() == after.keys()
    moved = {name: float((after[name] - before[name]).abs().max()) for name in before}
    assert any(moved.values())
    # Twelve updates at most of 3e-3, and Muon's of 0.02: far from other random weights.
    assert max(moved.values()) < (0.3 if kind == "muon" else 0.05)
    if kind == "lora":
        assert not any(value for name, value in moved.items() if "proj" not in name)
    config, given = (
        json.loads((path / "config.json").read_text())
        for path in (folder / "policy", made / "model")
    )
    assert (config["model_type"], config["vocab_size"]) == ("qwen2", given["vocab_size"])
    own, theirs = (AutoTokenizer.from_pretrained(p) for p in (folder / "policy", made / "model"))
    assert own.chat_template == theirs.chat_template
    assert own.get_vocab() == theirs.get_vocab()
    assert not (Layout(root, "pretrained").demonstrations / "tokenizer").exists()
    losses = [json.loads(line)["sft/loss"] for line in (folder / "metrics.jsonl").open()]
    assert losses[-1] < losses[0] - (0.02 if kind == "lora" else 0.2)
    load_policy(folder / "policy")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["broken off", "told to stop"])
def test_broken_off_between_any_two_updates_it_goes_on_to_the_same_bits(
    kind, how, made, root, monkeypatch
):
    config = configuration(made, kind)
    expected = files(run(root, config))
    total = 8
    for stops in (2, 5, 7):
        folder = Layout(root, config.experiment).warm_start
        shutil.rmtree(folder)
        plain, left = sft.add_gradients, stops

        def mortal(*given: Any, plain: Any = plain) -> float:
            nonlocal left
            left -= 1
            if left == 0:
                if how == "broken off":
                    raise KeyboardInterrupt
                assert take(10)  # SIGUSR1, while updates are made: noted, not raised
            return plain(*given)

        with monkeypatch.context() as patch:
            patch.setattr(sft, "add_gradients", mortal)
            with pytest.raises(KeyboardInterrupt if how == "broken off" else Stopped):
                run(root, config)
        saved = max((int(p.name[5:]) for p in (folder / "checkpoints").glob("*")), default=0)
        assert saved == ((stops - 1) // 3 * 3 if how == "broken off" else stops)
        assert saved < total
        assert not (folder / "policy").exists()
        assert files(run(root, config)) == expected, f"{how} in update {stops}"


def test_what_nulls_stand_for_suits_the_model(made):
    model = made / "model"
    plain = pretrained_world.parse_config({"policy": {"model": str(model)}})
    assert plain.warm_start.enabled, "left alone, it is that model that is warm-started"
    adapted = pretrained_world.parse_config(
        {"policy": {"model": str(model)}, "warm_start": {"lora": {}}}
    )
    tiny = pretrained_world.parse_config({})
    assert plain.chosen_warm_start == ("adamw", 1e-5, 300, 0, plain.training.micro_batch)
    assert adapted.chosen_warm_start.learning_rate == 1e-4
    assert tiny.chosen_warm_start == ("muon", 3e-3, 1200, 4, None)


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ({"max_prompt_tokens": 200}, r"policy\.max_prompt_tokens: a demonstration .*raise it"),
        ({"max_teacher_prompt_tokens": 300}, r"policy\.max_teacher_prompt_tokens: a demonstration"),
        ({"max_response_tokens": 20}, r"policy\.max_response_tokens: .* response tokens.*is 20"),
        ({"max_prompt_tokens": 4090}, r"beyond the model's context of 4096"),
    ],
)
def test_lengths_are_checked_before_weights_are_read(policy, says, made, root, monkeypatch):
    monkeypatch.setattr(warm_policy, "load_policy", None)
    config = pretrained_world.configuration(made / "model", {"policy": policy})
    with pytest.raises(SdarError, match=says):
        run(root, config)
    if "context" in says:
        with pytest.raises(SdarError, match=says):
            make_demonstrations(config, Layout(root, "other"))


@pytest.mark.slow
def test_demonstrations_are_cut_as_a_rollout_s_prompts_are(made, tmp_path):
    """Entries of the history leave first, and the policy learns from what it will be shown."""
    whole = read_demonstrations(
        Layout(made, "pretrained").demonstrations / "demonstrations.parquet"
    )
    config = pretrained_world.configuration(made / "model", {"policy": {"max_prompt_tokens": 430}})
    layout = Layout(tmp_path, "pretrained")
    make_demonstrations(config, layout)
    cut = read_demonstrations(layout.demonstrations / "demonstrations.parquet")
    assert [turn.response for turn in cut] == [turn.response for turn in whole]
    changed = [(a, b) for a, b in zip(whole, cut, strict=True) if a.messages != b.messages]
    assert changed
    assert all(not a.hinted and a.turn > 0 for a, _ in changed)
    assert all(len(b.messages[-1]["content"]) < len(a.messages[-1]["content"]) for a, b in changed)
    run(tmp_path, config)
