"""The columns of the tables are the contract with runs that are on disk: names, types, order."""

import polars as pl

from sdar.records.tables import EPISODES, TRAINING_EPISODES, TRAINING_TOKENS, token_table


def test_the_two_episode_tables_have_the_columns_they_always_had() -> None:
    assert list(EPISODES.items()) == [
        ("method", pl.String),
        ("seed", pl.Int64),
        ("with_skill", pl.Boolean),
        ("panel", pl.String),
        ("evaluation_seed", pl.Int64),
        ("task_id", pl.String),
        ("task_type", pl.String),
        ("data_set", pl.String),
        ("success", pl.Boolean),
        ("score", pl.Float64),
        ("return", pl.Float64),
        ("turns", pl.Int64),
        ("invalid_share", pl.Float64),
        ("inadmissible_share", pl.Float64),
        ("response_tokens", pl.Int64),
        ("skill_digest", pl.String),
    ]
    assert list(TRAINING_EPISODES.items()) == [
        ("step", pl.Int64),
        ("slot", pl.Int64),
        ("group", pl.Int64),
        ("task_id", pl.String),
        ("task_type", pl.String),
        ("success", pl.Boolean),
        ("return", pl.Float64),
        ("turns", pl.Int64),
        ("invalid_share", pl.Float64),
        ("inadmissible_share", pl.Float64),
        ("prompt_tokens", pl.Int64),
        ("response_tokens", pl.Int64),
        ("skill_digest", pl.String),
    ]


def test_what_a_token_row_lacks_is_null() -> None:
    table = token_table([{"token": "a", "return": 1.0, "unknown": 2}], TRAINING_TOKENS)
    assert table.schema == TRAINING_TOKENS
    row = {name: value for name, value in table.row(0, named=True).items() if value is not None}
    assert row == {"token": "a", "return": 1.0}
