"""Reading parquet files, those too that others may have harmed."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sdar.errors import SdarError

ROWS_AT_ONCE = 512
_TEXT = (pa.string(), pa.large_string(), pa.string_view())


def read_table(path: Path, schema: pa.Schema, remedy: str) -> pa.Table:
    """The columns of `schema` of a parquet file. Raises `SdarError`, which ends with `remedy`,
    where the file is missing, damaged or of something else."""
    try:
        table = load_table(path).select(schema.names)
        table.validate(full=True)
    except (OSError, KeyError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise SdarError(f"{path} cannot be read ({reason}): {remedy}") from None
    strange = [name for name in schema.names if not _holds(schema.field(name), table.field(name))]
    if strange:
        raise SdarError(f"{path} cannot be read (not the type of {strange[0]}): {remedy}")
    return table.cast(schema)


def load_table(path: Path) -> pa.Table:
    """A parquet file that is known to be what was written."""
    with pq.ParquetFile(path) as file:
        return file.read()


def rows_of(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Its rows, a few at a time: texts that many rows share would fill the memory."""
    for batch in table.to_batches(max_chunksize=ROWS_AT_ONCE):
        yield from batch.to_pylist()


def sorted_by(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """Its rows by these columns, rows that are equal in them as they were."""
    return table.sort_by([(name, "ascending") for name in names])


def _holds(wanted: pa.Field, found: pa.Field) -> bool:
    """Whether a column of a file has the type; one without any value has none of its own, and text
    is text however it is laid out."""
    if pa.types.is_null(found.type) or found.type == wanted.type:
        return True
    return wanted.type in _TEXT and found.type in _TEXT
