"""The columns of the tables are the contract with runs that are on disk: names, types, order."""

import pyarrow as pa

from sdar.records.tables import EPISODES, TRAINING_EPISODES, TRAINING_TOKENS, token_table


def test_the_two_episode_tables_have_the_columns_they_always_had() -> None:
    assert [(field.name, field.type) for field in EPISODES] == [
        ("method", pa.large_string()),
        ("seed", pa.int64()),
        ("with_skill", pa.bool_()),
        ("panel", pa.large_string()),
        ("evaluation_seed", pa.int64()),
        ("task_id", pa.large_string()),
        ("task_type", pa.large_string()),
        ("data_set", pa.large_string()),
        ("success", pa.bool_()),
        ("score", pa.float64()),
        ("return", pa.float64()),
        ("turns", pa.int64()),
        ("invalid_share", pa.float64()),
        ("inadmissible_share", pa.float64()),
        ("response_tokens", pa.int64()),
        ("skill_digest", pa.large_string()),
    ]
    assert [(field.name, field.type) for field in TRAINING_EPISODES] == [
        ("step", pa.int64()),
        ("slot", pa.int64()),
        ("group", pa.int64()),
        ("task_id", pa.large_string()),
        ("task_type", pa.large_string()),
        ("success", pa.bool_()),
        ("return", pa.float64()),
        ("turns", pa.int64()),
        ("invalid_share", pa.float64()),
        ("inadmissible_share", pa.float64()),
        ("prompt_tokens", pa.int64()),
        ("response_tokens", pa.int64()),
        ("skill_digest", pa.large_string()),
    ]


def test_what_a_token_row_lacks_is_null() -> None:
    table = token_table([{"token": "a", "return": 1.0, "unknown": 2}], TRAINING_TOKENS)
    assert table.schema == TRAINING_TOKENS
    row = {name: value for name, value in table.to_pylist()[0].items() if value is not None}
    assert row == {"token": "a", "return": 1.0}
