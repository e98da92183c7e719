"""What is said of a GPU: on a CPU, with torch's answers given."""

from pathlib import Path

import pytest
import torch

from sdar.errors import SdarError
from sdar.policy.gpu import (
    attention_backend,
    chosen_device,
    describe_gpu,
    device_name,
    driver_version,
)
from sdar.tracking.provenance import hardware

H100 = {
    "get_device_name": lambda device: "NVIDIA H100",
    "mem_get_info": lambda device: (70 << 30, 80 << 30),
    "get_device_capability": lambda device: (9, 0),
    "is_bf16_supported": lambda including_emulation: True,
    "is_initialized": lambda: True,
    "current_device": lambda: 0,
    "is_available": lambda: True,
}


@pytest.fixture
def h100(monkeypatch):
    for name, answer in H100.items():
        monkeypatch.setattr(torch.cuda, name, answer)


def test_a_gpu_is_described_and_stands_in_the_provenance(h100):
    described = describe_gpu()
    assert described["name"] == "NVIDIA H100"
    assert (described["capability"], described["bfloat16"]) == ("9.0", True)
    assert (described["memory_gib"], described["free_gib"]) == (80.0, 70.0)
    assert hardware()["gpu"] == described


def test_a_process_that_has_not_begun_on_a_gpu_says_nothing_of_one():
    assert "gpu" not in hardware()


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.161.08  Tue", "535.161.08"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65  Rel", "580.65"),
        ("GCC version: 12.2.0", None),
        (None, None),
    ],
)
def test_the_drivers_version(text, version, tmp_path: Path):
    path = tmp_path / "version"
    if text is not None:
        path.write_text(text)
    assert driver_version(path) == version


def test_what_auto_comes_to(h100, monkeypatch):
    assert chosen_device("auto") == torch.device("cuda")
    assert device_name(chosen_device("auto")) == "NVIDIA H100"
    assert device_name(chosen_device("cpu")) == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert chosen_device("auto") == torch.device("cpu")
    with pytest.raises(SdarError, match=r"execution\.device is cuda"):
        chosen_device("cuda")


def test_the_backend_of_attention_is_asked_of_torch():
    assert attention_backend(8, 2, 64, torch.float32, "cpu") in ("FLASH_ATTENTION", "MATH")
