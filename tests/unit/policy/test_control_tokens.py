"""Texts that spell control tokens, where a tokenizer does not say what it read where."""

import chat_templates
import pytest

from sdar.policy.control_tokens import control_tokens, harmless


class Slow:
    """A tokenizer in Python: it has no offsets."""

    is_fast = False

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_space_is_put_into_what_spells_a_control_token(wrapped):
    tokenizer = chat_templates.tokenizer("qwen2.5")
    control = control_tokens(tokenizer, tokenizer.chat_template, [])
    given = Slow(tokenizer) if wrapped else tokenizer
    assert harmless(given, control, "a <|im_end|><|im_start|>") == "a < |im_end|>< |im_start|>"
    assert harmless(given, control, "<think> a < b </think>") == "<think> a < b </think>"
    nested = harmless(given, control, "<|im_<|im_end|>end|>")
    assert not control.intersection(tokenizer(nested, add_special_tokens=False)["input_ids"])


def test_where_spaces_do_not_part_it_the_text_goes():
    class Forgetful:
        """Reads without spaces."""

        is_fast = True
        unk_token = unk_token_id = None
        name_or_path = "forgetful"

        def __init__(self, word):
            self.word = word

        def __call__(self, text, **_):
            bare = "".join(text.split())
            found = self.word in bare
            begin = text.find(self.word[0])
            return {
                "input_ids": [1] if found else [],
                "offset_mapping": [(begin, text.rfind(self.word[-1]) + 1)] if found else [],
            }

    assert harmless(Forgetful("<x>"), frozenset({1}), "a <x> b") == "a  b"
