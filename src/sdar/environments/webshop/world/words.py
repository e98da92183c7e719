"""The closed word sets of the generated shops.

Everything a generated page or goal can say of a product is one of these words. A customer asks for
a `property` in plain words; a shop lists each property under a `line`, a name of its own, and which
line means what differs from shop to shop (shop.py). The other words mean the same everywhere.
"""

from dataclasses import dataclass

from sdar.environments.webshop.config import WebshopCategory
from sdar.errors import SdarError


@dataclass(frozen=True)
class CategoryWords:
    """What one category of goods is described by.

    As many `lines` as `properties`: each shop pairs them off. `finishes` stand in titles as they
    are; `option` is what a buyer chooses on the product's page, from some of the `values`.
    """

    department: str
    properties: tuple[str, ...]
    lines: tuple[str, ...]
    finishes: tuple[str, ...]
    types: tuple[str, ...]
    option: str
    values: tuple[str, ...]


_COLOURS = ("black", "white", "blue", "red", "green", "pink")
_SIZES = ("small", "medium", "large", "giant", "mini", "narrow")
_TASTES = ("lemon", "mint", "vanilla", "coconut", "ginger", "cherry")

WORDS: dict[WebshopCategory, CategoryWords] = {
    "beauty": CategoryWords(
        department="beauty & personal care",
        properties=("gentle", "soothing", "fragrant", "lasting", "firming"),
        lines=("luna", "flora", "pearl", "siren", "velvet"),
        finishes=("vegan", "mineral", "herbal", "tinted"),
        types=("shampoo", "lotion", "lipstick", "soap", "serum", "mascara", "toner", "balm"),
        option="scent",
        values=_TASTES,
    ),
    "electronics": CategoryWords(
        department="electronics",
        properties=("quiet", "fast", "portable", "waterproof", "rugged"),
        lines=("aero", "nova", "volt", "orbit", "pixel"),
        finishes=("metal", "plastic", "matte", "glossy"),
        types=("speaker", "charger", "keyboard", "mouse", "router", "headset", "camera", "tripod"),
        option="color",
        values=_COLOURS,
    ),
    "garden": CategoryWords(
        department="patio, lawn & garden",
        properties=("sturdy", "foldable", "stackable", "rustproof", "compact"),
        lines=("meadow", "brook", "summit", "prairie", "canyon"),
        finishes=("steel", "wooden", "wicker", "painted"),
        types=("chair", "table", "shelf", "mirror", "lantern", "bench", "basket", "stool"),
        option="size",
        values=_SIZES,
    ),
    "fashion": CategoryWords(
        department="clothing, shoes & jewelry",
        properties=("warm", "stretchy", "breathable", "formal", "washable"),
        lines=("aria", "bella", "verona", "milano", "riviera"),
        finishes=("cotton", "wool", "linen", "denim"),
        types=("shirt", "jacket", "dress", "sweater", "scarf", "skirt", "coat", "hat"),
        option="color",
        values=_COLOURS,
    ),
    "grocery": CategoryWords(
        department="grocery & gourmet food",
        properties=("spicy", "crunchy", "healthy", "filling", "fresh"),
        lines=("harvest", "farmhouse", "orchard", "bistro", "picnic"),
        finishes=("organic", "kosher", "vegan", "artisan"),
        types=("cereal", "tea", "pasta", "sauce", "snack", "jam", "soup", "granola"),
        option="flavor",
        values=_TASTES,
    ),
}


def category_words(category: str) -> CategoryWords:
    """Raises SdarError for a category that is none."""
    for name, words in WORDS.items():
        if name == category:
            return words
    raise SdarError(f"unknown WebShop category '{category}': it is one of {', '.join(WORDS)}")


def category_of_type(kind: str) -> WebshopCategory | None:
    """The category whose goods a type word names; None for a word that names none."""
    for name, words in WORDS.items():
        if kind in words.types:
            return name
    return None


def shop_words() -> frozenset[str]:
    """Every word that tells one product or goal from another, and every whole number of pages."""
    told = (
        word
        for words in WORDS.values()
        for word in (*words.properties, *words.lines, *words.finishes, *words.types, *words.values)
    )
    return frozenset(told) | frozenset(map(str, range(10, 10_000)))
