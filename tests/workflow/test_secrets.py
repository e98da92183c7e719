"""A password in `tracking.uri`, through Snakemake: in the user's own file and nowhere else."""

from pathlib import Path

import pytest
from pipeline_runner import snakemake

from sdar.files.whole import read_json

SECRET = "hunter2"


@pytest.mark.slow
def test_jobs_mean_the_password_that_no_file_holds(project: Path) -> None:
    own = project / "config" / "experiments" / "mine.yaml"
    own.write_text(
        f"experiment: mine\ntracking: {{uri: 'http://me:{SECRET}@127.0.0.1:9'}}\n"
        "environment: {name: searchqa, questions: {train: 4, test: 4}}\n"
    )
    done = snakemake(project, "--configfile", str(own), "--", "data/mine/tasks")
    assert done.returncode == 0, done.stdout
    assert SECRET not in done.stdout
    # The job asked the server that the whole URI names, and not for the password.
    said = "".join(path.read_text("utf-8") for path in (project / "logs").rglob("*.log"))
    assert "no server answers at 127.0.0.1:9" in said
    assert "***" in read_json(project / "runs/mine/tasks/tracking.json")["store"]["uri"]
    holding = [
        path
        for path in project.rglob("*")
        if path.is_file() and path != own and SECRET.encode() in path.read_bytes()
    ]
    assert holding == []

    report = project / "report.html"
    options = ("--configfile", str(own), "--report", str(report), "--", "data/mine/tasks")
    done = snakemake(project, *options)
    assert done.returncode == 0, done.stdout
    assert report.is_file()
    assert SECRET not in report.read_text("utf-8") + done.stdout


@pytest.mark.slow
def test_a_password_on_the_command_line_is_refused(project: Path) -> None:
    """Snakemake itself records that line, whatever the workflow does."""
    given = f"tracking={{uri: 'http://me:{SECRET}@127.0.0.1:9'}}"
    done = snakemake(project, "--dry-run", "--config", given, "--", "all")
    assert done.returncode != 0
    assert "--config: tracking.uri has a password" in done.stdout
    assert "--configfile" in done.stdout
    assert not (project / "runs").exists()
