"""DVC over the pipeline: what it runs, and what it may not."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from pipeline_runner import run


@pytest.fixture
def under_dvc(repository: Path, project: Path) -> Path:
    """The project with git and DVC."""
    shutil.copytree(repository / ".dvc", project / ".dvc")
    skills = Path("src") / "sdar" / "environments" / "alfworld" / "skills"
    shutil.copytree(repository / skills, project / skills)
    subprocess.run(["git", "init", "--quiet"], cwd=project, check=True)
    return project


@pytest.mark.parametrize("name", ["x; touch PWNED; echo ", "../../x"])
def test_dvc_executes_nothing_that_a_name_says(under_dvc: Path, name: str) -> None:
    path = under_dvc / "config" / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"experiment": name}))
    done = run(under_dvc, "dvc", "repro")
    assert done.returncode != 0
    assert "config.yaml: experiment: names files and folders" in done.stdout
    assert not list(under_dvc.rglob("PWNED"))
    assert not (under_dvc / "data").exists()


def test_dvc_says_when_its_file_is_another_experiment_s(under_dvc: Path) -> None:
    path = under_dvc / "config" / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"seeds": [7]}))
    done = run(under_dvc, "dvc", "repro")
    assert done.returncode != 0
    assert "make it again with `sdar config dvc > dvc.yaml`" in done.stdout
