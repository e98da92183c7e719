"""Files of recorded tokens, and all of them as one table, which every figure about gap and gate is
computed from."""

from pathlib import Path

import pyarrow as pa

from sdar.config import ExperimentConfig, Layout
from sdar.files.tables import read_table
from sdar.methods.roles import trained_among
from sdar.records.runs import evaluations
from sdar.records.tables import TOKENS

_TEXTS = ("observation", "next_observation", "student_prompt", "teacher_prompt", "skill_text")


def read_token_file(path: Path) -> pa.Table:
    """One file of recorded tokens. Raises SdarError for a file without them."""
    return read_table(path, TOKENS, "make it again with the stage that writes it")


def training_files(folder: Path) -> list[tuple[int, Path]]:
    """(step, file) of the recorded steps of a run's folder, in order."""
    paths = sorted((folder / "tokens").glob("step-*.parquet"))
    return [(int(path.stem.removeprefix("step-")), path) for path in paths]


def recorded_tokens(config: ExperimentConfig, layout: Layout) -> pa.Table:
    """All recorded tokens of the experiment, without the long texts; `stage` is `evaluation` or
    `training`."""
    files = [
        ("evaluation", layout.evaluation(method, seed) / "tokens.parquet")
        for method, seed in evaluations(config, layout)
    ]
    for method in trained_among(config.methods):
        for seed in config.seeds:
            folder = layout.run(method, seed)
            files += [("training", path) for _, path in training_files(folder)]
    tables = []
    for stage, path in files:
        table = read_token_file(path).drop_columns(list(_TEXTS))
        stages = pa.array([stage] * table.num_rows, pa.large_string())
        tables.append(table.append_column("stage", stages))
    return pa.concat_tables(tables)
