"""The command line: quick, teaching, and polite about what the user can fix or stops."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sdar.cli.app import app
from sdar.errors import SdarError

pytestmark = pytest.mark.slow  # starts a process a test

STAGES = ["tasks", "demonstrations", "warm-start", "train", "evaluate", "compare", "report"]
PEOPLE = ["doctor", "play", "view", "replay", "bench", "ui", "track", "serve-retriever"]
PEOPLE += ["serve-policy", "config", "sweep", "workflow"]

# Runs the command line in this process and says how it ended and what it imported.
PROBE = """
import json, sys
from sdar.cli.app import main
try:
    main()
    code = 0
except SystemExit as end:
    code = end.code
heavy = [name for name in ("torch", "mlflow", "transformers", "textworld") if name in sys.modules]
print(json.dumps({"code": code, "heavy": heavy}))
"""

# A stage that takes its time, in the place of the real one.
SLOW_STAGE = """
import sys, time, types
module = types.ModuleType("sdar.report.results")
def compare(config, layout):
    print("started", flush=True)
    time.sleep(60)
module.compare = compare
sys.modules["sdar.report.results"] = module
from sdar.cli.app import main
sys.argv = ["sdar", "compare", "--root", "some where"]
main()
"""

# Ctrl-C in the midst of an import that makes a dataclass, which is an exec of a string.
INTERRUPTED_IMPORT = """
from sdar.cli.app import app, friendly, main
@app.command()
@friendly
def importing():
    exec("raise KeyboardInterrupt")
if __name__ == "__main__":
    main()
"""


@pytest.fixture
def scratch(repository: Path, tmp_path: Path) -> Path:
    """A folder with the default configuration, for stages that leave records."""
    (tmp_path / "config").mkdir()
    shutil.copy(repository / "config" / "config.yaml", tmp_path / "config")
    return tmp_path


def sdar(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sdar.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        timeout=120,
    )


def probe(*arguments: str, cwd: Path) -> tuple[dict[str, object], str]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=cwd,
        timeout=120,
    )
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_help_lists_the_stages_in_pipeline_order(repository: Path) -> None:
    done = sdar("--help", cwd=repository)
    commands = [
        line.split()[0]
        for line in done.stdout.partition("Commands:")[2].splitlines()
        if line.startswith("  ") and not line.startswith("   ")
    ]
    assert commands == STAGES + PEOPLE


@pytest.mark.parametrize("stage", STAGES)
def test_help_of_a_stage_says_what_it_reads_and_writes(repository: Path, stage: str) -> None:
    text = " ".join(sdar(stage, "--help", cwd=repository).stdout.split())
    for words in ("Reads", "Writes", f"Example: sdar {stage}", "--config", "--root"):
        assert words in text


@pytest.mark.parametrize("arguments", [("--help",), ("config", "check"), ("train", "--help")])
def test_light_commands_import_nothing_heavy(repository: Path, arguments: tuple[str, ...]) -> None:
    ended, _ = probe(*arguments, cwd=repository)
    assert ended == {"code": 0, "heavy": []}


@pytest.mark.parametrize(("given", "policy"), [(None, "passive"), ("active", "active")])
def test_a_waiting_thread_sleeps_unless_it_is_told_to_spin(
    monkeypatch: pytest.MonkeyPatch, given: str | None, policy: str
) -> None:
    """By a variable that is set before a command loads torch."""
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    shown = "import atexit, os; atexit.register(lambda: print(os.environ['OMP_WAIT_POLICY']))"
    program = f"{shown}; import sys; sys.argv = ['sdar', '--version']; import sdar.cli as cli"
    done = subprocess.run(
        [sys.executable, "-c", f"{program}; cli.main()"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.stdout.splitlines()[-1], done.returncode) == (policy, 0), done.stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("trainig: {}", "trainig: unknown key (did you mean training?)"),
        ("training: {steps: many}", "training.steps: "),
        ("training: {micro_batch: 512}", "lower training.micro_batch"),
        ("training: {group_size: 1}", "set training.group_size"),
        ("policy: {max_prompt_tokens: 2000}", "lower policy.max_prompt_tokens"),
        (
            "{environment: {data: nowhere}, policy: {model: Qwen/Qwen3-1.7B}, "
            "warm_start: {enabled: false}}",
            "environment.data: ",
        ),
        ("skills: {library: nowhere}", "skills.library: "),
        ("{policy: {model: nowhere}, warm_start: {enabled: false}}", "policy.model: "),
    ],
)
def test_a_stage_refuses_a_bad_configuration_before_it_loads_anything(
    tmp_path: Path, text: str, says: str
) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    ended, stderr = probe(
        "train", "--method", "grpo", "--config", "bad.yaml", "--root", "out", cwd=tmp_path
    )
    assert ended == {"code": 2, "heavy": []}
    assert says in stderr
    assert "Traceback" not in stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("train", "--method", "ppo"), "no such method; give one of grpo, sdar"),
        (("train", "--method", "warm_start"), "nothing to train"),
        (("evaluate", "--method", "ppo"), "give one of warm_start, skill_prompt, grpo"),
        (("compare", "--config", "none.yaml"), "none.yaml: no such configuration"),
    ],
)
def test_bad_arguments_are_one_sentence(
    repository: Path, arguments: tuple[str, ...], says: str
) -> None:
    done = sdar(*arguments, cwd=repository)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_a_stopped_stage_says_how_to_go_on(
    scratch: Path, number: signal.Signals, code: int, word: str
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_STAGE],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=scratch,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(number)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == code
    assert stderr.splitlines()[-1].startswith(f"sdar: {word};")
    assert stderr.rstrip().endswith("To go on: sdar compare --root 'some where'")
    assert "Traceback" not in stderr


def test_an_interrupt_noticed_by_a_library_first_is_clean_too(scratch: Path) -> None:
    """It raises KeyboardInterrupt itself and leaves Python's handler to run a little later."""
    code = SLOW_STAGE.replace(
        "time.sleep(60)",
        "import ctypes\n"
        "    try:\n"
        "        raise KeyboardInterrupt\n"
        "    finally:\n"
        "        ctypes.pythonapi.PyErr_SetInterrupt()",
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=scratch
    )
    assert done.returncode == 130
    assert done.stderr.startswith("sdar: interrupted;")
    assert "Traceback" not in done.stderr


def test_an_interrupted_import_ends_with_a_code_and_not_by_a_signal(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(INTERRUPTED_IMPORT)
    done = subprocess.run(
        [sys.executable, "-m", "program", "importing"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=60,
    )
    assert done.returncode == 130
    assert done.stderr == (
        "sdar: interrupted; what is complete is kept. To go on: sdar importing\n"
    )


def test_a_full_disk_is_one_sentence(scratch: Path) -> None:
    code = SLOW_STAGE.replace("time.sleep(60)", "raise OSError(28, 'No space', 'policy/x')")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=scratch
    )
    assert done.returncode == 2
    assert "no space left on the disk for policy/x" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_forked_worker_dies_of_sigterm_without_a_word(repository: Path) -> None:
    """Pools end their workers so; the parent's last words are not the worker's to say."""
    code = (
        "import os, signal, time\n"
        "from sdar.cli.options import friendly\n"
        "@friendly\n"
        "def stage():\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        time.sleep(60)\n"
        "    time.sleep(0.2)\n"
        "    os.kill(child, signal.SIGTERM)\n"
        "    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "stage()\n"
    )
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=repository
    )
    assert done.stdout == "143\n"
    assert done.stderr == ""
    assert time.monotonic() - started < 60  # what it would have slept


def test_config_show_prints_a_complete_configuration(repository: Path, tmp_path: Path) -> None:
    shown = sdar("config", "show", "--config", "config/experiments/minute.yaml", cwd=repository)
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(shown.stdout)
    again = sdar("config", "show", "--config", str(resolved), cwd=repository)
    assert again.stdout == shown.stdout
    assert "experiment: minute\n" in shown.stdout


def test_config_schema_is_the_file(repository: Path) -> None:
    done = sdar("config", "schema", cwd=repository)
    assert done.stdout == (repository / "config" / "schema.json").read_text()


def test_doctor_names_what_is_wrong(repository: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("policy: {model: nowhere}\nwarm_start: {enabled: false}\n")
    done = sdar("doctor", "--config", str(bad), "--root", str(tmp_path), cwd=repository)
    assert done.returncode == 1
    assert "policy.model: nowhere is neither" in done.stdout
    for subject in ("python", "packages", "cores", "memory", "disk", "accelerator", "tasks"):
        assert any(line.split()[1:2] == [subject] for line in done.stdout.splitlines()), subject


def test_a_sentence_that_quotes_junk_is_short(tmp_path, monkeypatch):
    """An error of decoding holds all that it could not decode, as its text does."""
    file = tmp_path / "config.yaml"
    file.write_text("experiment: short\n", encoding="utf-8")

    def junk(*_):
        raise SdarError(f"{file} cannot be read ({b'x' * 4000!r}): make it again")

    monkeypatch.setattr("sdar.cli.app.prepare", junk)
    done = CliRunner().invoke(app, ["tasks", "--config", str(file)])
    assert done.exit_code == 2
    assert len(done.stderr) < 1000
    assert done.stderr.startswith(f"sdar: {file} cannot be read")
    assert done.stderr.endswith("make it again\n")
