"""No password or token in anything that is shown or kept."""

import pytest

from sdar.redaction import has_secret, redact

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://me:hunter2@host:5000/x", "http://me:***@host:5000/x"),
        ("HTTPS://me:hunter2@host", "HTTPS://me:***@host"),
        ("postgresql://me:hunter2@host/db", "postgresql://me:***@host/db"),
        (
            "mysql+pymysql://me:hunter2@host:3306/db?ssl=1",
            "mysql+pymysql://me:***@host:3306/db?ssl=1",
        ),
        ("mssql+pyodbc://:hunter2@host", "mssql+pyodbc://:***@host"),
        ("postgresql://me:p@hunter2@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:p/hunter2@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:p?#hunter2@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:my hunter2@host/db", "postgresql://me:***@host/db"),
        ("https://hunter2@host/", "https://***@host/"),
        ("http://host/retrieve?api_key=hunter2&k=3", "http://host/retrieve?api_key=***&k=3"),
        (
            "postgresql://host/db?user=me&password=hunter2",
            "postgresql://host/db?user=me&password=***",
        ),
        ("https://host/x?se=1&sig=hunter2", "https://host/x?se=1&sig=***"),
        ("https://host/x?X-Amz-Signature=hunter2", "https://host/x?X-Amz-Signature=***"),
        ("s3://b?AWS_SECRET_ACCESS_KEY=hunter2", "s3://b?AWS_SECRET_ACCESS_KEY=***"),
    ],
)
def test_a_secret_is_hidden_and_the_rest_shown(uri: str, shown: str) -> None:
    assert redact(uri) == shown
    assert redact(shown) == shown
    assert (has_secret(uri), has_secret(shown)) == (True, False)


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:///mlflow.db",
        "sqlite:////home/me@work/mlflow.db",
        "http://127.0.0.1:5000",
        "http://host:5000/api/2.0?page=2",
        "postgresql://me@host/db",
        "databricks",
        "http://host/retrieve?keyspace=wiki&author=x",
        "",
    ],
)
def test_what_holds_no_secret_stays(uri: str) -> None:
    assert redact(uri) == uri


def test_pieces_that_a_library_quotes_are_hidden_too() -> None:
    uri = "http://me:hunt%65r2@host:80"
    said = "Failed to parse: hunter2@host, hunt%65r2 (http://me:hunt%65r2@host:80)"
    assert redact(said, uri) == "Failed to parse: ***@host, *** (http://me:***@host:80)"


def test_all_uris_of_a_text_are_seen() -> None:
    said = "('http://a:hunter2@b', \"x+y://c:hunter2@d\") and\nhttp://e?token=hunter2."
    assert SECRET not in redact(said)
