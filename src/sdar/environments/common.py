"""What a text game shares with other text games: one action a turn, chosen from a list."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

from sdar.environments.base import Knowledge, PastTurn
from sdar.environments.recorded import RecordedFormat


class ActionListPackage:
    """The parts of an `EnvironmentPackage` for environments that list their possible actions."""

    parsing_cases: str | None = None
    recorded: Sequence[RecordedFormat] = ()
    world_file: str | None = None
    parser: Literal["alfworld", "webshop", "search"] = "alfworld"

    def knowledge(self, folder: Path) -> Knowledge | None:
        """Nothing beyond what the skills say."""
        return None

    def build_messages(
        self,
        instruction: str,
        history: Sequence[PastTurn],
        observation: str,
        admissible_actions: Sequence[str],
        turn: int,
        skill: str | None = None,
    ) -> list[dict[str, str]]:
        lines = [f"{instruction} You have taken {turn} actions."]
        lines += [f"You saw: {past.observation} You did: {past.action}" for past in history]
        lines += [
            f"Now you see: {observation}",
            "You can: " + ", ".join(f"'{action}'" for action in admissible_actions),
            "First reason inside <think></think>, then give one of these actions inside "
            "<action></action>.",
        ]
        messages = [{"role": "user", "content": "\n".join(lines)}]
        if skill:
            messages.insert(0, {"role": "system", "content": skill})
        return messages

    def names(self) -> Collection[str]:
        """None: what is copied is numbered, or copied as a whole action."""
        return ()

    def response(self, thought: str, action: str) -> str:
        return f"<think>{thought}</think><action>{action}</action>"

    def is_admissible(self, action: str, admissible_actions: Sequence[str]) -> bool:
        return action in admissible_actions
