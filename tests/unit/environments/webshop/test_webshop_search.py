"""Terms, lengths and ranking, against what they are defined by."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from webshop_catalogue import ITEMS, catalogue, product

from sdar.environments.webshop.engine.analyzer import LONGEST_TOKEN, analyze, words
from sdar.environments.webshop.engine.bm25 import build_postings, decoded_length, length_code
from sdar.environments.webshop.engine.catalogue import LONGEST_QUERY
from sdar.environments.webshop.engine.stemmer import stem


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("don't u.s.a. rock'n'roll", ["don't", "u.s.a", "rock'n'roll"]),
        ("a:b x·y 10:30 3,5 1;2 a,b", ["a:b", "x·y", "10", "30", "3,5", "1;2", "a", "b"]),
        ("foo_bar __x__ _ ___ 1_a", ["foo_bar", "__x__", "1_a"]),
        ("4k tv-box 5⁄8 ½ ❶", ["4k", "tv", "box", "5⁄8"]),
        ("★a ☆b ✿ ☞ ➤ ♡", ["★", "a", "b", "☞", "♡"]),
        (
            "中文 カタカナ ひら ｆｏｏ：ｂａｒ",
            ["中", "文", "カタカナ", "ひ", "ら", "ｆｏｏ：ｂａｒ"],
        ),
        ("👩‍👩‍👧 ❤️x 🇩🇪🇫🇷", ["👩‍👩‍👧", "❤️", "x", "🇩🇪", "🇫🇷"]),
        ("cafe\u0301 soft\u00adhyphen", ["cafe\u0301", "soft\u00adhyphen"]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert list(words(text)) == expected


@given(st.text(alphabet="ab1._:,;' -\t", max_size=30))
def test_the_pattern_for_plain_text_agrees_with_the_full_one(text: str) -> None:
    # A word of another script at the end makes the text one for the full pattern.
    assert [*words(text), "é"] == list(words(f"{text} é"))


def test_terms_are_lower_case_stems_without_stop_words_and_possessives() -> None:
    assert analyze("The Women's Running SHOES and the Dogs’ men’s") == [
        *("women", "run", "shoe", "dog", "men")
    ]
    assert analyze("It's not for a") == []
    assert list(words("x" * 600)) == ["x" * LONGEST_TOKEN, "x" * LONGEST_TOKEN, "x" * 90]


def test_look_alikes_are_other_words() -> None:
    assert analyze("shоe") != analyze("shoe")  # with a Cyrillic o


@pytest.mark.slow
def test_stems_are_those_of_the_reference_implementation() -> None:
    porter = pytest.importorskip("nltk.stem.porter")
    reference = porter.PorterStemmer(mode=porter.PorterStemmer.MARTIN_EXTENSIONS)
    starts = ["", "hop", "geo", "sky", "relat"]
    text = (
        "ational tional enci anci izer bli alli entli eli ousli ization ation ator alism iveness "
        "fulness ousness aliti iviti biliti logi icate ative alize iciti ical ful ness al ance "
        "ence er ic able ible ant ement ment ent ion sion tion ou ism ate iti ous ive ize eed ed "
        "ing s es sses ies y e ll lle at bl iz logy"
    )
    suffixes = text.split()
    made = {a + b + c for a in starts for b in suffixes for c in ["", "s", "ed", "ing", *suffixes]}
    assert {word: stem(word) for word in made} == {
        word: reference.stem(word, to_lowercase=False) for word in made
    }
    assert len(made) > 5_000


def test_length_codes_keep_four_bits_and_never_grow() -> None:
    decoded = [decoded_length(length_code(length)) for length in range(100_000)]
    assert decoded[:40] == list(range(40))
    assert decoded == sorted(decoded)
    assert all(0 <= length - kept <= length / 8 for length, kept in enumerate(decoded))
    assert [decoded_length(code) for code in (40, 41, 48, 255)] == [40, 42, 56, 2013265944]
    assert all(length_code(decoded_length(code)) == code for code in range(256))


def by_definition(documents: list[list[str]], query: list[str]) -> list[int]:
    """BM25 from its formula, one document at a time, in single precision where Lucene is."""
    single = np.float32
    average = single(max(sum(map(len, documents)), 1) / len(documents))
    scores = {}
    for place, document in enumerate(documents):
        length = single(decoded_length(length_code(len(document))))
        inverse = single(1) / (
            single(0.9) * ((single(1) - single(0.4)) + single(0.4) * length / average)
        )
        score = 0.0
        for term in dict.fromkeys(query):
            holding = sum(term in other for other in documents)
            if term in document:
                idf = single(np.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5)))
                weight = single(query.count(term)) * idf
                frequency = single(document.count(term))
                score += float(weight - weight / (single(1) + frequency * inverse))
        if score:
            scores[place] = single(score)
    return sorted(scores, key=lambda place: (-scores[place], place))


terms = st.lists(st.sampled_from("abcdef"), max_size=12)


@given(st.lists(terms, min_size=1, max_size=12), terms, st.integers(1, 12))
def test_ranking_is_the_formula(documents: list[list[str]], query: list[str], most: int) -> None:
    postings = build_postings(documents, lambda: np.arange(len(documents)))
    assert postings.rank(query, most).tolist() == by_definition(documents, query)[:most]


def test_equal_scores_are_ordered_by_asin_not_by_place() -> None:
    items = [product(asin, "Hat") for asin in ("B3", "B1", "B2")]
    shop = catalogue(items=items)
    assert [shop.product(place).asin for place in shop.search("hat")] == ["B1", "B2", "B3"]


def test_at_most_fifty_results_and_none_for_unknown_words() -> None:
    shop = catalogue(items=[product(f"B{n}", "Hat") for n in range(60)])
    assert len(shop.search("hat")) == 50
    assert shop.search("xylophone the ½") == ()
    assert shop.search(" ") == ()


def test_first_words_that_list() -> None:
    shop = catalogue()
    assert shop.search("<a> machine wash") == (0, 1)
    assert shop.search("<c> garden") == (3,)
    assert shop.search("<q> shirts") == (0, 1)
    assert shop.search("<c>") == shop.search("<c> nothing") == ()
    assert sorted(shop.search("<r>")) == [0, 1, 2, 3]
    assert shop.search("<r>") == catalogue().search("<r>")
    assert len({shop.search(f"<r> {n}") for n in range(30)}) > 5
    assert shop.search("shirt <c> garden") != (3,)


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    ["a.", "é:", "_", "_é", "'", "\u0301", "é\u200d", "🇩\u0301", "5,", "中", "\x00", "ﬁ\u00ad"],
)
def test_a_megabyte_is_searched_for_in_little_time(text: str) -> None:
    huge = text * (1_000_000 // len(text))
    shop = catalogue(items=ITEMS)
    start = time.process_time()
    assert shop.search(huge) == ()
    assert time.process_time() - start < 1
    start = time.process_time()
    analyze(huge)
    assert time.process_time() - start < 10


def test_only_the_beginning_of_a_huge_search_counts() -> None:
    shop = catalogue()
    assert shop.search("z " * LONGEST_QUERY + "lamp") == ()
    assert shop.search("lamp " + "z " * LONGEST_QUERY) == shop.search("lamp")
