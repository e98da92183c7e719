"""Rounds of relabelling: when their engine is awake, and what is read back of a round."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sdar.config import ExperimentConfig, Layout, parse_config
from sdar.errors import SdarError
from sdar.ranks.ranks import Ranks
from sdar.training import relabelling
from sdar.training.phases import phases
from sdar.training.relabelling import Relabelling

CONFIG = parse_config(
    {
        "experiment": "x",
        "environment": {"name": "searchqa"},
        "policy": {"model": "a/b"},
        "warm_start": {"dagger": {"rounds": 1}},
    }
)


class Engine:
    """Holds memory beside the trainer's model while it is awake."""

    awake = True

    def sleep(self) -> None:
        self.awake = False


def opened(config: ExperimentConfig, root: Path, plays: bool) -> Relabelling:
    policy: Any = SimpleNamespace(model=None, scorer=None, accelerator=None, ranks=Ranks())
    return Relabelling.open(config, Layout(root, "x"), policy, None, {}, plays)


def test_the_engine_sleeps_until_its_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a copy of the policy, or vLLM's share of the GPU, and fine-tuning comes first."""
    monkeypatch.setattr(relabelling, "open_engine", lambda *given, **named: Engine())
    engine: Any = opened(CONFIG, tmp_path, plays=True).engine
    assert not engine.awake
    assert opened(CONFIG, tmp_path, plays=False).engine is None


def test_a_round_in_which_the_expert_knew_nothing_is_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = opened(CONFIG, tmp_path, plays=False)
    monkeypatch.setattr(Relabelling, "_play_share", lambda self, phase: [])
    _, phase = phases(CONFIG)
    assert rounds.own_episodes(phase, done=phase.first_update) == []
    assert rounds.own_episodes(phase, done=phase.first_update + 1) == []
    path = Layout(tmp_path, "x").warm_start / "relabelled" / "round-1.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(SdarError, match=r"round-1\.parquet .*remove .*checkpoints"):
        rounds.own_episodes(phase, done=phase.first_update + 1)
