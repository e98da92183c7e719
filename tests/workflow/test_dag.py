"""The plan, without running it: which jobs, which refusals, which lints."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import psutil
import pytest
import yaml
from pipeline_runner import run, snakemake

from sdar.config import load_config
from sdar.config.cluster import ClusterConfig, JobKind, job_resources
from sdar.config.dvc import dvc_stages, outputs
from sdar.config.variants import sweep_variants


def planned(output: str) -> dict[str, int]:
    """Rule -> number of jobs, from the first table of a dry run."""
    table = output.split("Job stats:")[1].strip().splitlines()[2:]
    rows = [line.split() for line in table[: table.index("")]]
    return {row[0]: int(row[1]) for row in rows}


def experiment(folder: Path, text: str) -> Path:
    path = folder / "experiment.yaml"
    path.write_text(text)
    return path


def test_plan_of_the_default_experiment(project: Path) -> None:
    """Two methods, two seeds, and the two baselines, evaluated once each."""
    done = snakemake(project, "--dry-run", "--", "all")
    assert done.returncode == 0, done.stdout
    assert planned(done.stdout) == {
        "tasks": 1,
        "demonstrations": 1,
        "warm_start": 1,
        "train": 4,
        "evaluate": 6,
        "compare": 1,
        "report": 1,
        "all": 1,
        "total": 16,
    }
    commands = re.findall(r"sdar [^|]*", done.stdout)
    config = "--config runs/alfworld-tiny/config.yaml --root . 2>&1 "
    for method in ("grpo", "sdar"):
        for seed in (0, 1):
            assert f"sdar train --method {method} --seed {seed} {config}" in commands
            assert f"sdar evaluate --method {method} --seed {seed} {config}" in commands
    for method in ("warm_start", "skill_prompt"):
        assert f"sdar evaluate --method {method} --seed 0 {config}" in commands
    assert not (project / "runs").exists(), "a dry run must write nothing"


def test_a_pretrained_model_needs_no_warm_start(project: Path) -> None:
    for split in ("train", "valid_seen", "valid_unseen"):
        (project / "data" / "alfworld" / "json_2.1.1" / split).mkdir(parents=True)
    done = snakemake(
        project,
        "--dry-run",
        "--configfile",
        "config/experiments/alfworld-qwen3-1.7b.yaml",
        "--",
        "all",
    )
    assert done.returncode == 0, done.stdout
    plan = planned(done.stdout)
    assert plan["train"] == 7 * 3
    assert plan["evaluate"] == 7 * 3 + 2
    assert {"warm_start", "demonstrations"}.isdisjoint(plan)
    assert "gpu=1" in done.stdout


def test_a_pretrained_model_s_warm_start_is_started_as_its_training_is(project: Path) -> None:
    """`ranks` is once per rank; the tiny policy's stays one process."""
    (project / "model").mkdir()
    (project / "model" / "config.json").write_text("{}")
    execution = "execution: {processes: 2, device: cpu, warm_start_threads: 1}"
    for model, command in (
        ("tiny", "export OMP_NUM_THREADS=1; sdar warm-start"),
        ("./model", "ranks sdar warm-start"),
    ):
        path = experiment(project, f"policy: {{model: {model}}}\n{execution}")
        done = snakemake(project, "--dry-run", "--configfile", str(path), "--", "all")
        assert done.returncode == 0, done.stdout
        assert planned(done.stdout)["warm_start"] == 1
        (job,) = re.findall(r"rule warm_start:.*?\n\n", done.stdout, re.DOTALL)
        assert command in job


def test_plan_of_the_sweep(project: Path) -> None:
    """Variants share games and warm start; each is trained and evaluated once per seed."""
    config = "config/experiments/sweep.yaml"
    done = snakemake(project, "--dry-run", "--configfile", config, "--", "sweep")
    assert done.returncode == 0, done.stdout
    variants = sweep_variants(load_config(project / config))
    jobs = 2 * len(variants)
    assert planned(done.stdout) == {
        "tasks": 1,
        "demonstrations": 1,
        "warm_start": 1,
        "train_variant": jobs,
        "evaluate_variant": jobs,
        "compare_sweep": 1,
        "sweep": 1,
        "total": 5 + 2 * jobs,
    }
    for variant in variants:
        assert f"sdar train --variant {variant.name} --seed 1 --config" in done.stdout


def test_without_a_sweep_its_target_says_what_to_set(project: Path) -> None:
    done = snakemake(project, "--dry-run", "--", "sweep")
    assert done.returncode != 0
    assert "list values under sweep.gates" in done.stdout


def test_another_environment_inherits_no_keys_of_the_default_one(project: Path) -> None:
    """config.yaml spells out ALFWorld's keys; an experiment on another environment is not refused
    because of them, and a wrong key of its own is."""
    section = "{name: textworld_express, max_turns: 7}"
    path = experiment(
        project,
        "{experiment: other, environment: " + section + ", evaluation: {panels: [test]}}",
    )
    done = snakemake(project, "--dry-run", "--configfile", str(path), "--", "all")
    assert "unknown key" not in done.stdout
    assert done.returncode == 0, done.stdout
    path.write_text("environment: {name: textworld_express, habit: 0.5}")
    done = snakemake(project, "--dry-run", "--configfile", str(path), "--", "all")
    assert "environment.habit: unknown key" in done.stdout


def test_an_experiment_is_planned_over_its_base(project: Path) -> None:
    (project / "base.yaml").write_text("{experiment: base, methods: [rlsd], seeds: [5, 6, 7]}")
    path = experiment(project, "{base: base.yaml, experiment: own, seeds: [8]}")
    command = ("--dry-run", "--configfile", str(path))
    done = snakemake(project, *command, "--", "all")
    assert done.returncode == 0, done.stdout
    assert planned(done.stdout)["train"] == 1
    assert "sdar train --method rlsd --seed 8 --config runs/own/config.yaml" in done.stdout
    done = snakemake(project, *command, "--config", "experiment=told", "--", "all")
    assert "--seed 8 --config runs/told/config.yaml" in done.stdout, done.stdout


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("training: {step: 3}", "training.step: unknown key (did you mean steps?)"),
        ("training: {steps: many}", "training.steps: "),
        ("training: {micro_batch: 512}", "lower training.micro_batch"),
        ("training: {group_size: 1}", "set training.group_size"),
        ("policy: {max_prompt_tokens: 2000}", "lower policy.max_prompt_tokens"),
        ("methods: [grpo, ppo]", "methods.1: "),
        ("skills: {library: nowhere}", "skills.library: no folder nowhere"),
        (
            "{environment: {data: nowhere}, policy: {model: Qwen/Qwen3-1.7B}, "
            "warm_start: {enabled: false}}",
            "environment.data: expected a folder nowhere/json_2.1.1",
        ),
    ],
)
def test_a_bad_configuration_ends_before_the_dag_is_built(
    project: Path, text: str, says: str
) -> None:
    path = experiment(project, text)
    done = snakemake(project, "--dry-run", "--configfile", str(path), "--", "all")
    assert done.returncode != 0
    assert says in done.stdout
    assert "Building DAG" not in done.stdout
    assert "Traceback" not in done.stdout
    assert not (project / "runs").exists()


def test_several_nodes_are_planned_anywhere_and_run_under_slurm(project: Path) -> None:
    path = experiment(project, "execution: {nodes: 2}")
    done = snakemake(project, "--dry-run", "--configfile", str(path), "--", "all")
    assert done.returncode == 0, done.stdout
    assert "ranks sdar train --method sdar --seed 0 " in done.stdout
    done = snakemake(project, "--configfile", str(path), "--", "all")
    assert done.returncode != 0
    assert "execution.nodes is 2, and this is no SLURM job" in done.stdout
    assert not (project / "runs").exists()


def test_missing_skill_for_a_type_ends_before_the_dag_is_built(
    repository: Path, project: Path
) -> None:
    library = project / "skills"
    shutil.copytree(repository / "src" / "sdar" / "environments" / "alfworld" / "skills", library)
    for file in library.rglob("look_at_obj_in_light.md"):
        file.unlink()
    path = experiment(project, "skills: {library: skills}")
    done = snakemake(project, "--dry-run", "--configfile", str(path), "--", "all")
    assert done.returncode != 0
    assert "look_at_obj_in_light" in done.stdout
    assert "Building DAG" not in done.stdout


def test_lint_has_no_advice_beyond_software_deployment(project: Path) -> None:
    done = snakemake(project, "--lint")
    advice = set(re.findall(r"^ +\* (.*)$", done.stdout, flags=re.MULTILINE))
    assert advice == {"Specify a conda environment or container for each rule.:"}, done.stdout


def test_rule_files_are_short(repository: Path) -> None:
    for path in (repository / "workflow" / "rules").glob("*.smk"):
        assert len(path.read_text().splitlines()) <= 200, path.name


def test_every_rule_has_log_benchmark_threads_and_resources(repository: Path) -> None:
    for path in (repository / "workflow" / "rules").glob("*.smk"):
        for block in re.split(r"^rule ", path.read_text(), flags=re.MULTILINE)[1:]:
            if "shell:" not in block:
                continue  # a target that only gathers
            name = f"{path.name}, rule {block.split(':')[0]}"
            for key in ("log:", "benchmark:", "threads:"):
                assert key in block, f"{name}: no {key}"
            # Stated in the rule, or taken from the table that the configuration fills.
            stated = "mem_mb=" in block and "runtime=" in block
            assert stated or "**JOBS[" in block, f"{name}: no resources"
    for kind in get_args(JobKind):
        for on_gpu in (False, True):
            assert {"mem_mb", "runtime"} <= job_resources(ClusterConfig(), kind, on_gpu).keys()


@pytest.fixture
def pretended(project: Path) -> Path:
    return pretend(project)


def pretend(project: Path) -> Path:
    """The project as after a whole run: every output is there, by Snakemake's own touch."""
    for stage in dvc_stages(load_config(project / "config" / "config.yaml")).values():
        for out in (project / name for name in outputs(stage)):
            names = ("summary.json", "episodes.parquet", "tokens.parquet")
            files = [out / name for name in names] if out.name == "evaluation" else []
            for file in [*files, *([out] if out.suffix else [])]:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch()
            if not out.suffix:
                out.mkdir(parents=True, exist_ok=True)
    done = snakemake(project, "--touch", "--forceall", "--", "all")
    assert done.returncode == 0, done.stdout
    return project


def change(project: Path, section: str, **values: object) -> subprocess.CompletedProcess[str]:
    """Change keys of one section of config.yaml and plan again."""
    path = project / "config" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config[section].update(values)
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return snakemake(project, "--dry-run", "--", "all")


def test_only_what_depends_on_a_changed_key_runs_again(pretended: Path) -> None:
    done = snakemake(pretended, "--dry-run", "--", "all")
    assert "Nothing to be done" in done.stdout, done.stdout
    plan = planned(change(pretended, "evaluation", recorded_episodes=3).stdout)
    assert "train" not in plan
    assert plan["evaluate"] == 6
    plan = planned(change(pretended, "training", learning_rate=1e-4).stdout)
    assert plan["train"] == 4
    assert {"tasks", "demonstrations", "warm_start"}.isdisjoint(plan)
    # What the teacher is told is no hint of a demonstration: those go by type.
    plan = planned(change(pretended, "skills", retrieval="none").stdout)
    assert (plan["train"], plan["evaluate"]) == (4, 6)
    assert {"tasks", "demonstrations", "warm_start"}.isdisjoint(plan)
    plan = planned(change(pretended, "environment", habit=0.5).stdout)
    assert plan["total"] == 16


def test_another_engine_evaluates_the_untrained_baselines_again(pretended: Path) -> None:
    plan = planned(change(pretended, "rollout", engine="vllm").stdout)
    assert (plan["train"], plan["evaluate"]) == (4, 6)
    assert {"tasks", "demonstrations", "warm_start"}.isdisjoint(plan)


def test_keys_that_change_nothing_or_the_rounding_rerun_nothing(pretended: Path) -> None:
    """Commands of rules are compared, too: other ranks must not make them other texts."""
    changes: dict[str, dict[str, object]] = {
        "environment": {"workers": 2},
        "warm_start": {"checkpoint_every": 7},
        "training": {
            "micro_batch": 8,
            "activation_checkpointing": True,
            "reference": "host",
            "checkpoint_every": 1,
            "record_tokens_every": 1,
        },
        "rollout": {"batch": 16},
        "execution": {"threads": 2, "warm_start_threads": 1, "processes": 2, "device": "cpu"},
        "tracking": {"enabled": False},
        "cluster": {"partition": "long"},
    }
    for section, values in changes.items():
        done = change(pretended, section, **values)
        assert "Nothing to be done" in done.stdout, f"{section}: {done.stdout}"


@pytest.fixture
def with_own_skills(repository: Path, project: Path) -> Path:
    """The project with a skill library of its own, named in its configuration."""
    library = repository / "src" / "sdar" / "environments" / "alfworld" / "skills"
    shutil.copytree(library, project / "skills")
    path = project / "config" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["skills"]["library"] = "skills"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return project


def test_an_edited_skill_reruns_who_is_told_it(with_own_skills: Path) -> None:
    project = pretend(with_own_skills)
    assert "Nothing to be done" in snakemake(project, "--dry-run", "--", "all").stdout
    with (project / "skills" / "general.md").open("a") as file:
        file.write("Look twice.\n")
    plan = planned(snakemake(project, "--dry-run", "--", "all").stdout)
    assert (plan["demonstrations"], plan["train"], plan["evaluate"]) == (1, 4, 6)
    assert "tasks" not in plan


def test_dvc_reruns_what_snakemake_reruns(repository: Path, with_own_skills: Path) -> None:
    """What DVC calls changed, after each kind of change; nothing is run."""
    project = pretend(with_own_skills)
    shutil.copytree(repository / ".dvc", project / ".dvc")
    made = run(project, "sdar", "config", "dvc")
    assert made.returncode == 0, made.stdout
    (project / "dvc.yaml").write_text(made.stdout)
    subprocess.run(["git", "init", "--quiet"], cwd=project, check=True)
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}

    def changed() -> set[str]:
        done = run(project, "dvc", "status", "--json", environment=environment)
        assert done.returncode == 0, done.stdout
        return set(json.loads(done.stdout[done.stdout.index("{") :]))

    done = run(project, "dvc", "commit", "--force", "--quiet", environment=environment)
    assert done.returncode == 0, done.stdout
    assert changed() == set()
    change(project, "environment", workers=2)
    change(project, "execution", threads=2, processes=2)
    change(project, "rollout", batch=16)
    change(project, "training", micro_batch=8, reference="host", checkpoint_every=1)
    assert changed() == set()
    with (project / "skills" / "general.md").open("a") as file:
        file.write("Look twice.\n")
    assert changed() == {"data", "warm_start", "train", "evaluate"}
    done = run(project, "dvc", "commit", "--force", "--quiet", environment=environment)
    assert done.returncode == 0, done.stdout
    change(project, "training", learning_rate=1e-4)
    assert changed() == {"train"}
    change(project, "rollout", engine="vllm")
    assert changed() == {"train", "evaluate"}


def test_a_copy_of_a_finished_project_is_finished(pretended: Path) -> None:
    """`cp -r` gives all files new times, in any order: here every input is younger than what was
    made from it."""
    copy = pretended.with_name(f"{pretended.name}-copy")
    shutil.copytree(pretended, copy, copy_function=shutil.copyfile)
    for age, top in enumerate(("data", "runs", "results")):
        for path in (copy / top).rglob("*"):
            if path.is_file():
                os.utime(path, (time.time() - 100 * age,) * 2)
    done = snakemake(copy, "--dry-run", "--", "all")
    assert "Nothing to be done" in done.stdout, done.stdout
    tasks = copy / "data" / "alfworld-tiny" / "tasks"
    (tasks / ".snakemake_timestamp").touch()
    assert planned(snakemake(copy, "--dry-run", "--", "all").stdout)["train"] == 4


def test_after_a_kill_the_same_command_goes_on(project: Path) -> None:
    """The lock of a dead Snakemake is removed; that of a living one, or of its job, is not."""
    short = experiment(project, "warm_start: {demonstrations: {episodes: 100000}}")
    target = "data/alfworld-tiny/demonstrations"
    words = ("snakemake", "--profile", "profiles/local", "--configfile", short.name, "--", target)
    here = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{here}{os.pathsep}{os.environ['PATH']}"}
    with (project / "log").open("w") as log:
        running = subprocess.Popen(
            [here / words[0], *words[1:]],
            cwd=project,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    job = None
    try:
        deadline = time.monotonic() + 120
        while job is None:
            assert running.poll() is None, (project / "log").read_text()
            assert time.monotonic() < deadline
            for child in psutil.Process(running.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    line = child.cmdline()
                    job = child if "demonstrations" in line and "sdar" in line[1] else job
            time.sleep(0.1)
        done = run(project, "sdar", "workflow", "unlock")
        assert done.returncode == 2
        assert f"process {running.pid} still works here" in done.stdout
        running.kill()
        running.wait()
        done = run(project, "sdar", "workflow", "unlock")
        assert done.returncode == 2
        assert "sdar demonstrations" in done.stdout
        job.kill()
        job.wait()
        assert "LockException" in run(project, *words).stdout
        done = run(project, "sdar", "workflow", "unlock")
        assert done.returncode == 0, done.stdout
        short.write_text("warm_start: {demonstrations: {episodes: 2, openings: 1}}")
        done = run(project, *words)
        assert done.returncode == 0, done.stdout
        assert run(project, "sdar", "workflow", "unlock").stdout == ""
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)


def test_a_corrected_answer_makes_the_tasks_again(project: Path) -> None:
    """The content of named data is an input, not its name alone."""
    questions = project / "questions"
    questions.mkdir()
    for split in ("train", "test"):
        row = {"id": "1", "question": "Who?", "golden_answers": ["Bob"], "data_source": "nq"}
        (questions / f"{split}.jsonl").write_text(json.dumps(row) + "\n")
    retriever = {"kind": "http", "urls": ["http://127.0.0.1:9"]}
    values = {
        "experiment": "own",
        "environment": {"name": "searchqa", "data": "questions", "retriever": retriever},
        "policy": {"model": "a/b"},
        "warm_start": {"enabled": False},
    }
    path = experiment(project, json.dumps(values))
    command = ("--configfile", path.name, "--", "data/own/tasks")
    (project / "data" / "own" / "tasks").mkdir(parents=True)
    done = snakemake(project, "--touch", "--forceall", *command)
    assert done.returncode == 0, done.stdout
    done = snakemake(project, "--dry-run", *command)
    assert "Nothing to be done" in done.stdout, done.stdout
    file = questions / "train.jsonl"
    file.write_text(file.read_text().replace("Bob", "Eve"))
    assert planned(snakemake(project, "--dry-run", *command).stdout)["tasks"] == 1


def test_the_pipeline_runs_in_a_folder_of_any_name(project: Path) -> None:
    folder = project.parent / 'it\'s "mine" $(touch PWNED); é'
    project.rename(folder)
    done = snakemake(folder, "--dry-run", "--", "all")
    assert done.returncode == 0, done.stdout
    target = "data/alfworld-tiny/demonstrations"
    short = experiment(folder, "warm_start: {demonstrations: {episodes: 2, openings: 1}}")
    done = snakemake(folder, "--configfile", short.name, "--", target)
    assert done.returncode == 0, done.stdout
    assert (folder / target / "demonstrations.parquet").is_file()
    assert not list(folder.parent.rglob("PWNED"))
    project.mkdir()
