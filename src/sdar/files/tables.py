"""Reading parquet files that others may have harmed."""

from pathlib import Path

import polars as pl

from sdar.errors import SdarError


def read_table(path: Path, schema: pl.Schema, remedy: str) -> pl.DataFrame:
    """The columns of `schema` of a parquet file. Raises `SdarError`, which ends with `remedy`,
    where the file is missing, damaged or of something else."""
    try:
        frame = pl.read_parquet(path).select(schema.names())
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = " ".join(str(error).split())[:200]
        raise SdarError(f"{path} cannot be read ({reason}): {remedy}") from None
    strange = [n for n, kind in schema.items() if frame.schema[n] not in (kind, pl.Null)]
    if strange:
        raise SdarError(f"{path} cannot be read (not the type of {strange[0]}): {remedy}")
    return frame
