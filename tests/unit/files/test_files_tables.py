"""Tables that are read: what was written by whatever library, or one sentence."""

from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sdar.errors import SdarError
from sdar.files.tables import ROWS_AT_ONCE, read_table, rows_of, sorted_by
from sdar.files.whole import write_parquet

SCHEMA = pa.schema({"name": pa.large_string(), "count": pa.int64(), "won": pa.bool_()})
ROWS = [
    {"name": "b", "count": 1, "won": True},
    {"name": None, "count": 2, "won": False},
    {"name": "a", "count": None, "won": None},
]


def test_a_table_of_polars_reads_like_one_of_ours(tmp_path: Path) -> None:
    """Runs of earlier versions wrote theirs with it, and the report still reads with it."""
    pl.DataFrame(ROWS).write_parquet(tmp_path / "theirs.parquet", compression="zstd")
    write_parquet(tmp_path / "ours.parquet", pa.Table.from_pylist(ROWS, schema=SCHEMA))
    theirs, ours = (
        read_table(tmp_path / name, SCHEMA, "remedy") for name in ("theirs.parquet", "ours.parquet")
    )
    assert theirs.equals(ours)
    assert ours.to_pylist() == ROWS
    frame = pl.read_parquet(tmp_path / "ours.parquet")
    assert frame.equals(pl.read_parquet(tmp_path / "theirs.parquet"))
    assert frame.schema == {"name": pl.String, "count": pl.Int64, "won": pl.Boolean}


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.null()])
def test_text_is_text_and_a_column_without_values_has_any_type(
    kind: pa.DataType, tmp_path: Path
) -> None:
    values = [None] if pa.types.is_null(kind) else ["x"]
    table = pa.table({"name": pa.array(values, kind), "count": [1], "won": [True], "more": [1.5]})
    pq.write_table(table, tmp_path / "t.parquet")
    found = read_table(tmp_path / "t.parquet", SCHEMA, "remedy")
    assert found.schema == SCHEMA
    assert found["name"].to_pylist() == values


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (pa.array([b"\xff\xfe"], pa.binary()), "not the type of name"),
        (pa.array(["x"]).dictionary_encode(), "not the type of name"),
        (pa.array([3]), "not the type of name"),
        (pa.array([b"\xff\xfe"], pa.binary()).view(pa.string()), "UTF8"),
        (None, "name"),
    ],
    ids=["bytes", "categories", "numbers", "no UTF-8", "missing"],
)
def test_another_column_is_one_sentence(
    column: pa.Array | None, reason: str, tmp_path: Path
) -> None:
    columns = {} if column is None else {"name": column}
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({**columns, "count": [1], "won": [True]}), path)
    with pytest.raises(SdarError, match=rf"t.parquet cannot be read \(.*{reason}.*\): remedy$"):
        read_table(path, SCHEMA, "remedy")


def test_a_folder_with_an_equals_sign_adds_no_column(tmp_path: Path) -> None:
    path = tmp_path / "count=7" / "t.parquet"
    write_parquet(path, pa.Table.from_pylist(ROWS, schema=SCHEMA))
    assert read_table(path, SCHEMA, "remedy").to_pylist() == ROWS


def test_rows_in_portions_are_all_rows_and_equals_keep_their_order() -> None:
    table = pa.table({"key": [i % 3 for i in range(2000)], "at": list(range(2000))})
    rows = list(rows_of(table))
    assert len(rows) > ROWS_AT_ONCE
    assert rows == table.to_pylist()
    assert list(rows_of(sorted_by(table, ["key"]))) == sorted(rows, key=lambda row: row["key"])
