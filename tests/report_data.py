"""A made experiment for tests of the report: evaluations, training records and token rows.

Nothing here is a result: outcomes are drawn from fixed probabilities by seeded generators.
"""

import json
from pathlib import Path

import numpy as np

from sdar.config import ExperimentConfig, Layout
from sdar.files.whole import write_parquet
from sdar.records.tables import episodes_table, tokens_table
from sdar.records.token_classes import token_classes

TYPES = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)
SUCCESS = {"warm_start": 0.40, "skill_prompt": 0.66, "grpo": 0.56, "sdar": 0.62}
PANELS = {"valid_seen": 140, "valid_unseen": 134}
SKILL = "Mugs & cups are kept in the sink."
PROMPT = "You are in a room. Your task is to: put a clean mug <in> the cabinet.\n> go to sink 1\n"


def make_experiment(
    root: Path, *, steps: int = 30, panels: dict[str, int] = PANELS
) -> tuple[ExperimentConfig, Layout]:
    """Write runs/ under `root` as the stages before the comparison leave it."""
    config = ExperimentConfig()
    layout = Layout(root, config.experiment)
    for number, (method, rate) in enumerate(SUCCESS.items()):
        seeds = config.seeds if method in config.methods else config.seeds[:1]
        for seed in seeds:
            rng = np.random.default_rng([number, seed])
            _evaluation(layout, method, seed, rate + 0.02 * seed, panels, rng)
            if method in config.methods:
                _training(layout.run(method, seed), method, rate, steps, rng)
    return config, layout


def _evaluation(
    layout: Layout,
    method: str,
    seed: int,
    rate: float,
    panels: dict[str, int],
    rng: np.random.Generator,
) -> None:
    rows, tokens = [], []
    identity = {"method": method, "seed": seed, "with_skill": method == "skill_prompt"}
    for panel, count in panels.items():
        for index in range(count):
            task_type = TYPES[index % len(TYPES)]
            won = bool(rng.random() < rate - 0.06 * (index % len(TYPES) - 2.5) / 2.5)
            task = {
                **identity,
                "panel": panel,
                "evaluation_seed": 0,
                "task_id": f"{panel}/{task_type}-Mug-None-Cabinet-{index}/trial_{index:03d}",
                "task_type": task_type,
                "success": won,
            }
            rows.append(
                task
                | {
                    "return": 10.0 * won,
                    "turns": int(rng.integers(4, 9)) if won else 14,
                    "invalid_share": 0.0,
                    "inadmissible_share": float(rng.random() * 0.3),
                    "response_tokens": int(rng.integers(60, 160)),
                    "skill_digest": "0123abcd" if identity["with_skill"] else None,
                }
            )
            if index < 6:
                tokens += _tokens(task, rng)
    folder = layout.evaluation(method, seed)
    write_parquet(folder / "episodes.parquet", episodes_table(rows))
    write_parquet(folder / "tokens.parquet", tokens_table(tokens))


def _tokens(task: dict[str, object], rng: np.random.Generator) -> list[dict[str, object]]:
    rows = []
    for turn in range(4 if task["success"] else 8):
        words = ["<think>", "find", " mug", " sinkbasin 1", "</think>", "<action>"]
        words += ["go to", f" cabinet {turn + 1}", "</action>"]
        here, elsewhere = f"go to cabinet {turn + 1}", "go to fridge 1"
        for position, (word, kind) in enumerate(zip(words, token_classes(words), strict=True)):
            student = float(-rng.exponential(0.3))
            teacher = min(-1e-4, student + float(rng.normal(-0.05, 0.6)))
            rows.append(
                task
                | {
                    "episode": f"{task['panel']}/0/{task['task_id']}",
                    "turn": turn,
                    "position": position,
                    "token": word,
                    "token_id": 100 + position,
                    "token_class": kind,
                    "student_log_prob": student,
                    "teacher_log_prob": teacher,
                    "old_log_prob": student,
                    "gap": teacher - student,
                    "gate": float(1 / (1 + np.exp(-5 * (teacher - student)))),
                    "action": here,
                    "valid": True,
                    "admissible": turn % 4 != 3,
                    "observation": f"You arrive at cabinet {turn}. On the cabinet {turn}, you see "
                    "a mug 1, and a cup 2.",
                    "next_observation": f"You arrive at cabinet {turn + 1}.",
                    "student_prompt": f"user: {PROMPT}",
                    "teacher_prompt": f"system: {SKILL}\nuser: {PROMPT}",
                    "skill": task["task_type"],
                    "skill_digest": "0123abcd",
                    "skill_text": SKILL,
                    "expert_action": here if turn % 2 else elsewhere,
                    "student_greedy_action": here,
                    "teacher_greedy_action": elsewhere if turn % 3 == 0 else here,
                }
            )
    return rows


def _training(folder: Path, method: str, rate: float, steps: int, rng: np.random.Generator) -> None:
    metrics, timings = [], []
    for step in range(steps):
        success = 0.28 + (rate - 0.34) * (1 - np.exp(-step / 12)) + rng.normal(0, 0.04)
        record = {"step": step, "train/success": float(np.clip(success, 0, 1))}
        record |= {"train/samples": 40, "train/response_tokens": 25.0}
        seconds = {"environment_s": 0.4, "generation_s": 2.2, "old_s": 1.1, "reference_s": 1.0}
        seconds |= {"update_s": 4.1, "records_s": 0.02}
        if method == "sdar":
            record["gate/mean"] = float(0.45 + 0.02 * np.sin(step / 6) + rng.normal(0, 0.004))
            record["gate/active_ratio"] = float(0.34 + 0.002 * step + rng.normal(0, 0.01))
            record["gap/mean"] = float(-0.13 + 0.002 * step + rng.normal(0, 0.01))
            for q, offset in (("05", -0.9), ("25", -0.1), ("50", 0.0), ("75", 0.05), ("95", 0.4)):
                record[f"gap/q{q}"] = record["gap/mean"] + offset
            seconds["teacher_s"] = 1.3
        metrics.append(record)
        line = {k: v + rng.random() * 0.3 for k, v in seconds.items()}
        counts = {"tokens": 15_000, "teacher_prompt_tokens": 21_000 if method == "sdar" else 0}
        timings.append({"step": step, **line, **counts, "total_s": 0.5 + sum(line.values())})
    folder.mkdir(parents=True, exist_ok=True)
    for name, records in (("metrics.jsonl", metrics), ("timings.jsonl", timings)):
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / name).write_text(lines, "utf-8")
