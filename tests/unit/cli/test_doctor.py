"""What `sdar doctor` says of a model's chat template."""

import importlib.metadata
from pathlib import Path

import chat_templates
import pytest
import yaml

from sdar.cli.doctor import Finding, examine


def said_of(family: str, folder: Path, template: str | None = None) -> Finding:
    """The finding on the template of a model in `folder` that has no weights."""
    tokenizer = chat_templates.tokenizer(family)
    if template is not None:
        tokenizer = chat_templates.with_template(template)
    tokenizer.save_pretrained(folder / "model")
    (folder / "model" / "generation_config.json").write_text('{"eos_token_id": [3]}')
    config = {"policy": {"model": str(folder / "model")}, "warm_start": {"enabled": False}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    findings = examine(folder / "config.yaml", folder)
    (found,) = (finding for finding in findings if finding.subject == "chat template")
    return found


@pytest.mark.parametrize(
    ("family", "state"),
    [
        ("qwen2.5", "with <eos>, <pad>, <|im_end|>; a skill stands in the default system message"),
        ("gemma", "with <eos>, <pad>, <end_of_turn>; a skill stands in the user message"),
        ("thinking", "in the system message; it opens <think>, where responses begin"),
    ],
)
def test_ends_and_the_skill_s_place_are_reported(family: str, state: str, tmp_path: Path) -> None:
    found = said_of(family, tmp_path)
    assert found.level == "good"
    assert found.state.endswith(state)


def test_no_token_at_the_end_of_a_message_is_noted(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{{ m.role.upper() + ': ' + m.content + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'ASSISTANT: ' }}{% endif %}"
    )
    found = said_of("qwen3", tmp_path, template)
    assert (found.level, bool(found.remedy)) == ("note", True)
    assert "with no token" in found.state


def test_a_template_of_no_use_is_wrong(tmp_path: Path) -> None:
    found = said_of("qwen3", tmp_path, "{{ raise_exception('tools are needed') }}")
    assert found.level == "wrong"
    assert "one user message (tools are needed)" in found.state


def test_a_checkout_that_is_not_installed_is_told_which_extras_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_installed(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.requires", not_installed)
    monkeypatch.setattr("sdar.cli.doctor.is_installed", lambda module: module != "polars")
    found = {one.subject: one for one in examine(tmp_path / "config.yaml", tmp_path)}
    assert found["sdar"].level == found["packages [report]"].level == "note"
    assert found["packages [report]"].state == "polars is missing"
    assert "'.[report]'" in found["packages [report]"].remedy
    assert not [name for name in found if name.startswith("packages") and "report" not in name]
