"""One turn of an episode: from its moment to the prompt, from the response to the action."""

from collections.abc import Sequence
from typing import Any

from sdar.environments.base import EnvironmentPackage, Moment, Observation, PastTurn
from sdar.environments.chat import Message
from sdar.environments.parsing import ParsedAction
from sdar.errors import SdarError
from sdar.policy.chat import THOUGHT, ChatFormat
from sdar.rollout.engines.base import Generation
from sdar.rollout.episode import Episode, Prompt, Turn
from sdar.rollout.settings import RolloutSettings

CUT = " [...] "
"""What a prompt says in place of what was cut from it."""


def fit_prompt(
    tokenizer: Any,
    package: EnvironmentPackage,
    moment: Moment,
    skill: str | None,
    limit: int,
    cut: int = 0,
) -> Prompt:
    """The prompt of a turn, within `limit` tokens; `skill` is its text, None for a student.

    What does not fit is left out by this rule: entries of the history, oldest first; then, without
    any history, characters from the middle of the user's message, as few as needed. The skill
    stays whole. `cut` characters are cut in any case (those that the student's prompt lacks).
    Raises `SdarError` naming the key of the limit (the teacher's where there is a skill) when the
    skill leaves no room for a message.
    """
    chat = ChatFormat.of(tokenizer)
    for dropped in range(len(moment.history) + 1):
        shown = moment.without_oldest(dropped)
        messages = package.build_messages(shown, skill)
        prompt = Prompt(shown, *_cut(chat, messages, cut), dropped, cut)
        if len(prompt.token_ids) <= limit:
            return prompt
    fits, over = len(messages[-1]["content"]), cut  # characters cut: enough, too few
    while fits - over > 1:
        middle = (fits + over) // 2
        if len(_cut(chat, messages, middle)[1]) <= limit:
            fits = middle
        else:
            over = middle
    prompt = Prompt(shown, *_cut(chat, messages, fits), dropped, fits)
    if len(prompt.token_ids) <= limit:
        return prompt
    key = "policy.max_prompt_tokens" if skill is None else "policy.max_teacher_prompt_tokens"
    raise SdarError(
        f"{key}: task {moment.task.id}, turn {moment.index + 1} needs {len(prompt.token_ids)} "
        f"tokens without any text of its own, the limit is {limit}: raise {key}, or shorten the "
        "skill"
    )


def _cut(
    chat: ChatFormat, messages: Sequence[Message], count: int
) -> tuple[list[Message], list[int]]:
    """The chat without `count` characters in the middle of its user message, and its tokens."""
    kept = list(messages)
    if count:
        text = kept[-1]["content"]
        left = (len(text) - count + 1) // 2
        kept[-1] = {**kept[-1], "content": text[:left] + CUT + text[left + count :]}
    return kept, chat.prompt_ids(kept)


def read_response(
    tokenizer: Any, package: EnvironmentPackage, token_ids: Sequence[int]
) -> tuple[str, ParsedAction]:
    """The text of a response, and what it does. Where the prompt has opened the thought, a
    response that begins within it has the form too."""
    chat = ChatFormat.of(tokenizer)
    text = chat.response_text(token_ids)
    parsed = package.parse(text)
    if chat.opens_thought and not parsed.valid:
        parsed = parsed._replace(valid=package.parse(THOUGHT + text).valid)
    return text, parsed


def next_moment(episode: Episode, observation: Observation, settings: RolloutSettings) -> Moment:
    """What the student sees at its next turn."""
    past = [PastTurn(turn.moment.observation, turn.action) for turn in episode.turns]
    return Moment.after(
        past, episode.task, observation, window=settings.history, layout=settings.layout
    )


def open_turn(
    episode: Episode,
    observation: Observation,
    skill: str | None,
    tokenizer: Any,
    settings: RolloutSettings,
) -> Turn:
    """The episode's next turn up to its response; `skill` as in `fit_prompt`."""
    moment = next_moment(episode, observation, settings)
    return Turn(fit_prompt(tokenizer, settings.package, moment, skill, settings.max_prompt_tokens))


def close_turn(
    turn: Turn, generation: Generation, tokenizer: Any, settings: RolloutSettings
) -> None:
    """Take in the response: its tokens, its text, its action."""
    turn.response_ids = generation.token_ids
    turn.log_probs = generation.log_probs
    turn.response, parsed = read_response(tokenizer, settings.package, generation.token_ids)
    turn.action, turn.valid = parsed.action, parsed.valid
    turn.penalty = 0.0 if parsed.valid else settings.invalid_action_penalty
    turn.admissible = settings.package.is_admissible(parsed.action, turn.moment.admissible_actions)
