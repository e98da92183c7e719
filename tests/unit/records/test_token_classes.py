"""Token classes: known responses of the three environments, and what holds of any text."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdar.records.token_classes import CLASSES, token_classes

THOUGHT, VERB, OBJECT, TAG, OTHER = CLASSES


def classes_of(*pieces: str) -> list[str]:
    return token_classes(pieces)


def test_an_alfworld_response():
    pieces = ["<think>", "need mug", ";", " go to", "</think>", "<action>", "go", " to", " cab"]
    pieces += ["inet 1", "</action>", "<|im_end|>"]
    expected = [TAG, THOUGHT, THOUGHT, THOUGHT, TAG, TAG, VERB, VERB, OBJECT, OBJECT, TAG, TAG]
    assert classes_of(*pieces) == expected


@pytest.mark.parametrize(
    ("action", "verb"),
    [
        ("take mug 1 from shelf 1", "take"),
        ("go to shelf 1", "go to"),
        ("go tomato", "go"),
        ("clean mug 1 with sinkbasin 1", "clean"),
        ("inventory", "inventory"),
        ("search[red shoes]", "search["),
        ("click[buy now]", "click["),
    ],
)
def test_the_verb_is_the_first_words(action, verb):
    response = f"<think>x</think><action>{action}</action>"
    kinds = token_classes(list(response))
    assert "".join(c for c, kind in zip(response, kinds, strict=True) if kind == VERB) == verb
    rest = "".join(c for c, kind in zip(response, kinds, strict=True) if kind == OBJECT)
    assert rest == action[len(verb) :]


def test_queries_and_answers_are_objects():
    assert classes_of("<search>", "who wrote", "</search>") == [TAG, OBJECT, TAG]
    assert classes_of("<ANSWER>", "Homer", "</ANSWER>") == [TAG, OBJECT, TAG]


def test_tokens_across_borders_go_with_most_of_their_characters():
    assert classes_of("foo</", "think>", "<action>go to mug", "</action>") == [
        THOUGHT,
        TAG,
        TAG,
        TAG,
    ]
    # Two characters each: the class that comes first.
    assert classes_of("<think>", "ab</", "think>") == [TAG, THOUGHT, TAG]
    assert classes_of("<think>x", "abc</think><action>", "t") == [TAG, TAG, VERB]


def test_broken_responses_have_classes_too():
    assert classes_of("I would", " go") == [OTHER, OTHER]
    assert classes_of("<think>", "never", " closed") == [TAG, THOUGHT, THOUGHT]
    assert classes_of("<action>", "go to", " shelf") == [TAG, VERB, OBJECT], "cut at the limit"
    assert classes_of("a thought", "</think>", " then ", "<action>", "look") == [
        THOUGHT,
        TAG,
        OTHER,
        TAG,
        VERB,
    ], "the prompt opened the thought"
    assert classes_of("<action>", "look", "</action>", "<action>", "take it", "</action>") == [
        TAG,
        VERB,
        TAG,
        TAG,
        OTHER,
        TAG,
    ], "only the first block is carried out"
    assert classes_of("<think>", "a ", "<action>", "look", "</action>") == [
        TAG,
        THOUGHT,
        TAG,
        VERB,
        TAG,
    ]


def test_tokens_without_text_belong_to_what_follows():
    assert classes_of("<think>", "", "", "é", "</think>", "") == [
        TAG,
        THOUGHT,
        THOUGHT,
        THOUGHT,
        TAG,
        TAG,
    ]
    assert classes_of("") == [OTHER]
    assert classes_of() == []


TAGS = ("<think>", "</think>", "<action>", "</action>", "<search>", "</answer>", "<|im_end|>")
PARTS = st.sampled_from([*TAGS, *" \n<>/]é中", "go to", "take mug", "search[", ""])


@given(st.lists(PARTS, max_size=14).map("".join), st.lists(st.integers(0, 80), max_size=20))
def test_every_token_has_one_class_however_the_text_is_cut(text, cuts):
    borders = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(borders)]
    kinds = token_classes(pieces)
    assert "".join(pieces) == text
    assert len(kinds) == len(pieces)
    assert set(kinds) <= set(CLASSES)
    # A token's class is held by at least as many of its characters as any other class.
    by_character = token_classes(list(text))
    for start, piece, kind in zip(borders, pieces, kinds, strict=False):
        inside = by_character[start : start + len(piece)]
        if inside:
            assert inside.count(kind) == max(inside.count(other) for other in inside)
