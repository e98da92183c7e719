"""CITATION.cff is what the tools that read it expect, and speaks of this version."""

import tomllib
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_citation_names_this_version_and_the_paper() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    (paper,) = citation["references"]
    assert {"type", "title", "authors"} <= paper.keys()
    assert "arXiv:2605.15155" in [identifier["value"] for identifier in paper["identifiers"]]


def test_the_changelog_begins_with_what_is_not_released() -> None:
    text = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings[0] == "## [Unreleased]"
    assert any(heading.startswith("## [0.1.0]") for heading in headings)
