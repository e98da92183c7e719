"""What a product costs: the tag that pages show, the price the reward uses, a goal's ceiling.

All draws are functions of (seed, product) alone, so no product's price depends on another's. The
original draws them from one global generator in catalogue order (arXiv 2207.01206, its code).
"""

import random
import re

UNKNOWN_PRICE = 100.0
"""Of a product whose record names no price."""
NO_CEILING = 1_000_000
"""The ceiling of a goal whose product is too dear to give one: nothing is too expensive."""
_CEILINGS = tuple(10.0 * tens for tens in range(1, 100))
_NOT_NUMERIC = re.compile(r"[^\d.]")


def parse_prices(text: str) -> tuple[float, ...]:
    """One price, or the two ends of a range, in dollars, from "$19.99$27.99", "$12.98" or "".

    Raises ValueError when something between the dollar signs is no number.
    """
    parts = text.split("$")[1:]
    if not parts:
        return (UNKNOWN_PRICE,)
    return tuple(float(_NOT_NUMERIC.sub("", part)) for part in parts)[:2]


def price_tag(prices: tuple[float, ...]) -> str:
    """As pages show it: "$12.98" or "$19.99 to $27.99"."""
    return " to ".join(f"${price}" for price in prices)


def reward_price(prices: tuple[float, ...], seed: int, asin: str) -> float:
    """The price that is compared with a goal's ceiling: drawn from the range, if it is one."""
    if len(prices) == 1:
        return prices[0]
    return random.Random(f"webshop price {seed} {asin}").uniform(*prices)


def price_ceiling(price: float, seed: int, which: str) -> float:
    """A round sum above `price`, or `NO_CEILING`; `which` names the instruction it is for.

    The larger of two of the first four tens above the price.
    """
    above = [ceiling for ceiling in _CEILINGS if ceiling > price][:4]
    if len(above) < 2:
        return NO_CEILING
    return max(random.Random(f"webshop ceiling {seed} {which}").sample(above, 2))


def ceiling_text(ceiling: float) -> str:
    """What an instruction says of it; nothing for `NO_CEILING`."""
    return "" if ceiling == NO_CEILING else f", and price lower than {ceiling:.2f} dollars"
