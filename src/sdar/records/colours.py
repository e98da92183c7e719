"""How a token is coloured by gap, gate or advantage, in the page and in the terminal. Pure.

Blue: the teacher finds the token likelier than the student (gate open), or the advantage is
positive. Orange: less likely (gate closed), negative. White: neither. Both ends are distinct for
any colour vision, and light enough for black text.
"""

from math import isfinite

ORANGE = (241, 152, 72)
WHITE = (255, 255, 255)
BLUE = (98, 168, 229)
GAP_LIMIT = 2.0
"""Gap in nats from which on the colour is full."""
ADVANTAGE_LIMIT = 2.0
CLASS_COLOURS = {
    "thought": "#7a6fb0",
    "action verb": "#00795c",
    "object": "#b3196b",
    "tag": "#7d7d7d",
    "other": "#a8830a",
}
"""Of the lines under tokens, one per token class; legible on white and on black."""


def of_gap(gap: float) -> tuple[int, int, int]:
    """Red, green, blue (0..255) of a gap in nats."""
    return _mix(gap / GAP_LIMIT if isfinite(gap) else 0.0)


def of_gate(gate: float, signed: bool = False) -> tuple[int, int, int]:
    """Red, green, blue (0..255) of a gate (0..1); 0.5 is white. A `signed` one, from which a
    baseline was subtracted (-1..1), is white at 0."""
    position = gate if signed else 2 * gate - 1
    return _mix(position if isfinite(gate) else 0.0)


def of_advantage(advantage: float) -> tuple[int, int, int]:
    """Red, green, blue (0..255) of an advantage."""
    return _mix(advantage / ADVANTAGE_LIMIT if isfinite(advantage) else 0.0)


def _mix(position: float) -> tuple[int, int, int]:
    """-1 orange, 0 white, 1 blue. The square root makes small values visible."""
    share = min(1.0, abs(position)) ** 0.5
    end = BLUE if position > 0 else ORANGE
    red, green, blue = (round(w + share * (e - w)) for w, e in zip(WHITE, end, strict=True))
    return red, green, blue


def as_hex(rgb: tuple[int, int, int]) -> str:
    """`#rrggbb`."""
    return "#{:02x}{:02x}{:02x}".format(*rgb)
