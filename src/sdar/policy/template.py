"""A tokenizer's chat template, run: somebody else's program, which may raise anything."""

from datetime import datetime
from typing import Any

Chat = tuple[tuple[str, str], ...]
"""(role, content) of each message."""
DATE = datetime(2024, 7, 26)
"""The day in every prompt whose template writes one: that which Llama 3's fall back to."""

_CODES = [*"aAwdbBmyYHIMSpfjUW", "-d", "-m", "-H", "-I", "-M", "-S", "-j"]
# A macro of this name hides the function that templates are given.
_CLOCK = (
    "{% macro strftime_now(format) %}{{ format"
    + "".join(f" | replace('%{code}', '{DATE.strftime('%' + code)}')" for code in _CODES)
    # Its line break is taken away by `trim_blocks`: the template begins at the start of a line.
    + " }}{% endmacro %}\n"
)


class Refused(Exception):
    """The template raised an error; the message is what it said."""


def render(tokenizer: Any, chat: Chat, *, header: bool = True) -> str:
    """The text of a chat, with the assistant's header at its end, on `DATE`, with Qwen3's thinking
    mode off. Raises `Refused`."""
    messages = [{"role": role, "content": content} for role, content in chat]
    try:
        return str(
            tokenizer.apply_chat_template(
                messages,
                chat_template=_CLOCK + tokenizer.get_chat_template(),
                tokenize=False,
                add_generation_prompt=header,
                enable_thinking=False,
            )
        )
    except Exception as error:
        raise Refused(" ".join(str(error).split())[:200] or type(error).__name__) from error


def render_or_nothing(tokenizer: Any, chat: Chat, *, header: bool = True) -> str:
    """`render`, or "" where the template refuses."""
    try:
        return render(tokenizer, chat, header=header)
    except Refused:
        return ""
