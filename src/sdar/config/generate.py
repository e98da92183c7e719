"""The files that follow from the models: `config/config.yaml`, `config/schema.json`, resolved YAML.

Comments of the YAML are the docstrings of the fields, so the models stay the only source.
`sdar config write` writes both files; a test fails when they drift.
"""

import json
import textwrap
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel

from sdar.config.models import ExperimentConfig
from sdar.files.whole import write_text

HEADER = """\
# yaml-language-server: $schema=schema.json
# The default experiment. Generated from src/sdar/config/models.py by `sdar config write`: change
# defaults there. For an experiment of your own write config/experiments/NAME.yaml with only what
# differs, and run it with
#   snakemake --profile profiles/local --configfile config/experiments/NAME.yaml -- all
"""
WIDTH = 98


def default_yaml() -> str:
    """The default configuration as commented YAML."""
    return HEADER + "\n" + "\n".join(_section_lines(ExperimentConfig(), indent=0)) + "\n"


def schema_json() -> str:
    """JSON schema of an experiment file, for editors."""
    schema = ExperimentConfig.model_json_schema()
    for definition in schema["$defs"].values():
        name = definition.get("properties", {}).get("name", {})
        if "const" in name and name["const"] != ExperimentConfig().environment.name:
            # Without a name an environment is the default one, and no other.
            definition["required"] = [*definition.get("required", []), "name"]
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def resolved_yaml(config: ExperimentConfig) -> str:
    """Every key with its value, no comments: what a job gets and what is kept beside a result."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def generated_files(repository: Path) -> dict[Path, str]:
    """Path and expected text of each generated file."""
    return {
        repository / "config" / "config.yaml": default_yaml(),
        repository / "config" / "schema.json": schema_json(),
    }


def write_if_changed(path: Path, text: str) -> bool:
    """Write atomically, and only when the text differs: an equal file keeps its time stamp."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    write_text(path, text)
    return True


def _section_lines(section: BaseModel, indent: int) -> list[str]:
    lines: list[str] = []
    pad = " " * indent
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            if indent == 0:
                lines.append("")
            lines += _comment(field.description or type(value).__doc__ or "", indent)
            lines.append(f"{pad}{name}:")
            lines += _section_lines(value, indent + 2)
            continue
        choices = _choices(field.annotation)
        described = " ".join(
            part for part in (field.description, choices and f"One of: {choices}.") if part
        )
        lines += _comment(described, indent)
        lines.append(f"{pad}{name}: {_scalar(value)}")
    return lines


def _comment(text: str, indent: int) -> list[str]:
    pad = " " * indent + "# "
    return textwrap.wrap(" ".join(text.split()), WIDTH, initial_indent=pad, subsequent_indent=pad)


def _choices(annotation: Any) -> str:
    """The values of a `Literal` (also inside a tuple), where there is a choice."""
    if get_origin(annotation) is tuple:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is not Literal or len(get_args(annotation)) < 2:
        return ""
    return ", ".join(str(value) for value in get_args(annotation))


def _scalar(value: Any) -> str:
    if isinstance(value, Path | Enum):
        value = str(value)
    if isinstance(value, tuple):
        value = list(value)
    dumped = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return dumped.removesuffix("\n").removesuffix("...").strip()
