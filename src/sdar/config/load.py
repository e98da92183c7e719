"""Reading a configuration: defaults, then the file's overrides, then the checks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sdar.config.models import ExperimentConfig
from sdar.errors import SdarError


def load_config(path: Path | str) -> ExperimentConfig:
    """Read and validate a YAML file that holds only what differs from the defaults.

    Raises `SdarError` with the path of each wrong key and what to do.
    """
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
        raise SdarError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    return parse_config({} if values is None else values, source=str(path))


def parse_config(values: Mapping[str, Any], source: str = "configuration") -> ExperimentConfig:
    """Validate a mapping; `source` names it in errors."""
    if not isinstance(values, Mapping):
        raise SdarError(f"{source}: expected keys and values, found {type(values).__name__}")
    try:
        return ExperimentConfig.model_validate(values)
    except ValidationError as error:
        lines = [f"{source}: {_explain(item)}" for item in error.errors()]
        raise SdarError("\n".join(lines)) from None


def _explain(item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"{key}: unknown key{_did_you_mean(item['loc'])}; remove or rename it"
    message = item["msg"].removeprefix("Value error, ")
    found = item.get("input")
    shown = f", found {found!r}" if key and not isinstance(found, dict) else ""
    return f"{key}: {message}{shown}" if key else message


def _did_you_mean(location: tuple[int | str, ...]) -> str:
    import difflib

    model: Any = ExperimentConfig
    for part in location[:-1]:
        field = getattr(model, "model_fields", {}).get(part)
        model = field.annotation if field is not None else None
    known = list(getattr(model, "model_fields", {}))
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f" (did you mean {close[0]}?)" if close else f" (known: {', '.join(known)})"
