"""The table of GPU memory in the documentation."""

from pathlib import Path

from memory_table import BEGIN, END, papers, table


def test_it_is_that_of_the_estimate_for_the_nine_experiments(repository: Path) -> None:
    text = (repository / "docs" / "memory.md").read_text(encoding="utf-8")
    assert text.split(BEGIN)[1].split(END)[0] == table(papers())
    assert len(papers()) == 9
