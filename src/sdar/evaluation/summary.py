"""summary.json: an evaluation in numbers, for people and for MLflow. Pure."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from sdar.evaluation.datasets import dataset_rates
from sdar.evaluation.statistics import rate_by
from sdar.sums import add_in_order

MEANS = ("return", "turns", "invalid_share", "inadmissible_share", "response_tokens")


def summarise(episodes: pa.Table, about: Mapping[str, Any]) -> dict[str, Any]:
    """Rates (0..1, Wilson intervals over tasks) by panel and prompt, and means over episodes.

    Where a panel is made of data sets, the rate is example-weighted: `by_data_set` has each, and
    `mean_of_data_sets` the mean of their rates. `score` (0-1, WebShop's reward) is there where the
    environment has one. `about` is put in front: what was evaluated, and how.
    """
    played: dict[tuple[bool, str], list[dict[str, Any]]] = {}
    for row in episodes.to_pylist():
        played.setdefault((row["with_skill"], row["panel"]), []).append(row)
    panels = []
    for (with_skill, panel), rows in played.items():
        extra: dict[str, Any] = {}
        if any(row["data_set"] for row in rows):
            rates = dataset_rates(rows)
            extra["by_data_set"] = {name: asdict(rate) for name, rate in rates.by_set.items()}
            extra["mean_of_data_sets"] = asdict(rates.mean_of_sets)
        if any(row["score"] is not None for row in rows):
            extra["score"] = add_in_order(row["score"] or 0.0 for row in rows) / len(rows)
        panels.append(
            {
                "panel": panel,
                "with_skill": with_skill,
                "success": asdict(rate_by(rows, ["panel"])[(panel,)]),
                "by_type": {k[0]: asdict(r) for k, r in rate_by(rows, ["task_type"]).items()},
                **extra,
                **{name: add_in_order(row[name] for row in rows) / len(rows) for name in MEANS},
            }
        )
    return {**about, "panels": panels}


def flat_metrics(summary: Mapping[str, Any]) -> dict[str, float]:
    """The summary as metrics: `<panel>/success`, `<panel>/turns`, ... and `<panel>/success/<type>`.

    Results with the skill in the prompt have `<panel>/with_skill/` in front.
    """
    metrics: dict[str, float] = {}
    for item in summary["panels"]:
        prefix = f"{item['panel']}/with_skill" if item["with_skill"] else item["panel"]
        metrics[f"{prefix}/success"] = item["success"]["rate"]
        metrics |= {f"{prefix}/{name}": item[name] for name in MEANS}
        if "score" in item:
            metrics[f"{prefix}/score"] = item["score"]
        if "mean_of_data_sets" in item:
            metrics[f"{prefix}/mean_of_data_sets"] = item["mean_of_data_sets"]["rate"]
        for data_set, rate in item.get("by_data_set", {}).items():
            metrics[f"{prefix}/success/{data_set}"] = rate["rate"]
        for task_type, rate in item["by_type"].items():
            metrics[f"{prefix}/success/{task_type}"] = rate["rate"]
    return metrics
