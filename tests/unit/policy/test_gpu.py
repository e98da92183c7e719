"""What is said of a GPU: on a CPU, with torch's answers given."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sdar.cli.doctor import examine
from sdar.errors import SdarError
from sdar.policy import gpu
from sdar.policy.gpu import (
    attention_backend,
    choose_allocator,
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


@pytest.mark.parametrize(
    ("device", "vllm", "given", "set_to"),
    [
        ("cuda", False, {}, "expandable_segments:True"),
        ("cuda", True, {}, None),
        ("cpu", False, {}, None),
        ("cuda", False, {"PYTORCH_ALLOC_CONF": "backend:native"}, "backend:native"),
        ("cuda", False, {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:128"}, None),
    ],
)
def test_segments_grow_on_a_gpu_without_vllm_unless_something_else_is_set(
    device, vllm, given, set_to
):
    environment = dict(given)
    choose_allocator(torch.device(device), vllm, environment)
    assert environment.get("PYTORCH_ALLOC_CONF") == set_to


def test_doctor_says_what_the_gpu_is_and_what_computes_attention(h100, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=80 << 30)
    )
    asked = []

    def backend(*heads):
        asked.append(heads)
        return "MATH"

    monkeypatch.setattr(gpu, "attention_backend", backend)
    path = tmp_path / "config.yaml"
    path.write_text("experiment: x")
    found = {finding.subject: finding for finding in examine(path, tmp_path)}
    state = found["accelerator"].state
    assert state.startswith("NVIDIA H100: capability 9.0, 70.0 of 80.0 GiB free, driver")
    assert state.endswith("bfloat16 yes")
    assert found["attention"].state == "MATH in float32"
    assert found["attention"].level == "note"
    assert asked == [(4, 2, 32, torch.float32, torch.device("cuda"))]
