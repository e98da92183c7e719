"""Every module that is imported comes with the core or with an extra that is named."""

import ast
import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from core_only import PYPROJECT, led_to, normal
from packaging.requirements import Requirement

from sdar.config import parse_config
from sdar.config.checks import check_files
from sdar.environments.packages import all_extras, environment_sections
from sdar.errors import SdarError
from sdar.extras import first_missing, missing_extra

PROJECT = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]
EXTRAS = all_extras()
OPTIONAL = PROJECT["optional-dependencies"]
OF_MODULE = importlib.metadata.packages_distributions()
APART = {"vllm": "vllm"}
"""Has an environment and a sentence of its own."""
SOURCE = PYPROJECT.parent / "src" / "sdar"

STAGES = (
    *("sdar.cli.app", "sdar.environments.tasks", "sdar.training.demonstrations"),
    *("sdar.training.warm_start", "sdar.training.trainer", "sdar.evaluation.evaluate"),
    *("sdar.evaluation.scoring", "sdar.tracking.recorder", "sdar.cli.doctor", "sdar.cli.play"),
    *(f"sdar.environments.{name}.package" for name in ("alfworld", "searchqa")),
)
IMPORTS = f"""
import importlib, sys
import core_only
hidden = core_only.hide()
for name in {STAGES!r}:
    importlib.import_module(name)
print(sorted(hidden.intersection(sys.modules)), len(hidden))
"""


def imported() -> dict[str, str]:
    """Modules of other projects that sdar imports, each with one file that does."""
    found = {}
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in (name.partition(".")[0] for name in names):
                if name not in sys.stdlib_module_names and name != "sdar":
                    found[name] = str(path.relative_to(SOURCE))
    return found


def distributions(module: str) -> set[str]:
    return {normal(name) for name in OF_MODULE.get(module, [])}


def test_what_is_imported_is_of_the_core_or_of_an_extra() -> None:
    core = led_to(PROJECT["dependencies"])
    named = {module for modules in EXTRAS.values() for module in modules} | APART.keys()
    found = imported()
    assert {"torch", "pyarrow", "polars", "rapidfuzz"} <= found.keys()
    strange = {m: f for m, f in found.items() if m not in named and not distributions(m) & core}
    assert not strange


def test_extras_bring_the_modules_they_are_said_to_bring() -> None:
    for extra, modules in EXTRAS.items():
        brought = {normal(Requirement(text).name) for text in OPTIONAL[extra]}
        for module in modules:
            of = distributions(module)
            assert not of or of & brought, (extra, module)
    assert OPTIONAL.keys() == EXTRAS.keys() | {"vllm", "all", "dev"}


def test_all_is_every_extra_but_those_for_few() -> None:
    (everything,) = OPTIONAL["all"]
    left_out = {"dense", "nouns"}
    assert Requirement(everything).extras == EXTRAS.keys() - left_out


def test_every_environment_needs_modules_of_its_own_extras() -> None:
    for section in environment_sections().values():
        brought = {module for modules in section.extras.values() for module in modules}
        assert section().modules()
        assert set(section().modules()) <= brought


def test_the_stages_that_train_are_imported_without_any_extra(tmp_path: Path) -> None:
    """WebShop's reward and pages are computed with packages of its extra."""
    tests = PYPROJECT.parent / "tests"
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS],
        capture_output=True,
        text=True,
        check=False,
        cwd=tests,
    )
    assert done.returncode == 0, done.stderr
    there, hidden = done.stdout.rsplit(maxsplit=1)
    assert there == "[]"
    assert int(hidden) > 10


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("alfworld", "textworld", "alfworld"),
        ("webshop", "rapidfuzz", "webshop"),
        ("searchqa", "bm25s", "searchqa"),
        ("textworld_express", "py4j", "express"),
    ],
)
def test_an_environment_without_its_extra_is_one_sentence(
    name: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdar.extras.is_installed", lambda asked: asked != module)
    config = parse_config({"experiment": "x", "environment": {"name": name}})
    said = rf"^environment.name: {name}: {module} is not installed: `pip install 'sdar\[{extra}\]'`"
    with pytest.raises(SdarError, match=said):
        check_files(config)


def test_search_over_http_needs_no_extra() -> None:
    keys = {"name": "searchqa", "retriever": {"kind": "http", "urls": ["http://127.0.0.1:1"]}}
    config = parse_config({"experiment": "x", "environment": keys})
    assert first_missing(config.environment.modules(), {}) is None


def test_only_what_is_missing_of_an_extra_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ModuleNotFoundError("No module named 'polars'", name="polars.exceptions")
    assert missing_extra(error, EXTRAS) is None  # installed: something else is wrong
    monkeypatch.setattr("sdar.extras.is_installed", lambda _: False)
    assert "sdar[report]" in str(missing_extra(error, EXTRAS))
    assert missing_extra(ModuleNotFoundError("x", name="unknown"), EXTRAS) is None
    assert missing_extra(ImportError("x", name="polars"), EXTRAS) is None
