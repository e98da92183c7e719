"""The skill library: exact lookup, habits told, digests that change with what is told."""

from importlib.util import find_spec
from shutil import copytree, rmtree

import pytest

from sdar.environments.alfworld.config import ALFWORLD_TASK_TYPES
from sdar.environments.alfworld.world.home import Home
from sdar.errors import SdarError
from sdar.skills.library import SkillLibrary

# Not importorskip: importing alfworld creates a data folder in the user's home.
if find_spec("alfworld") is None:
    pytest.skip("habits name the classes of the alfworld wheel", allow_module_level=True)


def test_built_in_library_has_every_type() -> None:
    library = SkillLibrary()
    library.check(ALFWORLD_TASK_TYPES)
    general = (library.folder / "general.md").read_text().strip()
    for task_type in ALFWORLD_TASK_TYPES:
        skill = library.lookup(task_type)
        assert skill.name == task_type
        assert skill.text.startswith(general)
        assert 120 < len(skill.text.split()) < 200
        assert "{" not in skill.text


def test_habits_are_told_with_a_home_and_dropped_without() -> None:
    home = Home.draw(2)
    told = SkillLibrary(knowledge=home).lookup("pick_heat_then_place_in_recep")
    plain = SkillLibrary().lookup("pick_heat_then_place_in_recep")
    habits = home.habits_text("pick_heat_then_place_in_recep")
    assert told.text == f"{plain.text}\n{habits}"
    assert told.digest != plain.digest


def test_a_library_that_is_told_of_another_home_is_one_read_for_it(tmp_path) -> None:
    copied = copytree(SkillLibrary().folder, tmp_path / "skills")
    first, second = Home.draw(1), Home.draw(2)
    library = SkillLibrary(copied, first)
    before = [library.lookup(name) for name in ALFWORLD_TASK_TYPES]
    fresh = SkillLibrary(copied, second)
    rmtree(copied)  # nothing is read again
    told = library.told(second)
    for name in ALFWORLD_TASK_TYPES:
        assert told.lookup(name) == fresh.lookup(name)
    assert [library.lookup(name) for name in ALFWORLD_TASK_TYPES] == before


def test_digests_are_of_the_text_and_of_the_home() -> None:
    first, same, other = (
        [library.lookup(name).digest for name in ALFWORLD_TASK_TYPES]
        for library in (SkillLibrary(knowledge=Home.draw(seed)) for seed in (1, 1, 2))
    )
    assert first == same
    assert all(one != another for one, another in zip(first, other, strict=True))
    assert len(set(first)) == 6


def test_unknown_type_names_type_folder_and_known_types() -> None:
    library = SkillLibrary()
    with pytest.raises(SdarError) as error:
        library.lookup("pick_and_place")  # a prefix of a real type is not that type
    message = str(error.value)
    assert "task type(s) pick_and_place;" in message
    assert str(library.folder) in message
    assert all(name in message for name in ALFWORLD_TASK_TYPES)


def test_missing_file_is_refused_before_play(tmp_path) -> None:
    (tmp_path / "general.md").write_text("Think.")
    (tmp_path / "look_at_obj_in_light.md").write_text("Use the lamp.\n{habits}")
    library = SkillLibrary(tmp_path)
    library.check(["look_at_obj_in_light"])
    with pytest.raises(SdarError, match=r"pick_two_obj_and_place\.md"):
        library.check(["look_at_obj_in_light", "pick_two_obj_and_place"])
    assert library.lookup("look_at_obj_in_light").text == "Think.\nUse the lamp."


def test_bad_folders_are_refused(tmp_path) -> None:
    with pytest.raises(SdarError, match="no folder"):
        SkillLibrary(tmp_path / "absent")
    with pytest.raises(SdarError, match=r"general\.md"):
        SkillLibrary(tmp_path)
    (tmp_path / "general.md").write_text("")
    (tmp_path / "look_at_obj_in_light.md").write_text("It is {habits} here.")
    with pytest.raises(SdarError, match="line of its own"):
        SkillLibrary(tmp_path).lookup("look_at_obj_in_light")
