"""What MLflow shows of a run: its parameters, tags and data sets."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdar.config import ExperimentConfig, Layout
from sdar.config.stages import Stage, computed_with, depends_on
from sdar.files.digest import file_digest

LONGEST_PARAMETER = 500


def parameters(config: ExperimentConfig, kind: Stage) -> dict[str, str]:
    """What a run depends on (`config.stages`) and was computed with, as flat parameters of at most
    `LONGEST_PARAMETER` characters."""
    flat: dict[str, str] = {}
    for values in (depends_on(config, kind), computed_with(config, kind)):
        for key, value in values.items():
            flat.update(flatten(value, key))
    return flat


def flatten(value: Any, prefix: str = "") -> dict[str, str]:
    """Nested mappings as dotted keys; lists as JSON; every value as text."""
    if isinstance(value, Mapping):
        flat: dict[str, str] = {}
        for key, item in value.items():
            flat.update(flatten(item, f"{prefix}.{key}" if prefix else str(key)))
        return flat
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    if len(text) > LONGEST_PARAMETER:
        text = text[: LONGEST_PARAMETER - 1] + "…"
    return {prefix: text}


def run_tags(config: ExperimentConfig, kind: Stage, name: str) -> dict[str, str]:
    """Tags to filter and group by: experiment, stage and, if the name has them, method and seed."""
    tags = {"experiment": config.experiment, "stage": kind}
    if match := re.match(r"(?P<method>[a-z_]+)/seed-(?P<seed>\d+)", name):
        tags |= match.groupdict()
    return tags


def run_name(layout: Layout, name: str) -> str:
    """`sdar/seed-0` as people read it; a variant's run has the variant's name for the method's."""
    if layout.variant is None:
        return name
    return f"sweep/{layout.variant}/{name.partition('/')[2]}"


def datasets(kind: Stage, layout: Layout) -> list[dict[str, Any]]:
    """The data a run reads: name, digest, path and split sizes. Absent files are left out."""
    inputs: list[dict[str, Any]] = []
    tasks = layout.tasks / "tasks.jsonl"
    if kind in ("tasks", "train", "evaluate", "warm_start") and tasks.is_file():
        lines = tasks.read_text(encoding="utf-8").splitlines()
        splits = Counter(str(json.loads(line).get("split", "all")) for line in lines if line)
        context = "evaluation" if kind == "evaluate" else "training"
        name = f"{layout.experiment} tasks"
        inputs.append(_dataset(name, tasks, context, dict(sorted(splits.items()))))
    demonstrations = layout.demonstrations / "demonstrations.parquet"
    if kind in ("demonstrations", "warm_start") and demonstrations.is_file():
        import pyarrow.parquet

        rows = pyarrow.parquet.read_metadata(demonstrations).num_rows
        name = f"{layout.experiment} demonstrations"
        inputs.append(_dataset(name, demonstrations, "training", {"rows": rows}))
    return inputs


def _dataset(name: str, path: Path, context: str, splits: dict[str, int]) -> dict[str, Any]:
    return {
        "name": name,
        "path": str(path),
        "digest": file_digest(path)[:16],
        "context": context,
        "splits": splits,
    }
