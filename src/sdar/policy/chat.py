"""Chats as token ids, and responses as text: all that is asked of a tokenizer's chat template.

A template is somebody else's program. What it does is found out when the tokenizer is loaded, by
rendering a few harmless chats, and held in a `ChatFormat`; a template that is of no use is refused
there, in one sentence. Afterwards three things hold, whatever the template:

- **The teacher's prompt less the skill is the student's, token for token.** It is made so: the
  skill's tokens (with what the template puts around them) go into the student's prompt at a place
  found beforehand. That is a system message of its own, where the template has nothing else there;
  else the system message, before the text that the template puts there by default; else the
  user's message, before its text.
- **No text becomes a control token.** What would (a passage that says `<|im_end|>`) gets a space
  after its first character. Other texts keep their tokens.
- **A prompt is a function of its texts**: templates that write a date are told `DATE`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from itertools import takewhile
from typing import Any, Literal

from sdar.errors import SdarError

Placement = Literal["system message", "default system message", "user message"]
"""Where a skill stands: in a system message of its own, before the default text of the system
message, or before the text of the user's message."""
Chat = tuple[tuple[str, str], ...]
"""(role, content) of each message."""
Run = tuple[tuple[int, ...], tuple[int, ...]]
"""The tokens before a skill in a prompt, and the tokens of the skill."""

THOUGHT, THOUGHT_END = "<think>", "</think>"
TAGS = tuple(
    tag
    for name in ("think", "action", "search", "answer", "information")
    for tag in (f"<{name}>", f"</{name}>")
)
"""What prompts and responses say on purpose: never a control token, whatever the tokenizer says."""
DATE = datetime(2024, 7, 26)
"""The day in every prompt whose template writes one: that which Llama 3's fall back to."""

# A space last where SentencePiece writes the first word of a text with its space.
_SEPARATORS = ("\n\n", "\n\n ", "\n", " ")
# Harmless, and different from their first token to their last.
_QUESTIONS = ("Which way is it?", "7 apples, please")
_SKILLS = ("Look around first.", "- Turn left twice\n- Then open the door")
_ANSWER = "Left, then left again"
_ROUNDS = 8
_MARKER = re.compile(r"\W.+\W", re.DOTALL)
_CODES = [*"aAwdbBmyYHIMSpfjUW", "-d", "-m", "-H", "-I", "-M", "-S", "-j"]
_CLOCK = (
    "{% macro strftime_now(format) %}{{ format"
    + "".join(f" | replace('%{code}', '{DATE.strftime('%' + code)}')" for code in _CODES)
    # Its line break is taken away by `trim_blocks`: the template begins at the start of a line.
    + " }}{% endmacro %}\n"
)


class _Refused(Exception):
    """The template raised an error; the message is what it said."""


@dataclass(frozen=True, eq=False)
class ChatFormat:
    """What a tokenizer's chat template does; `of` finds it out.

    `control`: ids that no text may become. `header`: the assistant's header where the template
    writes it only with a message; else "". `default_system`: the system text that it writes when
    none is given. `opens_thought`: a prompt ends within a thought, so a response begins there.
    `closing`: the token that closes an assistant's message, None where none does.
    """

    tokenizer: Any
    control: frozenset[int]
    header: str
    default_system: str
    opens_thought: bool
    closing: int | None

    @classmethod
    def of(cls, tokenizer: Any) -> "ChatFormat":
        """The format of a tokenizer, found out once. Raises `SdarError` when its template cannot
        be used."""
        template = tokenizer.chat_template
        return _format_of(tokenizer, template if isinstance(template, str) else repr(template))

    def prompt_ids(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a chat up to the assistant's header: the skill, if any, in the role of
        `system`, then the user's message. Qwen3's thinking mode is off."""
        texts = {message["role"]: message["content"] for message in messages}
        ids = _student_ids(self, texts["user"])
        if "system" not in texts:
            return list(ids)
        before, run = _skill_run(self, texts["system"])
        # Where the text has melted into what stands before it, that is written again.
        place = _shared(before, ids)
        return [*ids[:place], *before[place:], *run, *ids[place:]]

    @property
    def placement(self) -> Placement:
        """Where a skill stands in the teacher's prompt."""
        return self._placed[0]

    def response_ids(self, text: str) -> list[int]:
        """Token ids of a response to imitate, with the token that closes it."""
        if self.opens_thought:
            text = text.removeprefix(THOUGHT)
        ids = self._ids(self._harmless(text))
        closing = self.closing if self.closing is not None else self.tokenizer.eos_token_id
        return ids if closing is None else [*ids, closing]

    def response_text(self, token_ids: Sequence[int]) -> str:
        """What a response says: its tokens without the control tokens."""
        unsaid = self.control | {self.tokenizer.unk_token_id}
        return str(self.tokenizer.decode([token for token in token_ids if token not in unsaid]))

    @cached_property
    def _placed(self) -> tuple[Placement, str]:
        """The first place, with the separator behind the skill, that holds for the probes."""
        for placement, separator in self._places():
            runs = [self._run(placement, separator, skill) for skill in _SKILLS]
            if all(runs):
                return placement, separator
        raise SdarError(
            f"{_name(self.tokenizer)}: its chat template has no place for a skill, neither in the "
            "system message nor in the user's, where the rest of the prompt stays as it is; give "
            "the model's folder another chat_template.jinja"
        )

    def _places(self) -> Iterator[tuple[Placement, str]]:
        yield "system message", ""
        if self.default_system:
            yield from (("default system message", separator) for separator in _SEPARATORS)
        yield from (("user message", separator) for separator in _SEPARATORS)

    def _run(self, placement: Placement, separator: str, skill: str) -> Run | None:
        """Where a skill goes, and its tokens there; None where putting them into the student's
        prompt does not give the teacher's for every probe."""
        pairs = []
        for question in _QUESTIONS:
            chat: Chat = (("system", skill), ("user", question))
            if placement == "default system message":
                chat = (("system", skill + separator + self.default_system), ("user", question))
            elif placement == "user message":
                chat = (("user", skill + separator + question),)
            try:
                text = self._text(chat)
            except _Refused:
                return None
            if skill.strip() not in text:
                return None
            pairs.append((_student_ids(self, question), tuple(self._ids(text))))
        place = min(_shared(student, teacher) for student, teacher in pairs)
        student, teacher = pairs[0]
        run = teacher[place : place + len(teacher) - len(student)]
        if not run or any((*s[:place], *run, *s[place:]) != t for s, t in pairs):
            return None
        # The same prompts come of a place further left, which depends less on the text.
        while place and student[place - 1] == run[-1]:
            place, run = place - 1, (run[-1], *run[:-1])
        return student[:place], run

    def _prompt(self, question: str) -> tuple[int, ...]:
        """The student's prompt."""
        ids = self._ids(self._text((("user", question),)))
        if self._marks(ids) != self._usual_marks or self._spells_unknown(question):
            ids = self._ids(self._text((("user", self._harmless(question)),)))
        return tuple(ids)

    def _text(self, chat: Chat) -> str:
        return _rendered(self.tokenizer, chat) + self.header

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _marks(self, ids: Sequence[int]) -> list[int]:
        return [token for token in ids if token in self.control]

    @cached_property
    def _usual_marks(self) -> list[int]:
        return self._marks(self._ids(self._text((("user", _QUESTIONS[0]),))))

    def _spells_unknown(self, text: str) -> bool:
        """The text has the unknown token's name in it, which is also the token of what cannot be
        spelled."""
        unknown = self.tokenizer.unk_token
        return unknown is not None and unknown in text

    def _harmless(self, text: str) -> str:
        """The text with a space in everything that the tokenizer reads as a control token."""
        for number in range(_ROUNDS):
            spans = _control_spans(self.tokenizer, self.control, text)
            if not spans:
                return text
            for begin, end in reversed(spans):
                read = text[begin:end]
                first = len(read) - len(read.lstrip()) + 1
                # Where spaces do not part it, it goes.
                broken = f"{read[:first]} {read[first:]}" if number < _ROUNDS // 2 else ""
                text = text[:begin] + (broken if read[first:].strip() else "") + text[end:]
        raise SdarError(
            f"{_name(self.tokenizer)}: a text of a prompt cannot be written without control tokens "
            f"({text[:60]!r}); use another tokenizer"
        )


def end_token_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end a response: the generation config's, the tokenizer's own, and the one that
    closes an assistant's message in the chat template. `model` may be a generation config."""
    closing = ChatFormat.of(tokenizer).closing
    ends: set[int] = set() if closing is None else {closing}
    for source in (getattr(model, "generation_config", model), tokenizer):
        value = getattr(source, "eos_token_id", None)
        ends.update([value] if isinstance(value, int) else value or [])
    if not ends:
        raise SdarError(
            "the policy names no end-of-response token: set eos_token_id in its "
            "generation_config.json"
        )
    return frozenset(ends)


def render_prompt(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Token ids of a chat, see `ChatFormat.prompt_ids`."""
    return ChatFormat.of(tokenizer).prompt_ids(messages)


def token_pieces(tokenizer: Any, token_ids: Sequence[int]) -> list[str]:
    """The text each token adds to the response; joined they are the whole text."""
    pieces, before = [], ""
    for count in range(1, len(token_ids) + 1):
        text = tokenizer.decode(token_ids[:count])
        # A token that ends inside a character decodes to a replacement mark until the next one.
        settled = text.rstrip("\ufffd") if count < len(token_ids) else text
        pieces.append(settled[len(before) :])
        before = settled if len(settled) > len(before) else before
    return pieces


@lru_cache(maxsize=16)
def _format_of(tokenizer: Any, template: str) -> ChatFormat:
    name, question = _name(tokenizer), _QUESTIONS[0]
    if not template:
        raise SdarError(
            f"{name}: the tokenizer has no chat template; use an instruction-tuned model or add "
            "chat_template.jinja to its folder"
        )
    user = ("user", question)
    try:
        text = _rendered(tokenizer, (user,))
        same = {_rendered(tokenizer, (user,)) for _ in range(_ROUNDS)} == {text}
    except _Refused as error:
        raise SdarError(
            f"{name}: its chat template cannot write a prompt of one user message ({error}); give "
            "the model's folder a chat_template.jinja that can"
        ) from error
    if question not in text or not same:
        wrong = "writes the same chat differently each time" if not same else "changes the text"
        raise SdarError(
            f"{name}: its chat template {wrong}; give the model's folder another "
            "chat_template.jinja"
        )
    told = _tried(tokenizer, (("system", _SKILLS[0]), user))
    answered = _tried(tokenizer, (user, ("assistant", _ANSWER)), header=False)

    def ids(part: str) -> list[int]:
        return list(tokenizer(part, add_special_tokens=False)["input_ids"])

    added = tokenizer.added_tokens_decoder
    special = {token for token, entry in added.items() if entry.special}
    special |= set(tokenizer.all_special_ids)
    written = {*ids(text), *ids(told), *ids(answered)}
    markers = {
        token
        for token, entry in added.items()
        if _MARKER.fullmatch(entry.content) and (token in written or entry.content in template)
    }
    tags = {token for token, entry in added.items() if entry.content in TAGS}
    control = (special | markers) - tags
    # What cannot be spelled becomes the unknown token too.
    if tokenizer.unk_token_id not in (tokenizer.eos_token_id, tokenizer.bos_token_id):
        control.discard(tokenizer.unk_token_id)
    before, _, after = answered.rpartition(_ANSWER)
    header = before.removeprefix(text) if before.startswith(text) else ""
    header = header if control.intersection(ids(header)) else ""
    behind = ids(after.lstrip())[:1]
    prompt = text + header
    tail = prompt[prompt.rindex(question) :]
    chat = ChatFormat(
        tokenizer=tokenizer,
        control=frozenset(control),
        header=header,
        default_system=_default_system(text, told),
        opens_thought=tail.rfind(THOUGHT) > tail.rfind(THOUGHT_END),
        closing=behind[0] if control.intersection(behind) else None,
    )
    for skill in _SKILLS:
        _skill_run(chat, skill)
    return chat


def _default_system(text: str, told: str) -> str:
    """What stands in `text`, a prompt without a system message, where `told` has the given one."""
    before, found, after = told.partition(_SKILLS[0])
    if not found or not text.startswith(before) or not text.endswith(after):
        return ""
    return text[len(before) : max(len(before), len(text) - len(after))]


@lru_cache(maxsize=1 << 14)
def _student_ids(chat: ChatFormat, question: str) -> tuple[int, ...]:
    """Rendered prompts are kept: episodes of a group often share one, and the teacher's are made
    of them."""
    return chat._prompt(question)


@lru_cache(maxsize=1 << 10)
def _skill_run(chat: ChatFormat, skill: str) -> Run:
    """Where a skill goes in a student's prompt, and its tokens there."""
    placement, separator = chat._placed
    harmless = chat._harmless(skill)
    # A skill that begins or ends with spaces may melt into what stands around it.
    for text in (harmless, harmless.strip()):
        run = chat._run(placement, separator, text)
        if run is not None:
            return run
    raise SdarError(
        f"{_name(chat.tokenizer)}: its chat template has no place for the skill {skill[:60]!r}; "
        "change the beginning of the skill's text, or the template"
    )


def _rendered(tokenizer: Any, chat: Chat, header: bool = True) -> str:
    """The text of a chat, with the assistant's header; raises `_Refused`."""
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
    except Exception as error:  # it may raise anything
        raise _Refused(" ".join(str(error).split())[:200] or type(error).__name__) from error


def _tried(tokenizer: Any, chat: Chat, header: bool = True) -> str:
    """`_rendered`, or "" where the template refuses."""
    try:
        return _rendered(tokenizer, chat, header)
    except _Refused:
        return ""


def _control_spans(tokenizer: Any, control: frozenset[int], text: str) -> list[tuple[int, int]]:
    """Where in a text the tokenizer reads control tokens."""
    if not tokenizer.is_fast:
        names = [re.escape(tokenizer.convert_ids_to_tokens(token)) for token in sorted(control)]
        return [match.span() for match in re.finditer("|".join(names), text)] if names else []
    unknown = tokenizer.unk_token_id
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return [
        (begin, end)
        for token, (begin, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        if token in control or (token == unknown and text[begin:end].strip() == tokenizer.unk_token)
    ]


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the beginning that both share."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _name(tokenizer: Any) -> str:
    return str(getattr(tokenizer, "name_or_path", "") or "the tokenizer")
