"""The scripted expert on ALFWorld's games: real ones, and generated ones of full size."""

import shutil
from pathlib import Path

import pytest

pytest.importorskip("alfworld", reason='needs pip install "sdar[alfworld]"')

from alfworld_expert import play_all

from sdar.environments.alfworld.config import AlfworldConfig
from sdar.environments.alfworld.engine.loader import load_tasks
from sdar.environments.alfworld.tasks import make_tasks
from sdar.environments.base import Task

SAME_SPOT = (
    "pick_clean_then_place_in_recep-ButterKnife-None-CounterTop-8/trial_T20190909_105559_983897"
)


@pytest.fixture(scope="module")
def real(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Task]:
    folder = tmp_path_factory.mktemp("alfworld")
    shutil.unpack_archive(shared / "data" / "alfworld" / "json_2.1.1.tar.xz", folder)
    return load_tasks(folder, "valid_seen")


def test_cabinets_at_one_spot_are_opened_from_there(real: list[Task]) -> None:
    """Nobody can go to cabinet 9 who stands at cabinet 8: they share a spot."""
    (game,) = play_all([task for task in real if task.id.endswith(SAME_SPOT)], 100)
    assert (game.won, game.strange) == (True, 0)


def test_real_games_are_won(real: list[Task]) -> None:
    """A seventh of them; docs/log.md has the figure for all."""
    games = play_all(real[::7], 100)
    assert len(games) == 20
    assert [game.task.id for game in games if not game.won] == []
    assert sum(game.strange for game in games) == 0


@pytest.mark.parametrize("meddling", [5, 30])
def test_whoever_acted_before(real: list[Task], meddling: int) -> None:
    games = play_all(real[meddling::11], 150, meddling)
    assert sum(game.strange for game in games) == 0
    # Some things can be put nowhere once they were taken, and then a game is lost for all.
    assert sum(game.won for game in games) >= len(games) - 1


def test_generated_games_of_full_size(tmp_path: Path) -> None:
    counts = {"train": 6, "valid_seen": 1, "valid_unseen": 3}
    tasks, _ = make_tasks(AlfworldConfig(size="full", games=counts), (), tmp_path)
    placed = [
        Task(**{**task.as_dict(), "location": str(tmp_path / task.location)}) for task in tasks
    ]
    for meddling in (0, 25):
        games = play_all(placed, 150, meddling)
        assert sum(game.strange for game in games) == 0
        assert all(game.won for game in games)
