"""The page of the comparison table."""

from sdar.report.table_page import table_page


def test_tables_become_tables_and_markup_stays_text() -> None:
    page = table_page("# A\n\n| x | y |\n|---|--:|\n| 1 | <b>2</b> |\n", "run")
    assert "<h1>A</h1>" in page
    assert "<td>1</td>" in page
    assert "&lt;b&gt;2&lt;/b&gt;" in page
    assert page.count("<html") == page.count("</html>") == 1
