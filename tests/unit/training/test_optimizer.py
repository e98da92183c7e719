"""AdamW as it is made: fused on CUDA, and with a learning rate that can be scaled."""

from types import SimpleNamespace
from typing import Any

import pytest
import scripted
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from sdar.training.optimizer import can_fuse, make_optimizer


@pytest.mark.parametrize(
    ("devices", "fused"),
    [(["cuda", "cuda"], True), (["cpu"], None), (["cuda", "cpu"], None), (["meta"], None)],
)
def test_a_step_is_fused_where_all_weights_are_on_cuda(
    devices: list[str], fused: bool | None
) -> None:
    weights: list[Any] = [SimpleNamespace(device=SimpleNamespace(type=kind)) for kind in devices]
    assert can_fuse(weights) is fused


def test_optimizers_on_cuda_are_fused_and_on_cpus_are_not() -> None:
    model = scripted.policy()
    assert {group["fused"] for group in make_optimizer(model, 1e-3, 0.0).param_groups} == {None}
    with FakeTensorMode():
        layer = torch.nn.Module()
        layer.weight = torch.nn.Parameter(torch.empty(4, 4, device="cuda"))
        layer.bias = torch.nn.Parameter(torch.empty(4, device="cuda"))
        on_gpu = make_optimizer(layer, 1e-3, 0.0)
    assert {group["fused"] for group in on_gpu.param_groups} == {True}


def test_learning_rates_are_scaled_from_where_they_began() -> None:
    optimizer = make_optimizer(scripted.policy(), 1e-3, 0.0)
    for factor in (0.5, 0.5, 2.0):
        optimizer.scale_learning_rates(factor)
        assert [group["lr"] for group in optimizer.param_groups] == [1e-3 * factor] * 2
    again = make_optimizer(scripted.policy(), 1e-3, 0.0)
    again.load_state_dict(optimizer.state_dict())
    again.scale_learning_rates(0.5)
    assert again.param_groups[0]["lr"] == 5e-4
