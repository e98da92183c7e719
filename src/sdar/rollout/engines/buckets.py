"""The shapes that steps of the static decode are made for: few, so that few are captured."""

SMALLEST_ROWS = 8
CAPACITY_GRAIN = 256
"""The width of attention, in tokens, is a multiple of it."""


def row_bucket(rows: int) -> int:
    """The next size of a batch that steps are made for: powers of two and three steps between."""
    if rows <= SMALLEST_ROWS:
        return SMALLEST_ROWS
    grain = max(SMALLEST_ROWS, 1 << ((rows - 1).bit_length() - 3))
    return -(-rows // grain) * grain


def capacity_bucket(tokens: int) -> int:
    """The next width of attention that steps are made for."""
    return -(-tokens // CAPACITY_GRAIN) * CAPACITY_GRAIN
