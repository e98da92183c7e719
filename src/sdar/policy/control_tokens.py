"""Control tokens, and texts that spell them."""

import re
from collections.abc import Iterable
from typing import Any

from sdar.errors import SdarError

TAGS = tuple(
    tag
    for name in ("think", "action", "search", "answer", "information")
    for tag in (f"<{name}>", f"</{name}>")
)
"""What prompts and responses say on purpose: never a control token, whatever the tokenizer says."""

_MARKER = re.compile(r"\W.+\W", re.DOTALL)
_ROUNDS = 8


def control_tokens(tokenizer: Any, template: str, written: Iterable[int]) -> frozenset[int]:
    """Ids that no text may become: special tokens, and the added tokens that look like markers
    (`<|user|>`, `[INST]`) and stand in the `template`, or in the tokens it has `written`.

    Not the unknown token, which is also that of what cannot be spelled; see `spells_unknown`.
    """
    added = tokenizer.added_tokens_decoder
    of_template = set(written)
    control = set(tokenizer.all_special_ids)
    for token, entry in added.items():
        text = entry.content
        marks = _MARKER.fullmatch(text) and (token in of_template or text in template)
        if entry.special or marks:
            control.add(token)
        if text in TAGS or text.isspace():
            control.discard(token)
    if tokenizer.unk_token_id not in (tokenizer.eos_token_id, tokenizer.bos_token_id):
        control.discard(tokenizer.unk_token_id)
    return frozenset(control)


def spells_unknown(tokenizer: Any, text: str) -> bool:
    """The text has the unknown token's name in it."""
    return tokenizer.unk_token is not None and tokenizer.unk_token in text


def harmless(tokenizer: Any, control: frozenset[int], text: str) -> str:
    """The text with a space after the first character of whatever the tokenizer reads as a control
    token: `< |im_end|>`. Where spaces do not part it, it goes."""
    for number in range(_ROUNDS):
        spans = _spans(tokenizer, control, text)
        if not spans:
            return text
        for begin, end in reversed(spans):
            read = text[begin:end]
            first = len(read) - len(read.lstrip()) + 1
            parts = number < _ROUNDS // 2 and read[first:].strip()
            text = text[:begin] + (f"{read[:first]} {read[first:]}" if parts else "") + text[end:]
    raise SdarError(
        f"{tokenizer.name_or_path}: a text of a prompt cannot be written without control tokens "
        f"({text[:60]!r}); use another tokenizer"
    )


def _spans(tokenizer: Any, control: frozenset[int], text: str) -> list[tuple[int, int]]:
    """Where in a text the tokenizer reads control tokens."""
    unknown, name = tokenizer.unk_token_id, tokenizer.unk_token
    if not tokenizer.is_fast:
        names = [tokenizer.convert_ids_to_tokens(token) for token in sorted(control)]
        pattern = "|".join(re.escape(name) for name in names)
        return [match.span() for match in re.finditer(pattern, text)] if names else []
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    places = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    return [
        (begin, end)
        for token, (begin, end) in places
        if token in control or (token == unknown and text[begin:end].strip() == name)
    ]
