"""What ranks must agree on before they wait for each other, and the GPU each has."""

from types import SimpleNamespace

import pytest
import torch

from sdar.errors import SdarError
from sdar.ranks.ranks import Ranks


def ranks_that_say(monkeypatch, *values):
    monkeypatch.setattr(Ranks, "gather", lambda self, value: list(values))
    return Ranks(0, len(values))


def test_another_number_of_passes_ends_with_a_sentence(monkeypatch):
    ranks_that_say(monkeypatch, 3, 3).require_same("the passes of scoring", 3)
    ranks = ranks_that_say(monkeypatch, 3, 4)
    with pytest.raises(SdarError, match=r"do not agree on the passes of scoring \(rank 0: 3, rank"):
        ranks.require_same("the passes of scoring", 3)


@pytest.mark.parametrize(
    ("gpus", "refused"),
    [
        ([("a", "GPU-1"), ("a", "GPU-2")], False),
        ([("a", "GPU-1"), ("b", "GPU-1")], False),
        ([("a", "GPU-1"), ("a", "GPU-2"), ("a", "GPU-1")], True),
    ],
)
def test_two_ranks_on_one_gpu_are_refused(gpus, refused, monkeypatch):
    found = SimpleNamespace(uuid="GPU-1")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)
    ranks = ranks_that_say(monkeypatch, *gpus)
    if not refused:
        ranks._require_own_gpus(torch.device("cuda"))
        return
    with pytest.raises(SdarError, match=r"ranks 0 and 2 have the same GPU \(GPU-1 of a\)"):
        ranks._require_own_gpus(torch.device("cuda"))
