"""Numbers as people read them: markdown tables, percentages, intervals. Pure text."""

from collections.abc import Sequence

from sdar.escaping import markdown
from sdar.evaluation.statistics import Difference, Rate


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table with aligned columns: numbers to the right, words to the left. Whatever the
    cells hold is text."""
    cells = [[markdown(cell) for cell in row] for row in (header, *rows)]
    for row in cells:
        if len(row) != len(header):
            raise ValueError(f"a row has {len(row)} cells, the header {len(header)}: {row}")
    columns = range(len(header))
    widths = [max(3, *(len(row[column]) for row in cells)) for column in columns]
    words = [any(row[column][:1].isalpha() for row in cells[1:]) for column in columns]

    def line(row: Sequence[str]) -> str:
        padded = [row[c].ljust(widths[c]) if words[c] else row[c].rjust(widths[c]) for c in columns]
        return "| " + " | ".join(padded) + " |"

    rule = "|".join(
        "-" * (widths[c] + 2) if words[c] else "-" * (widths[c] + 1) + ":" for c in columns
    )
    return "\n".join([line(cells[0]), f"|{rule}|", *map(line, cells[1:])])


def percent(share: float) -> str:
    """0.4236 as `42.4`."""
    return f"{100 * share:.1f}"


def interval_text(share: float, low: float, high: float) -> str:
    """`42.4 [34.5, 50.7]`, in percent."""
    return f"{percent(share)} [{percent(low)}, {percent(high)}]"


def rate_text(rate: Rate) -> str:
    return interval_text(rate.rate, rate.low, rate.high)


def points(share: float) -> str:
    """A difference in percentage points with its sign: `+3.1`; never `-0.0`."""
    text = f"{100 * share:+.1f}"
    return "+0.0" if text == "-0.0" else text


def difference_text(difference: Difference) -> str:
    """`+3.1 [-4.0, +9.8]`, in percentage points."""
    return f"{points(difference.difference)} [{points(difference.low)}, {points(difference.high)}]"


def p_text(p_value: float) -> str:
    """A p-value to two digits, small ones as a bound."""
    return "< .001" if p_value < 0.001 else f"{p_value:.3f}".removeprefix("0")


def duration(seconds: float) -> str:
    """`8.2 s`, `3 min 05 s` or `2 h 10 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
