"""What each environment's folder offers the registry."""

from pathlib import Path

import pytest

from sdar.config import parse_config
from sdar.config.checks import check_files
from sdar.environments.packages import NAMES, environment_package, environment_sections, type_labels


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_names_an_environment_gets_its_section_panels_and_skills(name: str) -> None:
    config = parse_config({"environment": {"name": name}})
    section = environment_sections()[name]
    assert type(config.environment) is section
    assert config.environment.name == environment_package(name).name == name
    assert config.evaluation.panels == section.usual_panels == config.environment.known_panels
    check_files(config)


def test_labels_of_task_types_are_of_one_environment_each() -> None:
    labelled = [name for section in environment_sections().values() for name in section.type_labels]
    assert sorted(labelled) == sorted(type_labels())


@pytest.mark.parametrize("name", NAMES)
def test_data_that_are_not_there_are_named_with_the_remedy(name: str, tmp_path: Path) -> None:
    section = environment_sections()[name].model_validate({"data": str(tmp_path / "absent")})
    problem = section.check_data(section.usual_panels)[0]
    assert problem.startswith("environment.data: ")
    assert str(tmp_path / "absent") in problem
    assert "null" in problem
