"""The tiny policy's tokenizer: any text comes back, what is said often is one token."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError
from transformers import AutoTokenizer

from sdar.errors import SdarError
from sdar.policy.control_tokens import TAGS
from sdar.policy.tokenizer import SPECIAL, learn_units, train_tokenizer

PLACES = ("drawer", "fridge", "shelf", "armchair")
VOCABULARY = 360


def conversation(turn: int) -> str:
    here, there = PLACES[turn % 4], PLACES[(turn + 1) % 4]
    return (
        f"<|im_start|>system\nUsual places: egg in {here}.<|im_end|>\n"
        f"<|im_start|>user\nYou have taken {turn} actions.\n"
        f"Now, at turn {turn + 1}, you see a {here} {turn % 3 + 1}, a {there} 1.\n"
        f"You can: ['go to {here} 2', 'go to {there} 1', 'look']<|im_end|>\n"
        f"<|im_start|>assistant\n<think>find egg: {there} 1</think>"
        f"<action>go to {there} 1</action><|im_end|>"
    )


CORPUS = [conversation(turn) for turn in range(60)]
TOKENIZER = train_tokenizer(CORPUS, VOCABULARY, 128)
MESSAGES = [
    {"role": "system", "content": "Usual places: egg in fridge."},
    {"role": "user", "content": "You can: ['look']"},
    {"role": "assistant", "content": "<think>a</think><action>look</action>"},
]


def ids_of(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False).input_ids


# Surrogates are no text: UTF-8 has no bytes for them.
CHARACTERS = st.characters(exclude_categories=("Cs",))
PIECES = st.one_of(
    st.text(CHARACTERS, max_size=20),
    st.sampled_from([*TAGS, *SPECIAL, " ", "\n", "\t", "  ", ", a", "drawer 3", " drawer 31", "é"]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=8).map("".join))
def test_every_text_comes_back(text: str) -> None:
    assert TOKENIZER.decode(ids_of(text)) == text


def test_its_own_corpus_needs_no_spelling() -> None:
    units = {*learn_units(CORPUS, VOCABULARY), *TAGS[:4], *SPECIAL}
    for text in CORPUS:
        pieces = [TOKENIZER.decode([token]) for token in ids_of(text)]
        assert "".join(pieces) == text
        assert all(piece in units or len(piece) == 1 for piece in pieces)
        assert len(pieces) < len(text) / 4


@pytest.mark.parametrize(
    "unit", [" drawer 2", " fridge 1", "', 'go to", " actions.", "You have", *TAGS[:4]]
)
def test_entities_phrases_and_tags_are_one_token(unit: str) -> None:
    assert len(ids_of(unit)) == 1


def test_an_entity_is_one_token_wherever_it_stands() -> None:
    (drawer,) = ids_of(" drawer 2")
    for text in ("You can: ['go to drawer 2'", "find egg: drawer 2</think>", "a drawer 2."):
        assert drawer in ids_of(text)
    assert drawer not in ids_of(" drawer 21"), "another drawer"


def test_a_phrase_ends_with_its_word() -> None:
    """', a' is a phrase; in ', armchair' the class name must stay whole."""
    assert len(ids_of(", a")) == 1
    assert [TOKENIZER.decode([i]) for i in ids_of(", armchair in")][:2] == [",", " armchair"]
    assert [TOKENIZER.decode([i]) for i in ids_of(", a: egg")][:1] == [","], "'a:' is a word too"


def test_vocabulary_is_a_limit() -> None:
    assert len(TOKENIZER) <= VOCABULARY
    assert len(train_tokenizer(CORPUS, 280, 128)) == 280
    everything = train_tokenizer(CORPUS, 10_000, 128)
    assert len(TOKENIZER) <= len(everything) < 10_000


def test_a_vocabulary_without_room_for_bytes_is_refused() -> None:
    with pytest.raises(SdarError, match=r"policy\.tiny\.vocabulary: 200 is too small.* 263"):
        train_tokenizer(CORPUS, 200, 128)


def test_tags_are_units_where_the_corpus_has_them() -> None:
    searching = train_tokenizer([*CORPUS, "<search>egg</search>"], VOCABULARY, 128)
    for tag in ("<search>", "</search>"):
        assert len(searching(tag, add_special_tokens=False).input_ids) == 1
        assert len(ids_of(tag)) > 1
    assert searching.decode(searching("<answer>").input_ids) == "<answer>"


def test_it_is_a_function_of_the_corpus() -> None:
    again = train_tokenizer(list(CORPUS), VOCABULARY, 128)
    assert again.backend_tokenizer.to_str() == TOKENIZER.backend_tokenizer.to_str()
    other = train_tokenizer([text.replace("egg", "mug") for text in CORPUS], VOCABULARY, 128)
    assert other.backend_tokenizer.to_str() != TOKENIZER.backend_tokenizer.to_str()


def test_it_loads_with_auto_tokenizer(tmp_path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for text in (CORPUS[7], "naïve 鸡蛋 🥚, armchair  \t\n"):
        assert loaded(text, add_special_tokens=False).input_ids == ids_of(text)
        assert loaded.decode(ids_of(text)) == text
    assert (loaded.eos_token, loaded.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert loaded.model_max_length == 128
    for header in (False, True):
        options = {"tokenize": False, "add_generation_prompt": header}
        assert loaded.apply_chat_template(MESSAGES, **options) == TOKENIZER.apply_chat_template(
            MESSAGES, **options
        )


@pytest.mark.parametrize("header", [False, True])
def test_chat_template_is_the_chat_format_and_nothing_else(header: bool) -> None:
    text = TOKENIZER.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=header)
    said = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in MESSAGES)
    assert text == said + ("<|im_start|>assistant\n" if header else "")


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(TemplateError, match="unknown role tool"):
        TOKENIZER.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_special_tokens_vanish_from_responses_and_tags_stay() -> None:
    response = "<think>a</think><action>look</action>"
    decoded = TOKENIZER.decode(ids_of(response + "<|im_end|>"), skip_special_tokens=True)
    assert decoded == response
