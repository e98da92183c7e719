"""What is made once from a catalogue's files: products, search index, and where goals are.

Products are kept as JSON text and read when asked for; everything else is arrays. The whole
stock can lie in a folder and be mapped from there, so a million products need no million objects.
It does not depend on any seed.
"""

import io
import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from sdar.environments.webshop.config import data_files
from sdar.environments.webshop.engine.analyzer import analyze
from sdar.environments.webshop.engine.bm25 import Postings, build_postings
from sdar.environments.webshop.engine.goals import human_count, synthetic_count
from sdar.environments.webshop.engine.nouns import Nouns, read_nouns, with_nouns
from sdar.environments.webshop.engine.products import (
    Product,
    check_record,
    find_file,
    is_usable,
    make_product,
    read_object,
    read_products,
)
from sdar.errors import SdarError
from sdar.files.digest import text_digest
from sdar.files.remembered import content_digest
from sdar.files.whole import built_folder

FORMAT = "webshop stock 1"
STOCK_ARRAYS = ("offsets", "asins", "places", "synthetic", "human")
_KEPT = (
    *("asin", "name", "full_description", "small_description", "pricing"),
    *("customization_options", "category", "query", "product_category"),
)


@dataclass(frozen=True)
class Stock:
    """A catalogue's parts. Place = position in catalogue order; rank = position by asin.

    `offsets[place]` is where a product begins in `texts`; `asins` are in order of rank, and
    `places[rank]` goes back. `synthetic` and `human` count the goals of each place; `frequency`
    says in how many synthetic goals an attribute is asked for.
    """

    texts: bytes | mmap
    offsets: NDArray[np.int64]
    asins: NDArray[np.str_]
    places: NDArray[np.int64]
    synthetic: NDArray[np.int64]
    human: NDArray[np.int64]
    frequency: dict[str, int]
    postings: Postings

    def __len__(self) -> int:
        return len(self.places)

    def product(self, place: int, seed: int) -> Product:
        """The product at `place`; its price is that of `seed`."""
        text = self.texts[self.offsets[place] : self.offsets[place + 1]]
        record, about, human, nouns = json.loads(text)
        return make_product(record, about, human, nouns, seed)

    def place(self, asin: str) -> int | None:
        """Where a product is, if it is there."""
        rank = int(np.searchsorted(self.asins, asin))
        if rank == len(self.asins) or self.asins[rank] != asin:
            return None
        return int(self.places[rank])


def build_stock(
    records: Iterable[Mapping[str, Any]],
    attributes: Mapping[str, Any],
    human: Mapping[str, Any],
    nouns: Nouns | None,
    texts: BinaryIO | None = None,
) -> Stock:
    """The stock of `records`, in one pass. Texts go to `texts`, or stay in memory without it.

    Raises SdarError for a malformed product or an empty catalogue. Of products with the same asin
    the first counts, as in the original.
    """
    sink = io.BytesIO() if texts is None else texts
    offsets, synthetic, of_people = array("q", [0]), array("q"), array("q")
    asins: list[str] = []
    frequency: Counter[str] = Counter()

    def documents() -> Iterator[list[str]]:
        for record, record_nouns in with_nouns(_distinct(records), nouns):
            asin = record["asin"]
            kept = {key: record[key] for key in _KEPT if key in record}
            about, people = attributes.get(asin, {}), human.get(asin, [])
            _check_extras(asin, about, people)
            product = make_product(kept, about, people, record_nouns, seed=0)
            parts = [kept, about, people, list(record_nouns)]
            offsets.append(offsets[-1] + sink.write(json.dumps(parts).encode("ascii")))
            asins.append(asin)
            synthetic.append(synthetic_count(product))
            of_people.append(human_count(product))
            for name in product.instruction_attributes if synthetic[-1] else ():
                frequency[name] += synthetic[-1]
            yield analyze(searched_text(product))

    def ranks() -> NDArray[np.int64]:
        return np.argsort(np.argsort(np.array(asins)))

    postings = build_postings(documents(), ranks)
    places = np.argsort(np.array(asins))
    return Stock(
        texts=sink.getvalue() if isinstance(sink, io.BytesIO) else b"",
        offsets=np.array(offsets, np.int64),
        asins=np.array(asins)[places],
        places=places,
        synthetic=np.array(synthetic, np.int64),
        human=np.array(of_people, np.int64),
        frequency=dict(frequency),
        postings=postings,
    )


def searched_text(product: Product) -> str:
    """What a search looks through: name, description, first bullet, options."""
    options = ", and ".join(f"{name}: {', '.join(of)}" for name, of in product.options.items())
    first = product.bullets[0] if product.bullets else ""
    return " ".join((product.name, product.description, first, options)).lower()


def open_stock(folder: Path, cache: Path | None = None) -> Stock:
    """The stock of a folder with WebShop's files (see `Catalogue.open`).

    With `cache` it is kept in a folder there, found again as long as the files are the same, and
    mapped instead of read: the way for the full catalogue.
    """
    if cache is None:
        return build_stock(*_sources(folder))
    target = cache / _digest(folder)
    if not target.is_dir():
        with built_folder(target, is_whole=Path.is_dir) as building:
            with (building / "texts.json").open("wb") as texts:
                stock = build_stock(*_sources(folder), texts)
            _save(stock, building)
    return _load(target)


def _sources(folder: Path) -> tuple[Iterable[Mapping[str, Any]], Any, Any, Nouns | None]:
    if not folder.is_dir():
        raise SdarError(f"{folder} is no folder: give one with WebShop's data files")
    return (
        read_products(folder),
        read_object(find_file(folder, "items_ins*.json")),
        read_object(find_file(folder, "items_human_ins*.json")),
        read_nouns(folder),
    )


def _distinct(records: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    seen: set[str] = set()
    for number, record in enumerate(records):
        check_record(record, f"product {number}")
        asin = record["asin"]
        if is_usable(asin) and asin not in seen:
            seen.add(asin)
            yield record
    if not seen:
        raise SdarError("the catalogue has no product: give items_shuffle*.json with some")


def _check_extras(asin: str, about: Any, people: Any) -> None:
    if not isinstance(about, Mapping):
        raise SdarError(f"product {asin}: items_ins_v2 has no object for it; correct it")
    if not isinstance(people, list | tuple):
        raise SdarError(f"product {asin}: items_human_ins has no list for it; correct it")


def _digest(folder: Path) -> str:
    return text_digest(f"{FORMAT} {content_digest(data_files(folder))}")[:16]


def _save(stock: Stock, folder: Path) -> None:
    for name in STOCK_ARRAYS:
        np.save(folder / f"{name}.npy", getattr(stock, name))
    (folder / "frequency.json").write_text(json.dumps(stock.frequency), encoding="utf-8")
    stock.postings.save(folder)


def _load(folder: Path) -> Stock:
    with (folder / "texts.json").open("rb") as file:
        texts = mmap(file.fileno(), 0, access=ACCESS_READ)
    offsets, asins, places, synthetic, human = (
        np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in STOCK_ARRAYS
    )
    frequency = json.loads((folder / "frequency.json").read_text(encoding="utf-8"))
    postings = Postings.load(folder)
    return Stock(texts, offsets, asins, places, synthetic, human, frequency, postings)
