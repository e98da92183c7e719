"""Reading a configuration: defaults, then the file's overrides, then the checks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sdar.config.models import SECTIONS, ExperimentConfig
from sdar.environments.packages import DEFAULT
from sdar.errors import SdarError
from sdar.files.paths import expand
from sdar.redaction import redact

MOST_PROBLEMS = 4
LONGEST_SHOWN = 60


def load_config(path: Path | str) -> ExperimentConfig:
    """Read and validate a YAML file that holds only what differs from the defaults.

    Raises `SdarError` with the path of each wrong key and what to do.
    """
    return parse_config(read_values(path), source=str(path))


def read_values(path: Path | str, above: tuple[Path, ...] = ()) -> Any:
    """What a YAML file says, unchecked, laid over the file that its `base` names, if any (relative
    to its own folder). An empty file says nothing. Raises `SdarError`."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SdarError(
            f"{path}: no such configuration; give --config a YAML file (config/config.yaml is "
            "the default)"
        ) from None
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SdarError(f"{path}: not valid YAML: {_what_is_wrong(error)}") from None
    if not isinstance(values, Mapping) or "base" not in values:
        return {} if values is None else values
    above, base = (*above, path.resolve()), values["base"]
    try:
        base = expand(base) if isinstance(base, str) else base
    except ValueError as error:
        raise SdarError(f"{path}: base: {error}") from None
    if not isinstance(base, str) or (path.parent / base).resolve() in above:
        raise SdarError(
            f"{path}: base is {base!r}; name another file, which is not based on this one"
        )
    below = read_values(path.parent / base, above)
    if not isinstance(below, Mapping):
        raise SdarError(
            f"{path.parent / base}: expected keys and values, found {type(below).__name__}"
        )
    return merge_values(below, {key: values[key] for key in values if key != "base"})


def _what_is_wrong(error: yaml.YAMLError) -> str:
    """Place and problem, without the line itself: half of a password may stand in it."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not readable"
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else str(problem)


def parse_config(values: Mapping[str, Any], source: str = "configuration") -> ExperimentConfig:
    """Validate a mapping; `source` names it in errors."""
    if not isinstance(values, Mapping):
        raise SdarError(f"{source}: expected keys and values, found {type(values).__name__}")
    try:
        return ExperimentConfig.model_validate(values)
    except ValidationError as error:
        found = [item for item in error.errors() if not _follows(item, error.errors())]
        lines = [f"{source}: {redact(_explain(item))}" for item in found[:MOST_PROBLEMS]]
        if len(found) > MOST_PROBLEMS:
            lines.append(f"{source}: {len(found) - MOST_PROBLEMS} further problems")
        raise SdarError("\n".join(lines)) from None


def merge_values(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid over `base`, key by key in depth. A section that says another `name` than the
    base's (another environment) has other keys: it replaces the base's section."""
    merged = dict(base)
    evaluation = merged.get("evaluation")
    if _other(base.get("environment"), over.get("environment")) and isinstance(evaluation, Mapping):
        # The base's panels are those of its own environment.
        merged["evaluation"] = {key: kept for key, kept in evaluation.items() if key != "panels"}
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            merged[key] = dict(value) if _other(below, value) else merge_values(below, value)
        else:
            merged[key] = value
    return merged


def _other(below: Any, value: Any) -> bool:
    """Both are sections with a `name`, and the names differ."""
    if not (isinstance(below, Mapping) and isinstance(value, Mapping)):
        return False
    return "name" in value and "name" in below and value["name"] != below["name"]


def _follows(item: Any, errors: Sequence[Any]) -> bool:
    """A list is called too short for lack of the items that are refused themselves."""
    inside = (other["loc"][: len(item["loc"])] == item["loc"] for other in errors if other != item)
    return item["type"] == "too_short" and any(inside)


def _explain(item: Any) -> str:
    location, name = tuple(item["loc"]), DEFAULT
    if location[:1] == ("environment",) and len(location) > 1 and location[1] in SECTIONS:
        name = str(location[1])
        location = (location[0], *location[2:])  # pydantic's name of the union's member is no key
    key = ".".join(str(part) for part in location)
    if item["type"] == "extra_forbidden":
        return f"{key}: unknown key{_did_you_mean(location, name)}; remove or rename it"
    message = item["msg"].removeprefix("Value error, ")
    given = item.get("input")
    text = redact(repr(given))
    text = text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…"
    shown = f", found {text}" if key and not isinstance(given, dict) else ""
    return f"{key}: {message}{shown}" if key else message


def _did_you_mean(location: tuple[int | str, ...], environment: str) -> str:
    import difflib

    model: Any = ExperimentConfig
    for depth, part in enumerate(location[:-1]):
        field = getattr(model, "model_fields", {}).get(part)
        model = field.annotation if field is not None else None
        if depth == 0 and part == "environment":
            model = SECTIONS[environment]
    known = list(getattr(model, "model_fields", {}))
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f" (did you mean {close[0]}?)" if close else f" (known: {', '.join(known)})"
