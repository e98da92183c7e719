"""Reading parquet files that others may have harmed."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from sdar.errors import SdarError


def read_table(path: Path, columns: Sequence[str], remedy: str) -> pl.DataFrame:
    """These columns of a parquet file. Raises `SdarError`, which ends with `remedy`, where the file
    is missing, damaged or of something else."""
    try:
        return pl.read_parquet(path).select(columns)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = " ".join(str(error).split())[:200]
        raise SdarError(f"{path} cannot be read ({reason}): {remedy}") from None
