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

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import takewhile
from typing import Any, Literal

from sdar.errors import SdarError
from sdar.policy.control_tokens import control_tokens, harmless, spells_unknown
from sdar.policy.template import Chat, Refused, render, render_or_nothing

Placement = Literal["system message", "default system message", "user message"]
"""Where a skill stands: in a system message of its own, before the default text of the system
message, or before the text of the user's message."""
Run = tuple[tuple[int, ...], tuple[int, ...]]
"""The tokens before a skill in a prompt, and the tokens of the skill."""

THOUGHT, THOUGHT_END = "<think>", "</think>"

# A space last where SentencePiece writes the first word of a text with its space.
_SEPARATORS = ("\n\n", "\n\n ", "\n", " ")
# They differ from their first token on; the first shows whether a template leaves texts alone.
_QUESTIONS = ("Which way is it?\n<think></think> 'a' & <b>?", "7 apples, please")
_SKILLS = ("Look around first.", "- Turn left twice\n- Then open the door")
_ANSWER = "Left, then left again"
_TIMES = 32
KEPT_PROMPTS = 1 << 14
"""More than a step has."""


@dataclass(frozen=True, eq=False)
class ChatFormat:
    """What a tokenizer's chat template does; `of` finds it out.

    `control`: ids that no text may become. `header`: the assistant's header where the template
    writes it only with a message; else "". `default_system`: the system text that it writes when
    none is given. `opens_thought`: a prompt ends within a thought, so a response begins there.
    `closing`: the token behind an assistant's message, None where there is none.
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
        ids = self._student_ids(texts["user"])
        if "system" not in texts:
            return list(ids)
        before, run = _skill_run(self, texts["system"])
        # Where the text has melted into what stands before it, that is written again.
        place = _shared(before, ids)
        return [*ids[:place], *before[place:], *run, *ids[place:]]

    def prepare(self, chats: Iterable[Sequence[Mapping[str, str]]]) -> None:
        """Have the user's messages of these chats at hand for `prompt_ids`, which gives the same:
        the tokenizer is called once for all that are new."""
        texts: dict[str, str] = {}
        for messages in chats:
            question = next(m["content"] for m in messages if m["role"] == "user")
            if question not in self._kept:
                # Where the template refuses it, `_prompt` says so in its turn.
                with suppress(Refused):
                    texts.setdefault(question, self._text((("user", question),)))
        if len(texts) < 2:
            return
        encoded = self.tokenizer(list(texts.values()), add_special_tokens=False)["input_ids"]
        for question, ids in zip(texts, encoded, strict=True):
            if self._is_usual(question, ids):
                self._keep(question, tuple(ids))

    @property
    def placement(self) -> Placement:
        """Where a skill stands in the teacher's prompt."""
        return self._placed[0]

    def response_ids(self, text: str) -> list[int]:
        """Token ids of a response to imitate, with the token that closes it."""
        if self.opens_thought:
            text = text.removeprefix(THOUGHT)
        ids = self._ids(harmless(self.tokenizer, self.control, text))
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
            except Refused:
                return None
            if skill.strip() not in text:
                return None
            pairs.append((self._student_ids(question), tuple(self._ids(text))))
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
        try:
            ids = self._ids(self._text((("user", question),)))
            if self._is_usual(question, ids):
                return tuple(ids)
        except Refused:
            pass
        question = harmless(self.tokenizer, self.control, question)
        try:
            return tuple(self._ids(self._text((("user", question),))))
        except Refused as error:
            raise SdarError(
                f"{_name(self.tokenizer)}: its chat template refuses a prompt ({error}), that "
                f"which begins with {question[:60]!r}; give the model's folder a "
                "chat_template.jinja that does not"
            ) from error

    def _is_usual(self, question: str, ids: Sequence[int]) -> bool:
        """Whether the question has become no control token of the prompt."""
        usual = self._marks(ids) == self._usual_marks
        return usual and not spells_unknown(self.tokenizer, question)

    def _student_ids(self, question: str) -> tuple[int, ...]:
        """`_prompt`, kept: episodes of a group often share one, and the teacher's are made of
        them."""
        ids = self._kept.get(question)
        return self._keep(question, self._prompt(question)) if ids is None else ids

    def _keep(self, question: str, ids: tuple[int, ...]) -> tuple[int, ...]:
        if len(self._kept) >= KEPT_PROMPTS:
            self._kept.pop(next(iter(self._kept)), None)  # the oldest
        self._kept[question] = ids
        return ids

    @cached_property
    def _kept(self) -> dict[str, tuple[int, ...]]:
        return {}

    def _text(self, chat: Chat) -> str:
        return render(self.tokenizer, chat) + self.header

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _marks(self, ids: Sequence[int]) -> list[int]:
        return [token for token in ids if token in self.control]

    @cached_property
    def _usual_marks(self) -> list[int]:
        return self._marks(self._ids(self._text((("user", _QUESTIONS[0]),))))


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
        text = render(tokenizer, (user,))
        same = {render(tokenizer, (user,)) for _ in range(_TIMES)} == {text}
    except Refused as error:
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

    def ids(part: str) -> list[int]:
        return list(tokenizer(part, add_special_tokens=False)["input_ids"])

    told = render_or_nothing(tokenizer, (("system", _SKILLS[0]), user))
    answer = ("assistant", _ANSWER)
    answered = render_or_nothing(tokenizer, (user, answer), header=False)
    asked_again = render_or_nothing(tokenizer, (user, answer, user), header=False)
    control = control_tokens(tokenizer, template, [*ids(text), *ids(told), *ids(asked_again)])

    before, _, _ = answered.rpartition(_ANSWER)
    header = ""
    if text == render_or_nothing(tokenizer, (user,), header=False) and before.startswith(text):
        missing = before.removeprefix(text)
        header = missing if control.intersection(ids(missing)) else ""
    closing = None
    for conversation in (answered, asked_again):  # GLM 4's is the marker of the next message
        behind = ids(conversation.rpartition(_ANSWER)[2].lstrip())[:1]
        if closing is None and control.intersection(behind):
            closing = behind[0]
    behind_text = (text + header).rpartition(question)[2]
    chat = ChatFormat(
        tokenizer=tokenizer,
        control=control,
        header=header,
        default_system=_default_system(text, told),
        opens_thought=behind_text.rfind(THOUGHT) > behind_text.rfind(THOUGHT_END),
        closing=closing,
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


@lru_cache(maxsize=1 << 10)
def _skill_run(chat: ChatFormat, skill: str) -> Run:
    """Where a skill goes in a student's prompt, and its tokens there."""
    placement, separator = chat._placed
    text = harmless(chat.tokenizer, chat.control, skill)
    # A skill that begins or ends with spaces may melt into what stands around it.
    for told in (text, text.strip()):
        run = chat._run(placement, separator, told)
        if run is not None:
            return run
    raise SdarError(
        f"{_name(chat.tokenizer)}: its chat template has no place for the skill {skill[:60]!r}; "
        "change the beginning of the skill's text, or the template"
    )


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the beginning that both share."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _name(tokenizer: Any) -> str:
    return str(getattr(tokenizer, "name_or_path", "") or "the tokenizer")
