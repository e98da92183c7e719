"""The files that follow from the models: config.yaml, schema.json, dvc.yaml, resolved YAML.

Comments of the YAML are the docstrings of the fields, so the models stay the only source.
`sdar config write` writes the files; a test fails when they drift.
"""

import json
import textwrap
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml

from sdar.config.dvc import dvc_yaml
from sdar.config.models import ExperimentConfig
from sdar.files.whole import write_text
from sdar.redaction import redact
from sdar.section import Section

HEADER = """\
# yaml-language-server: $schema=schema.json
# The default experiment. Generated from src/sdar/config/models.py by `sdar config write`: change
# defaults there. For an experiment of your own write config/experiments/NAME.yaml with only what
# differs (`base: OTHER.yaml` starts from another experiment than this one), and run it with
#   snakemake --profile profiles/local --configfile config/experiments/NAME.yaml -- all
# May a key be changed in the middle of a run? A change of most keys changes results, and what
# depends on them is computed again. Where a change alters only the rounding (sums in another
# order), or no result at all, the comment says so: what is finished stays, and a run continues.
"""
CHANGES = {"rounding": "Changes only the rounding", "nothing": "Changes no result"}
BASE = "Another experiment's file, relative to this one: what is said here is laid over it."
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
    for section in sections():
        properties = schema["$defs"].get(section.__name__, schema)["properties"]
        for name in section.model_fields:
            if "$ref" not in properties[name]:
                properties[name]["changes"] = section.changes(name)
    schema["properties"]["base"] = {"type": "string", "description": BASE}
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def resolved_yaml(config: ExperimentConfig) -> str:
    """Every key with its value, no comments: what a job gets and what is kept with a result."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def shown_yaml(config: ExperimentConfig) -> str:
    """`resolved_yaml` for people: keys whose change alters no result say so."""
    return "\n".join(_section_lines(config, indent=0, comments=False)) + "\n"


def sections(model: type[Section] = ExperimentConfig) -> Iterator[type[Section]]:
    """A section's class, and those of all sections in it."""
    yield model
    for field in model.model_fields.values():
        for kind in _classes(field.annotation):
            yield from sections(kind)


def _classes(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for argument in get_args(annotation):
        yield from _classes(argument)


def generated_files(repository: Path) -> dict[Path, str]:
    """Path and expected text of each generated file."""
    return {
        repository / "config" / "config.yaml": default_yaml(),
        repository / "config" / "schema.json": schema_json(),
        repository / "dvc.yaml": dvc_yaml(ExperimentConfig()),
    }


def write_if_changed(path: Path, text: str) -> bool:
    """Write atomically, and only when the text differs: an equal file keeps its time stamp."""
    if path.is_file() and path.read_bytes() == text.encode():
        return False
    write_text(path, text)
    return True


def _section_lines(section: Section, indent: int, comments: bool = True) -> list[str]:
    """A section's keys as YAML, described above each key or, without `comments`, in few words
    behind it."""
    lines: list[str] = []
    pad = " " * indent
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            if comments:
                if indent == 0:
                    lines.append("")
                described = [field.description or type(value).__doc__]
                if value.unmarked != section.unmarked:
                    described.append(f"{CHANGES[value.unmarked]}.")
                lines += _comment(described, indent)
            lines.append(f"{pad}{name}:")
            lines += _section_lines(value, indent + 2, comments)
            continue
        line, changes = f"{pad}{name}: {_scalar(value)}", type(section).changes(name)
        if not comments:
            lines.append(line if changes == "result" else f"{line}  # {CHANGES[changes].lower()}")
            continue
        choices = _choices(field.annotation)
        described = [field.description, f"One of: {choices}." if choices else None]
        if changes != section.unmarked:
            described.append(f"{CHANGES[changes]}.")
        lines += [*_comment(described, indent), line]
    return lines


def _comment(sentences: Iterable[str | None], indent: int) -> list[str]:
    pad = " " * indent + "# "
    text = " ".join(" ".join(filter(None, sentences)).split())
    return textwrap.wrap(text, WIDTH, initial_indent=pad, subsequent_indent=pad)


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
    if isinstance(value, str):
        value = redact(value)
    dumped = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return dumped.removesuffix("\n").removesuffix("...").strip()
