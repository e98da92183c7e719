"""Training in double precision, where two ways to the same result differ by some 1e-13 alone."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch


@contextmanager
def precision(dtype: torch.dtype, cast: Any) -> Iterator[None]:
    """`dtype` by default, and wherever `Tensor.float` is called."""
    before = torch.get_default_dtype()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", cast)
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


@contextmanager
def double_precision() -> Iterator[None]:
    """64 bit wherever the usual 32 are asked for."""
    with precision(torch.float64, torch.Tensor.double):
        yield


def in_double(model: Any) -> Any:
    """The policy in double precision, its norms included (Qwen's fall back to 32 bit)."""
    model = copy.deepcopy(model).double()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__ in ("Qwen2RMSNorm", "Qwen3RMSNorm"):
                norm = torch.nn.RMSNorm(child.weight.shape[0], eps=child.variance_epsilon)
                norm.weight = child.weight
                setattr(parent, name, norm)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    return model
