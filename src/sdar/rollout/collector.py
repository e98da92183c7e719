"""Playing episodes: prompts out of observations, responses out of the engine, actions back.

Here all live episodes of a turn are sampled together; `continuous` has the schedule without that
barrier. An episode depends on its task, its skill, the policy and (seed, step, slot) alone: not on
which episodes run beside it, nor on the order in which they end.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from sdar.clock import PhaseClock
from sdar.environments.base import EnvironmentPool, Task
from sdar.rollout import continuous
from sdar.rollout.engines.base import RolloutEngine
from sdar.rollout.episode import Episode
from sdar.rollout.settings import RolloutProgress, RolloutSettings
from sdar.rollout.state import Rollout
from sdar.rollout.teacher import Teaching

if TYPE_CHECKING:
    from sdar.skills.library import Skill, SkillLibrary

log = logging.getLogger("sdar.rollout")


def collect(
    engine: RolloutEngine,
    tokenizer: Any,
    pool: EnvironmentPool,
    tasks: Sequence[Task],
    groups: Sequence[int],
    *,
    settings: RolloutSettings,
    skills: "SkillLibrary | None",
    seed: int,
    step: int,
    on_progress: Callable[[RolloutProgress], None] | None = None,
    clock: PhaseClock | None = None,
    first_slot: int = 0,
    teaching: Teaching | None = None,
) -> list[Episode]:
    """Play one episode of each task, in slots from `first_slot` on, to its end or the turn limit.

    `groups[i]` is the group of episode i. `skills` None: the student plays without a skill. The
    schedule is that of the settings; `continuous` needs a `ContinuousEngine`. Returns the episodes
    in the order of the tasks. `clock` gets the phases `environment` (waiting for it) and
    `generation`. With `teaching` every turn gets the teacher's prompt, too. A prompt over the limit
    is shortened by `turns.fit_prompt`'s rule.
    """
    if len(tasks) != len(groups):
        raise ValueError(f"{len(tasks)} tasks but {len(groups)} groups")
    episodes = {
        slot: Episode(task=task, slot=slot, group=group)
        for slot, (task, group) in enumerate(zip(tasks, groups, strict=True), first_slot)
    }
    chosen: dict[int, Skill | None] = {}
    for episode in episodes.values():
        skill = None if skills is None else skills.for_task(episode.task)
        chosen[episode.slot] = skill
        if skill is not None:
            episode.skill, episode.skill_digest = skill.name, skill.digest
    rollout = Rollout(
        episodes=episodes,
        skills=chosen,
        pool=pool,
        tokenizer=tokenizer,
        settings=settings,
        seed=seed,
        step=step,
        timed=clock if clock is not None else lambda phase: nullcontext(),
        on_progress=on_progress,
        teaching=teaching,
    )
    if settings.schedule == "continuous":
        continuous.play(rollout, engine)
    else:
        play(rollout, engine)
    warn_of_cuts(list(episodes.values()), settings)
    return list(episodes.values())


def warn_of_cuts(episodes: Sequence[Episode], settings: RolloutSettings) -> None:
    """Say how many prompts lack a part of their text."""
    turns = [(episode.task, turn) for episode in episodes for turn in episode.turns]
    cut = [(task, turn) for task, turn in turns if turn.prompt.cut]
    if cut:
        task, turn = cut[0]
        log.warning(
            "%d of %d prompts were longer than the limit of %d tokens without any history, and "
            "lack a part (the first: task %s, turn %d, %d characters): raise policy.%s to show all",
            len(cut),
            len(turns),
            settings.max_prompt_tokens,
            task.id,
            turn.moment.index + 1,
            turn.prompt.cut,
            "max_teacher_prompt_tokens" if episodes[0].skill else "max_prompt_tokens",
        )


def play(rollout: Rollout, engine: RolloutEngine) -> None:
    """Play turn after turn, until no episode is live or the turn limit is reached."""
    settings = rollout.settings
    live = rollout.reset()
    for _ in range(settings.max_turns):
        with rollout.timed("generation"):
            rollout.prepare_turns(live)
            opened = [rollout.open_turn(slot) for slot in live]
            for start in range(0, len(live), settings.batch):
                part = slice(start, start + settings.batch)
                generations = engine.generate(
                    [prompt_ids for prompt_ids, _ in opened[part]],
                    [key for _, key in opened[part]],
                    max_new_tokens=settings.max_response_tokens,
                    temperature=settings.temperature,
                )
                for slot, generation in zip(live[part], generations, strict=True):
                    rollout.close_turn(slot, generation)
        rollout.send(live)
        with rollout.timed("environment"):
            answers = rollout.pool.receive(live)
        live = [slot for slot in live if rollout.take(slot, answers[slot])]
        rollout.report(live)
        if not live:
            break
