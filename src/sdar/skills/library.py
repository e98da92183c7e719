"""The skill library: what the teacher reads and the student does not.

One markdown file per task type, named exactly as the type, and `general.md` for all of them. A
`{habits}` line is replaced by what is known of the world (ALFWorld: the home's usual places), and
dropped where nothing is (real data). An unknown task type is an error, never a silent fall-back to
the general text. A file may open with front matter, `keywords: [...]` between two lines of `---`,
which is no part of the skill.
"""

from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass
from pathlib import Path

from sdar.config.sweep import RetrievalKind
from sdar.environments.base import Knowledge, Task
from sdar.environments.packages import DEFAULT, skills_folder
from sdar.errors import SdarError
from sdar.files.digest import text_digest
from sdar.skills.retrieval import best_match, derived_keywords, drawn_type, split_front_matter

GENERAL = "general"
PLACEHOLDER = "{habits}"


@dataclass(frozen=True)
class Skill:
    """What a teacher reads; `digest` is the start of its SHA-256, to log with a sample.

    `name` is the task type, with the kind of retrieval before it where that is not `type`:
    `random:pick_two_obj_and_place`, `keyword:general`, `all`, `none`. An empty `text` is no skill.
    """

    name: str
    text: str
    digest: str


class SkillLibrary:
    """Skills read once from `folder` (None: those that come with sdar for `environment`), filled in
    with `knowledge` of the world. `for_task` chooses as `retrieval` says, with `seed` if `random`.

    Raises SdarError when the folder or its `general.md` is missing or unreadable.
    """

    def __init__(
        self,
        folder: Path | None = None,
        knowledge: Knowledge | None = None,
        environment: str = DEFAULT,
        *,
        retrieval: RetrievalKind = "type",
        seed: int = 0,
    ) -> None:
        self.folder = skills_folder(environment) if folder is None else folder
        self.knowledge = knowledge
        self.retrieval = retrieval
        self.seed = seed
        if not self.folder.is_dir():
            raise SdarError(
                f"skills.library: no folder {self.folder}; give a folder of markdown skills, or "
                "null for the library that comes with sdar"
            )
        self.keywords: dict[str, tuple[str, ...]] = {}
        """Of each task type: declared in front matter, or derived from the library."""
        texts = {path.stem: self._read(path) for path in sorted(self.folder.rglob("*.md"))}
        if GENERAL not in texts:
            raise SdarError(
                f"skills.library: {self.folder} has no {GENERAL}.md, the text that opens every "
                "skill; add it (it may be empty)"
            )
        self._general = texts.pop(GENERAL)
        self._types = texts
        derived = derived_keywords({name: text.split("\n", 1)[0] for name, text in texts.items()})
        self.keywords = {name: self.keywords.get(name, derived[name]) for name in texts}
        self._skills: dict[str, Skill] = {}

    def told(self, knowledge: Knowledge | None) -> "SkillLibrary":
        """The same skills, filled in with this knowledge; no file is read again."""
        library = copy(self)
        library.knowledge, library._skills = knowledge, {}
        return library

    @property
    def task_types(self) -> tuple[str, ...]:
        """Task types with a skill, sorted."""
        return tuple(sorted(self._types))

    def lookup(self, task_type: str) -> Skill:
        """The skill of exactly this task type: the general text, then the type's own."""
        if task_type not in self._skills:
            self.check([task_type])
            text = _join(self._general, self._filled_in(task_type, self._types[task_type]))
            self._skills[task_type] = Skill(task_type, text, _digest(text))
        return self._skills[task_type]

    def for_task(self, task: Task) -> Skill:
        """What the teacher of this task reads, a function of (task, library, seed). Raises
        SdarError for a task type without a skill, where the choice depends on it."""
        match self.retrieval:
            case "type":
                return self.lookup(task.task_type)
            case "keyword":
                return self._named("keyword", best_match(self.keywords, task.instruction))
            case "random":
                return self._named("random", drawn_type(self.task_types, self.seed, task.id))
            case "all":
                return self._all()
            case "none":
                return Skill("none", "", _digest(""))

    def digests(self, tasks: Iterable[Task]) -> dict[str, str]:
        """Digests by name of all skills of these tasks; where the task type alone does not decide,
        `retrieval` is the digest of the choices."""
        chosen = {task.id: self.for_task(task) for task in tasks}
        digests = {skill.name: skill.digest for skill in chosen.values()}
        if self.retrieval != "type":
            lines = (f"{task} {chosen[task].name} {chosen[task].digest}" for task in sorted(chosen))
            digests["retrieval"] = _digest("\n".join((self.retrieval, *lines)))
        return dict(sorted(digests.items()))

    def check(self, task_types: Iterable[str]) -> None:
        """Raise SdarError naming every one of these types that has no skill."""
        missing = [name for name in task_types if name not in self._types]
        if missing:
            raise SdarError(
                f"skills.library: {self.folder} has no skill for task type(s) "
                f"{', '.join(missing)}; it has {', '.join(self.task_types) or 'none'}: add "
                f"{missing[0]}.md"
            )

    def _named(self, kind: str, task_type: str | None) -> Skill:
        if task_type is None:
            return Skill(f"{kind}:{GENERAL}", self._general, _digest(self._general))
        skill = self.lookup(task_type)
        return Skill(f"{kind}:{task_type}", skill.text, skill.digest)

    def _all(self) -> Skill:
        if "all" not in self._skills:
            sections = (
                f"## {name.replace('_', ' ')}\n{self._filled_in(name, self._types[name])}"
                for name in self.task_types
            )
            text = _join(self._general, *sections)
            self._skills["all"] = Skill("all", text, _digest(text))
        return self._skills["all"]

    def _filled_in(self, task_type: str, text: str) -> str:
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

    def _read(self, path: Path) -> str:
        try:
            values, text = split_front_matter(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise SdarError(
                f"skills.library: {path} cannot be read ({error}); make it plain UTF-8 text"
            ) from error
        except ValueError as error:
            raise SdarError(
                f"skills.library: the front matter of {path} {error}; write `keywords: [...]` "
                "between two lines of ---, or remove it"
            ) from None
        if "keywords" in values:
            self.keywords[path.stem] = tuple(map(str, values["keywords"]))  # type: ignore[call-overload]
        return text


def _join(*parts: str) -> str:
    return "\n".join(part for part in parts if part)


def _digest(text: str) -> str:
    return text_digest(text)[:12]
