"""A shop of four products, for tests of single rules."""

from typing import Any

from sdar.environments.webshop.engine.catalogue import Catalogue


def product(asin: str, name: str, **changes: Any) -> dict[str, Any]:
    """A record in WebShop's form."""
    return {
        "asin": asin,
        "name": name,
        "full_description": f"A {name.lower()} for every day.",
        "small_description": ["Machine wash ", "Imported "],
        "pricing": "$10.00",
        "customization_options": "",
        "category": "fashion",
        "query": "Shirts ",
        "product_category": "Clothing › Men › Shirts",
        "nouns": name.lower().split(),
        **changes,
    }


def options(**values: list[str]) -> dict[str, list[dict[str, str]]]:
    return {name: [{"value": value} for value in some] for name, some in values.items()}


ITEMS = [
    product(
        "B000000001",
        "Cotton Shirt",
        customization_options=options(Color=["Red", "Navy / White"], Size=["Small", "X-Large"]),
    ),
    product("B000000002", "Linen Shirt", pricing="$19.99$27.99"),
    product("B000000003", "Wool Sock", query="socks", pricing=""),
    product("B000000004", "Desk Lamp", category="garden", query="lamps", product_category="Home"),
]
INS = {
    "B000000001": {
        "attributes": ["machine wash", "cotton blend"],
        "instruction": "Find me machine wash shirts",
        "instruction_attributes": ["machine wash"],
    },
    "B000000002": {
        "attributes": ["machine wash"],
        "instruction": "Find me machine wash shirts of linen",
        "instruction_attributes": ["machine wash"],
    },
    "B000000003": {"attributes": ["wool blend"]},
}
HUMAN = {
    "B000000003": [
        {
            "instruction": "i want warm socks.",
            "instruction_attributes": ["wool blend"],
            "instruction_options": ["grey"],
        },
        {"instruction": "socks", "instruction_attributes": [], "instruction_options": []},
    ]
}


def catalogue(**changes: Any) -> Catalogue:
    arguments: dict[str, Any] = {"items": ITEMS, "ins": INS, "human": HUMAN, "seed": 0} | changes
    return Catalogue.from_records(**arguments)
