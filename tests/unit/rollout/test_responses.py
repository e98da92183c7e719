"""A response after a prompt that has opened the thought, in every environment."""

import chat_templates
import pytest

from sdar.environments.packages import NAMES, environment_package
from sdar.policy.chat import ChatFormat
from sdar.rollout.turns import read_response

INSIDE = {
    True: "The key is near.</think>{}",
    False: "<think>The key is near.</think>{}",
}


def read(family, name, text):
    tokenizer = chat_templates.tokenizer(family)
    ids = tokenizer(text + "<|im_end|>", add_special_tokens=False)["input_ids"]
    return read_response(tokenizer, environment_package(name), ids)


def said(name, action="look"):
    return f"<answer>{action}</answer>" if name == "searchqa" else f"<action>{action}</action>"


@pytest.mark.parametrize("name", NAMES)
def test_a_thought_that_the_prompt_opened_has_the_form(name):
    inside, whole = (INSIDE[opened].format(said(name)) for opened in (True, False))
    for family in ("thinking", "deepseek"):
        tokenizer = chat_templates.tokenizer(family)
        assert ChatFormat.of(tokenizer).opens_thought
    for text in (inside, whole):
        response, parsed = read("thinking", name, text)
        assert parsed.valid
        assert response == text, "kept as it was said"
        assert parsed == read("qwen2.5", name, whole)[1]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "searchqa"])
@pytest.mark.parametrize("family", ["qwen2.5", "qwen3", "gemma"])
def test_nothing_changes_where_the_prompt_opens_none(family, name):
    assert not ChatFormat.of(chat_templates.tokenizer(family)).opens_thought
    assert not read(family, name, INSIDE[True].format(said(name)))[1].valid
    assert not read(family, name, said(name))[1].valid


@pytest.mark.parametrize("name", NAMES)
def test_what_has_no_form_stays_invalid_and_does_the_same(name):
    for text in ("look", "The key.</think>look", "", "</think>"):
        opened, usual = read("thinking", name, text)[1], read("qwen2.5", name, text)[1]
        assert opened == usual
        assert not opened.valid


def test_what_is_learned_from_goes_on_inside_the_thought():
    form = ChatFormat.of(chat_templates.tokenizer("thinking"))
    ids = form.response_ids("<think>The key.</think><action>look</action>")
    assert form.response_text(ids) == "The key.</think><action>look</action>"
