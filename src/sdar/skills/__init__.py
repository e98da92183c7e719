"""Skills: the privileged texts, and which of them the teacher of a task reads."""

from sdar.config import ExperimentConfig
from sdar.environments.base import Knowledge
from sdar.skills.library import Skill, SkillLibrary

__all__ = ["Skill", "SkillLibrary", "open_skills"]


def open_skills(config: ExperimentConfig, knowledge: Knowledge | None) -> SkillLibrary:
    """The configured library, filled in with `knowledge`, choosing as `skills.retrieval` says.

    For teachers and for rollouts with the skill. Demonstrations follow the hints of their task
    type, so they use a plain `SkillLibrary`, whose retrieval is `type`. Raises SdarError when the
    library is missing or unreadable.
    """
    return SkillLibrary(
        config.skills.library,
        knowledge,
        config.environment.name,
        retrieval=config.skills.retrieval,
        seed=config.skills.seed,
    )
