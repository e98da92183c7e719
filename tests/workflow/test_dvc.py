"""DVC over the pipeline: what it runs, and what it may not."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pipeline_runner import run, snakemake
from test_dag import change, planned, pretend


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


@pytest.fixture
def finished(under_dvc: Path) -> Path:
    """The project as after a whole run, and DVC knows it. Its remote is a folder."""
    pretend(under_dvc)
    for words in (
        ("remote", "add", "--default", "storage", f"{under_dvc}-storage"),
        ("commit", "--force", "--quiet"),
        ("push", "--quiet"),
    ):
        done = run(under_dvc, "dvc", *words)
        assert done.returncode == 0, done.stdout
    return under_dvc


def clone_of(project: Path) -> Path:
    """What git would bring to another machine, with DVC's account of the results."""
    clone = project.with_name(f"{project.name}-clone")
    ignored = shutil.ignore_patterns(
        "data", "runs", "results", "logs", ".snakemake", "cache", "tmp"
    )
    shutil.copytree(project, clone, ignore=ignored)
    return clone


def test_a_pull_brings_what_belongs_to_the_settings_and_no_more(finished: Path) -> None:
    clone = clone_of(finished)
    done = run(clone, "sdar", "workflow", "pull")
    assert done.returncode == 0, done.stdout
    assert "to be computed: nothing" in done.stdout
    assert "Nothing to be done" in snakemake(clone, "--dry-run", "--", "all").stdout
    # Other settings, in the same clone: what was pulled is not theirs.
    change(clone, "training", learning_rate=1e-4)
    done = run(clone, "sdar", "workflow", "pull")
    assert done.returncode == 0, done.stdout
    assert "to be computed: train" in done.stdout
    plan = planned(snakemake(clone, "--dry-run", "--", "all").stdout)
    assert plan["train"] == 4
    assert "warm_start" not in plan


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_new_clone_takes_no_results_of_other_settings(finished: Path, by_hand: bool) -> None:
    """Snakemake knows nothing of them: it would take whatever is there for current."""
    clone = clone_of(finished)
    change(clone, "training", learning_rate=1e-4)
    if by_hand:
        assert run(clone, "dvc", "pull").returncode == 0
    done = run(clone, "sdar", "workflow", "pull")
    assert done.returncode == 0, done.stdout
    assert "to be computed: train" in done.stdout
    plan = planned(snakemake(clone, "--dry-run", "--", "all").stdout)
    assert (plan["train"], plan["evaluate"]) == (4, 6)
    assert {"tasks", "demonstrations", "warm_start"}.isdisjoint(plan)


def test_snakemake_is_told_what_dvc_brought_back(finished: Path) -> None:
    config = finished / "config" / "config.yaml"
    before = config.read_text()
    change(finished, "training", learning_rate=1e-4)
    done = snakemake(finished, "--touch", "--forceall", "--", "all")  # as if it were computed
    assert done.returncode == 0, done.stdout
    config.write_text(before)
    assert planned(snakemake(finished, "--dry-run", "--", "all").stdout)["train"] == 4
    done = run(finished, "sdar", "workflow", "accept")
    assert done.returncode == 0, done.stdout
    assert "Nothing to be done" in snakemake(finished, "--dry-run", "--", "all").stdout


STAND_IN = """#!{python}
# Makes what the stage of dvc.yaml with these words is to make: each file says the configuration.
import os, sys
from pathlib import Path
import yaml
words = " ".join(sys.argv[1:])
Path("calls").open("a").write(words + chr(10))
said = Path("config/config.yaml").read_text()
for stage in yaml.safe_load(Path("dvc.yaml").read_text())["stages"].values():
    if stage["cmd"].split("snakemake ")[-1].split() == words.split():
        for out in stage["outs"]:
            out = Path(out if isinstance(out, str) else list(out)[0])
            file = out if out.suffix else out / "file.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(str(file) + said)
"""


def tree(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def test_earlier_settings_bring_back_all_that_belongs_to_them(under_dvc: Path) -> None:
    """Each run's policy with its metrics, tokens, config.yaml and provenance, and no job."""
    programs = under_dvc / "programs"
    programs.mkdir()
    (programs / "snakemake").write_text(STAND_IN.format(python=sys.executable))
    (programs / "snakemake").chmod(0o755)
    here = Path(sys.executable).parent
    path = under_dvc / "config" / "config.yaml"
    values = yaml.safe_load(path.read_text())

    def repro(learning_rate: float) -> dict[str, str]:
        values["training"]["learning_rate"] = learning_rate
        path.write_text(yaml.safe_dump(values, sort_keys=False))
        subprocess.run(
            [here / "dvc", "repro", "--quiet"],
            cwd=under_dvc,
            check=True,
            env={**os.environ, "PATH": f"{programs}:{here}:{os.environ['PATH']}"},
        )
        return tree(under_dvc / "runs")

    one = repro(1e-4)
    (folder,) = {Path(name).parent for name in one if name.endswith("grpo/seed-0/metrics.jsonl")}
    beside = {Path(name).name for name in one if Path(name).parent == folder}
    assert beside >= {"config.yaml", "provenance.json", "timings.jsonl", "episodes.parquet"}
    other = repro(2e-4)
    changed = {name for name in one if one[name] != other[name]}
    assert {str(folder / name) for name in beside} <= changed
    assert str(folder / "tokens" / "file.txt") in changed
    calls = (under_dvc / "calls").read_text().splitlines()
    assert repro(1e-4) == one
    # Snakemake is told of what came back, and the report, which takes seconds, is made.
    told, report = (under_dvc / "calls").read_text().splitlines()[len(calls) :]
    assert "--touch" in told
    assert told.endswith("policies evaluations")
    assert "--allowed-rules compare report all" in report
