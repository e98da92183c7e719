"""Kernels that give the same bits: always on a CPU, on a GPU where it counts."""

import os

import pytest
import torch

from sdar.errors import SdarError
from sdar.policy import reproducible
from sdar.policy.gpu import attention_backend
from sdar.policy.reproducible import choose_kernels, exact_kernels, make_reproducible

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


@pytest.fixture
def calls(monkeypatch):
    """The calls of use_deterministic_algorithms, which are not carried out."""
    made = []

    def record(mode, *, warn_only=False):
        made.append((mode, warn_only))

    monkeypatch.setattr(reproducible.torch, "use_deterministic_algorithms", record)
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", lambda enabled: None)
    return made


def test_scoring_and_update_are_strict_on_a_gpu_and_what_lies_between_is_not(calls):
    choose_kernels(GPU)
    assert calls == [(False, False)]
    with exact_kernels(GPU):
        # Not warn_only: attention's backward pass takes its deterministic kernel without it alone.
        assert calls[1:] == [(True, False)]
    assert calls[2:] == [(False, False)]


def test_attention_on_a_gpu_is_never_that_which_prepares_each_shape(calls, monkeypatch):
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", calls.append)
    choose_kernels(CPU)
    assert calls == []
    choose_kernels(GPU)
    assert False in calls
    asked = []

    def choice(*heads, **options):
        asked.append(torch.backends.cuda.cudnn_sdp_enabled())
        return 1

    monkeypatch.setattr(torch, "_fused_sdp_choice", choice)
    assert attention_backend(8, 2, 64, torch.float32, "cpu") == "FLASH_ATTENTION"
    assert asked == [False]


def test_nothing_is_touched_on_a_cpu_or_where_it_is_not_wanted(calls):
    choose_kernels(CPU)
    with exact_kernels(CPU), exact_kernels(GPU, wanted=False):
        pass
    assert calls == []


def test_quick_kernels_come_back_after_an_error_which_stays_what_it_is(calls):
    with pytest.raises(RuntimeError, match="out of memory"), exact_kernels(GPU):
        raise torch.OutOfMemoryError("out of memory")
    assert calls[-1] == (False, False)


def test_an_operation_without_such_a_kernel_is_named_with_the_key(calls):
    sentence = "policy.model: _histc_cuda, which .* execution.deterministic to false"
    with pytest.raises(SdarError, match=sentence), exact_kernels(GPU):
        raise RuntimeError("_histc_cuda does not have a deterministic implementation, but you set")
    assert calls[-1] == (False, False)


@pytest.mark.parametrize(
    ("given", "taken"), [(None, ":4096:8"), (":16:8", ":16:8"), (":4096:2", ":4096:8")]
)
def test_the_workspace_of_cublas_is_set_before_anything_is_computed(given, taken, monkeypatch):
    if given is None:
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    else:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", given)
    threads = torch.get_num_threads()
    make_reproducible(threads)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == taken
    assert torch.is_deterministic_algorithms_warn_only_enabled()
