"""Commands in terminals that know few characters, and for readers that have heard enough."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import report_data

ENCODINGS = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "cp1252 strict": {"PYTHONIOENCODING": "cp1252:strict"},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recorded run, and tasks of Search-QA, with characters that few encodings have."""
    patch = pytest.MonkeyPatch()
    patch.setattr(report_data, "SKILL", "São – λ 日本語 ✓")
    patch.setattr(report_data, "TYPES", ("日本 λ", *report_data.TYPES[1:]))
    place = tmp_path_factory.mktemp("root")
    report_data.make_experiment(place, steps=2, panels={"valid_seen": 6})
    patch.undo()
    (place / "qa.yaml").write_text(
        "experiment: qa\nenvironment: {name: searchqa, questions: {train: 4, test: 4}}\n"
    )
    made = sdar("tasks", "--config", "qa.yaml", root=place)
    assert made.returncode == 0, made.stderr
    passages = place / "data/qa/tasks/passages.jsonl"
    text = passages.read_text(encoding="utf-8")
    passages.write_text(text.replace('"}\n', ' 日本 –"}\n'), encoding="utf-8")
    return place


def sdar(*arguments: str, root: Path, **variables: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [sys.executable, "-m", "sdar.cli", *arguments],
        cwd=root,
        env=os.environ | {"PYTHONUTF8": "0"} | variables,
        input="日本\nq\n".encode(),
        capture_output=True,
        check=False,
        timeout=120,
    )


RUN = "runs/alfworld-tiny/sdar/seed-0"
COMMANDS = {
    "list": ("view", RUN),
    "view": ("view", RUN, "1", "--numbers", "--prompts"),
    "expert": ("play", "--config", "qa.yaml", "--expert"),
    "person": ("play", "--config", "qa.yaml"),
    "wrong": ("view", "日本"),
    "help": ("view", "--help"),
    "show": ("config", "show", "--config", "qa.yaml"),
    "doctor": ("doctor", "--config", "qa.yaml"),
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_poor_encoding_ends_nothing(root: Path, command: str) -> None:
    rich = sdar(*COMMANDS[command], root=root, PYTHONIOENCODING="utf-8")
    assert b"Traceback" not in rich.stderr
    for encoding in ("ascii", "latin-1") + (("C",) if command in ("view", "person") else ()):
        poor = sdar(*COMMANDS[command], root=root, **ENCODINGS[encoding])
        assert poor.returncode == rich.returncode
        assert b"Traceback" not in poor.stderr
        assert len(poor.stdout.splitlines()) >= len(rich.stdout.splitlines()) // 2
        if encoding != "latin-1":
            assert poor.stdout.isascii()
            assert command != "view" or b"\\u65e5\\u672c" in poor.stdout


@pytest.mark.parametrize("name", ENCODINGS)
def test_progress_and_warnings_end_nothing_either(name: str) -> None:
    code = (
        "import logging; from sdar.cli.streams import prepare_streams; prepare_streams(); "
        "from sdar.progress import Progress; logging.basicConfig(); "
        "[None for _ in Progress(range(3), desc='\\u65e5\\u672c')]; logging.warning('\\u65e5'); "
        "print('\\u65e5\\u672c')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONUTF8": "0"} | ENCODINGS[name],
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"\\u65e5\\u672c\n"), done.stderr
    assert b"Traceback" not in done.stderr
    assert b"\\u65e5\\u672c" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", ["view", "expert", "show"])
@pytest.mark.parametrize("reader", ["| head -1", "| true", ">&-", "2>&1 | head -c 1"])
def test_who_stops_reading_gets_no_traceback(root: Path, command: str, reader: str) -> None:
    words = " ".join(COMMANDS[command])
    script = (
        f"{{ {sys.executable} -m sdar.cli {words}; echo code $? >&3; }} 3>codes 2>errors {reader}"
    )
    subprocess.run(["bash", "-c", script], cwd=root, check=False, timeout=120, capture_output=True)
    errors = (root / "errors").read_text()
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors
    assert (root / "codes").read_text() in ("code 0\n", "code 1\n", "code 141\n")


def test_files_are_read_and_written_as_utf_8(repository: Path) -> None:
    """Not as the machine's locale would have it."""
    found = []
    for path in (*repository.glob("src/**/*.py"), *repository.glob("benchmarks/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _of_text(node) and not _encoded(node):
                found.append(f"{path.relative_to(repository)}:{node.lineno}")
    assert not found


def _of_text(call: ast.Call) -> bool:
    """Whether it opens a file as text, or reads the output of a program so."""
    words = {word.arg: word.value for word in call.keywords}
    if isinstance(call.func, ast.Attribute) and call.func.attr in ("read_text", "write_text"):
        return len(call.args) < (1 if call.func.attr == "read_text" else 2)
    if getattr(words.get("text"), "value", None) is True:
        return True
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    if isinstance(call.func, ast.Name) and call.func.id == "open":
        name, given = "open", call.args[1:]
    elif name in ("open", "fdopen"):
        given = call.args[1:] if name == "fdopen" else call.args
    else:
        return False
    modes = [m.value for m in given if isinstance(m, ast.Constant) and isinstance(m.value, str)]
    return bool(modes) and set(modes[0]) <= {*"rwax+t"}


def _encoded(call: ast.Call) -> bool:
    return any(word.arg in ("encoding", "errors", None) for word in call.keywords)
