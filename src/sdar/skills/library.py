"""The skill library: what the teacher is told and the student is not.

One markdown file a task type, named exactly as the type, and `general.md` for all of them. A
`{habits}` line is replaced by what is known of the world (ALFWorld: the home's usual places), and
dropped where nothing is (real data). Skills are looked up by the exact task type: an unknown one is
an error, never a silent fall-back to the general text.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sdar.environments.base import Knowledge
from sdar.errors import SdarError

GENERAL = "general"
PLACEHOLDER = "{habits}"
BUILT_IN = Path(__file__).parent / "library"


@dataclass(frozen=True)
class Skill:
    """The text for one task type; `digest` is the start of its SHA-256, to log with a sample."""

    name: str
    text: str
    digest: str


class SkillLibrary:
    """Skills read once from `folder` (None: those that come with sdar for `environment`), told with
    `knowledge` of the world.

    Raises SdarError when the folder or its `general.md` is missing or unreadable.
    """

    def __init__(
        self,
        folder: Path | None = None,
        knowledge: Knowledge | None = None,
        environment: str = "alfworld",
    ) -> None:
        self.folder = BUILT_IN / environment if folder is None else folder.expanduser()
        self.knowledge = knowledge
        if not self.folder.is_dir():
            raise SdarError(
                f"skills.library: no folder {self.folder}; give a folder of markdown skills, or "
                "null for the library that comes with sdar"
            )
        texts = {path.stem: self._read(path) for path in sorted(self.folder.rglob("*.md"))}
        if GENERAL not in texts:
            raise SdarError(
                f"skills.library: {self.folder} has no {GENERAL}.md, the text that opens every "
                "skill; add it (it may be empty)"
            )
        self._general = texts.pop(GENERAL)
        self._types = texts
        self._skills: dict[str, Skill] = {}

    @property
    def task_types(self) -> tuple[str, ...]:
        """Task types with a skill, sorted."""
        return tuple(sorted(self._types))

    def lookup(self, task_type: str) -> Skill:
        """The skill of exactly this task type: the general text, then the type's own."""
        if task_type not in self._skills:
            self.check([task_type])
            parts = (self._general, self._tell(task_type, self._types[task_type]))
            text = "\n".join(part for part in parts if part)
            self._skills[task_type] = Skill(task_type, text, _digest(text))
        return self._skills[task_type]

    def check(self, task_types: Iterable[str]) -> None:
        """Raise SdarError naming every one of these types that has no skill."""
        missing = [name for name in task_types if name not in self._types]
        if missing:
            raise SdarError(
                f"skills.library: {self.folder} has no skill for task type(s) "
                f"{', '.join(missing)}; it has {', '.join(self.task_types) or 'none'}: add "
                f"{missing[0]}.md"
            )

    @property
    def digest(self) -> str:
        """One digest of all skills as they are told: same digest, same privileged knowledge."""
        skills = (self.lookup(name) for name in self.task_types)
        return _digest("\n".join(f"{skill.name} {skill.digest}" for skill in skills))

    def _tell(self, task_type: str, text: str) -> str:
        lines = []
        for line in text.splitlines():
            if line.strip() == PLACEHOLDER:
                if self.knowledge is not None:
                    lines.append(self.knowledge.habits_text(task_type))
            elif PLACEHOLDER in line:
                raise SdarError(
                    f"skills.library: {self.folder / task_type}.md has {PLACEHOLDER} inside a "
                    "line; put it on a line of its own"
                )
            else:
                lines.append(line)
        return "\n".join(lines)

    @staticmethod
    def _read(path: Path) -> str:
        try:
            return path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SdarError(
                f"skills.library: {path} cannot be read ({error}); make it plain UTF-8 text"
            ) from error


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
