"""Models that others made: what is wrong with a folder is said before anything is computed."""

import io
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import scripted
import torch
import yaml
from model_families import make_model
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from sdar.cli.app import app
from sdar.config import ExperimentConfig, Layout
from sdar.errors import SdarError
from sdar.policy.loading import load_policy
from sdar.policy.log_probs import PolicyScorer, score_responses
from sdar.policy.paths import scoring_path
from sdar.tracking.provenance import write_provenance

VOCABULARY = 384


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Granite, whose logits are divided."""
    folder = tmp_path_factory.mktemp("made") / "granite"
    model = make_model("granite", vocab_size=VOCABULARY, tie_word_embeddings=False)
    model.save_pretrained(folder)
    scripted.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "model")
    return tmp_path / "model"


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refusal(folder: Path) -> str:
    with pytest.raises(SdarError) as caught:
        load_policy(folder)
    said = str(caught.value)
    assert str(folder) in said
    assert len(said) < 1000
    assert "\n" not in said
    return said


def test_a_loaded_policy_scores_as_its_own_forward(folder: Path) -> None:
    model, _ = load_policy(folder)
    assert scoring_path(model) == "general"
    prompt, response = [5, 6, 7], [8, 9]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + response])).logits[0, 2:-1]
    wanted = logits.log_softmax(-1)[torch.arange(2), torch.tensor(response)]
    found = score_responses(PolicyScorer(model), [prompt], [response]).log_probs[0]
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers(folder: Path, value: float) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    said = refusal(folder)
    assert "1 value(s) of the weight model.layers.1.mlp.up_proj.weight are not finite" in said


def test_large_weights_are_numbers(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][VOCABULARY - 2 :] = 3e38  # their sum is not finite
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SdarError) as caught:
        load_policy(folder)
    assert "weight" not in str(caught.value)


def test_weights_that_are_missing(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    said = refusal(folder)
    assert "1 of the model's weights are not in its files" in said
    assert "model.layers.1.mlp.up_proj.weight" in said


def test_a_tokenizer_without_its_configuration(folder: Path) -> None:
    """It would be read as some tokenizer, and every text would be other tokens."""
    (folder / "tokenizer_config.json").unlink()
    assert "tokenizer_config.json is missing" in refusal(folder)


def test_an_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    assert "holds an adapter" in refusal(folder)


@pytest.mark.parametrize("content", [None, b"junk"])
def test_pickled_weights(folder: Path, content: bytes | None) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    pickled = io.BytesIO()
    torch.save(weights, pickled)
    (folder / "pytorch_model.bin").write_bytes(content or pickled.getvalue())
    said = refusal(folder)
    assert "pytorch_model.bin: pickled weights are not read" in said
    assert "safetensors" in said


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "{"),
        ("config.json", "[]"),
        ("config.json", "{}"),
        ("config.json", '{"model_type": "no-such-family"}'),
        ("model.safetensors", "junk"),
        ("model.safetensors", ""),
        ("tokenizer.json", "{"),
        ("tokenizer.json", "{}"),
        ("tokenizer_config.json", "[]"),
        ("generation_config.json", "{"),
    ],
)
def test_broken_files(folder: Path, file: str, content: str) -> None:
    (folder / file).write_text(content)
    refusal(folder)


def test_sequences_beyond_the_models_context(folder: Path) -> None:
    load_policy(folder, longest=512)
    with pytest.raises(SdarError, match=r"513 tokens, beyond the model's context of 512"):
        load_policy(folder, longest=513)


def test_a_configuration_of_other_sizes(folder: Path) -> None:
    change(folder / "config.json", hidden_size=96)
    refusal(folder)


def test_quantised_weights(folder: Path) -> None:
    change(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    refusal(folder)


OWN_CODE = """
from pathlib import Path
from transformers import GraniteConfig, GraniteForCausalLM

Path(__file__)
Path({mark!r}).write_text("ran")


class OwnConfig(GraniteConfig):
    model_type = "of-its-own"


class OwnModel(GraniteForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def with_code(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose model is a program; where that ran there is a file `ran`."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    (folder / "own.py").write_text(OWN_CODE.format(mark=str(tmp_path / "ran")))
    change(
        folder / "config.json",
        model_type="of-its-own",
        auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"},
    )
    return folder


def no_questions(*_: object) -> str:
    raise AssertionError("nobody is asked")


def test_a_models_own_code_never_runs(
    with_code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", no_questions)
    said = refusal(with_code)
    assert "program code of its own (auto_map), which is not run" in said
    assert "policy.trust_remote_code" in said
    assert not (tmp_path / "ran").exists()


def test_nor_does_a_tokenizers(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", no_questions)
    (folder / "own.py").write_text(OWN_CODE.format(mark=str(tmp_path / "ran")))
    change(
        folder / "tokenizer_config.json",
        tokenizer_class="OwnTokenizer",
        auto_map={"AutoTokenizer": ["own.OwnTokenizer", None]},
    )
    _, tokenizer = load_policy(folder)  # tokenizer.json is enough
    assert type(tokenizer).__module__.startswith("transformers.")
    assert not (tmp_path / "ran").exists()


def test_code_beside_a_family_that_transformers_knows_is_not_needed(folder: Path) -> None:
    (folder / "own.py").write_text("raise SystemExit('ran')")
    change(folder / "config.json", auto_map={"AutoModelForCausalLM": "own.OwnModel"})
    model, _ = load_policy(folder)
    assert type(model).__name__ == "GraniteForCausalLM"


def test_trusted_code_runs(with_code: Path, tmp_path: Path) -> None:
    model, _ = load_policy(with_code, trust_remote_code=True)
    assert (tmp_path / "ran").exists()
    assert type(model).__name__ == "OwnModel"
    assert scoring_path(model) == "general"


def test_trusted_code_is_in_provenance(with_code: Path, tmp_path: Path) -> None:
    values = {"model": str(with_code), "trust_remote_code": True}
    for policy in (values, values | {"trust_remote_code": False}):
        config = ExperimentConfig.model_validate(
            {"policy": policy, "warm_start": {"enabled": False}}
        )
        written = write_provenance(tmp_path / "run", config, Layout(tmp_path, "e"))
        if policy["trust_remote_code"]:
            assert written["remote_code"]["model"] == str(with_code)
            assert list(written["remote_code"]["files"]) == ["own.py"]
        else:
            assert "remote_code" not in written


def test_the_key_is_off_unless_set() -> None:
    assert ExperimentConfig().policy.trust_remote_code is False


def test_every_load_says_whether_it_trusts_code() -> None:
    """transformers asks on the terminal where it is not told."""
    source = Path(__file__).resolve().parents[3] / "src"
    text = " ".join(path.read_text(encoding="utf-8") for path in source.rglob("*.py"))
    loads = re.findall(r"Auto\w+\.from_(?:pretrained|config)(?=(.{,300}))", text, re.DOTALL)
    assert len(loads) >= 4
    assert all("trust_remote_code=" in load for load in loads)
    assert "trust_remote_code=trust_remote_code" in text.split("vllm.EngineArgs(")[1][:1200]


@pytest.mark.slow
def test_the_command_ends_at_once(
    with_code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "e.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "experiment": "e",
                "policy": {"model": str(with_code)},
                "warm_start": {"enabled": False},
                "environment": {"name": "textworld_express"},
                "tracking": {"enabled": False},
            }
        )
    )
    made = CliRunner().invoke(app, ["tasks", "--config", str(config)])
    assert made.exit_code == 0, made.output
    for method in ("train", "evaluate"):
        name = "grpo" if method == "train" else "warm_start"
        options = [method, "--method", name, "--config", str(config)]
        seen = CliRunner().invoke(app, options, input="y\n" * 20)
        assert seen.exit_code == 2, seen.output
        assert "policy.trust_remote_code" in " ".join(seen.output.split())
        assert not (tmp_path / "ran").exists()
