"""The evaluation stage: every task of every panel exactly once for each evaluation seed.

Panels are played in chunks (`panels.plan_chunks`). A finished chunk is on disk; after Ctrl-C or a
kill the same command plays only the rest, and the results are the same as without interruption.
"""

import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from sdar.config import ExperimentConfig, Layout
from sdar.config.stages import DEVICE, computed_with
from sdar.environments.base import EnvironmentPool, Task
from sdar.evaluation.panels import Chunk, plan_chunks, recorded_tasks
from sdar.evaluation.partial import Partial
from sdar.evaluation.subject import Subject, evaluation_key, subject_of
from sdar.evaluation.summary import flat_metrics, summarise
from sdar.evaluation.token_rows import token_rows
from sdar.files.lock import only_writer
from sdar.files.tables import rows_of, sorted_by
from sdar.files.whole import write_json, write_parquet
from sdar.interruption import Stopped, between_steps, stop_requested
from sdar.progress import Progress
from sdar.records.tables import (
    EPISODES,
    EPISODES_ORDER,
    TOKENS_ORDER,
    episode_row,
    episodes_table,
    tokens_table,
)
from sdar.rollout.collector import collect
from sdar.rollout.episode import Episode
from sdar.rollout.limits import check_limits
from sdar.rollout.settings import RolloutProgress, RolloutSettings, longest_sequence


class Played(NamedTuple):
    """Rows of one chunk."""

    episodes: pa.Table
    tokens: pa.Table


Play = Callable[[Chunk, Sequence[Task], Callable[[RolloutProgress], None]], Played]
"""Plays a chunk; gets the tasks that come next, to load them ahead, and a place to report to."""


def evaluate(config: ExperimentConfig, layout: Layout, method: str, seed: int) -> None:
    """Evaluate a method's run; writes `episodes.parquet`, `tokens.parquet`, `summary.json`,
    `metrics.jsonl` and `episodes.html`, the page of the recorded episodes, and beside them
    (`layout.evaluating`) where they come from.

    `method` is one of the experiment's, or `warm_start`, or `skill_prompt`. Raises SdarError for a
    missing policy, panel or skill before anything is played, and where another process writes this
    evaluation.
    """
    with only_writer(layout.evaluation(method, seed)):
        _evaluate(config, layout, method, seed)


def _evaluate(config: ExperimentConfig, layout: Layout, method: str, seed: int) -> None:
    from sdar.environments.tasks import read_knowledge, read_tasks
    from sdar.policy.gpu import choose_allocator, chosen_device, device_name
    from sdar.records.page import run_page
    from sdar.skills import open_skills
    from sdar.tracking.provenance import write_provenance
    from sdar.tracking.recorder import RunRecorder

    subject = subject_of(config, layout, method, seed)
    panels = {panel: read_tasks(layout, panel) for panel in config.evaluation.panels}
    chunks = plan_chunks(panels, config.evaluation.seeds, prompts=subject.prompts)
    skills = open_skills(config, read_knowledge(config.environment, layout))
    played = [task for tasks in panels.values() for task in tasks]
    skills.check(sorted({task.task_type for task in played}))
    digests = skills.digests(played)
    folder, beside = layout.evaluation(method, seed), layout.evaluating(method, seed)
    remove_earlier_records(folder)
    partial = Partial(beside / "chunks", evaluation_key(subject, config, panels, digests))
    device = chosen_device(config.execution.device)
    choose_allocator(device, config.rollout.vllm_in_process)
    used = {DEVICE: device_name(device)}
    spans = partial.computed_with(computed_with(config, "evaluate") | used)
    write_provenance(
        beside, config, layout, policy=subject.digest, skills=digests, computed_with=spans
    )

    name = f"{method}/seed-{seed}"
    with RunRecorder(
        beside,
        config=config,
        layout=layout,
        kind="evaluate",
        name=f"{name}/evaluation",
        results=folder,
    ) as recorder:
        recorded = recorded_tasks(panels, config.evaluation.recorded_episodes)
        player = ChunkPlayer(config, subject, layout.tasks, skills, recorded, recorder, beside)
        with closing(player):
            if not all(partial.has(chunk.name) for chunk in chunks):
                player.open()
                check_limits(
                    player.tokenizer,
                    config,
                    played,
                    skills,
                    without_skill=bool(recorded) or not all(subject.prompts),
                    with_skill=bool(recorded) or any(subject.prompts),
                )
            max_turns = config.environment.max_turns
            episodes, tokens = play_all(chunks, player.play, partial, name, max_turns)
        summary = summarise(
            episodes,
            {
                "method": method,
                "seed": seed,
                "temperature": config.evaluation.temperature,
                "evaluation_seeds": list(config.evaluation.seeds),
                "policy": subject.digest,
                "skills": digests,
            },
        )
        write_parquet(folder / "episodes.parquet", episodes)
        write_parquet(folder / "tokens.parquet", tokens)
        recorder.truncate(0)
        recorder.metrics(0, flat_metrics(summary))
        write_json(folder / "summary.json", summary)
        recorder.artifact(folder / "summary.json")
        recorder.artifact(folder / "tokens.parquet", "tokens")
        page = run_page(folder / "episodes.html", rows_of(tokens), config, name)
        recorder.artifact(page, "pages")
        partial.remove()


def remove_earlier_records(folder: Path) -> None:
    """Earlier versions left among the results what lies beside them now."""
    for name in ("config.yaml", "provenance.json", "tracking.json", "mlflow.json", "timings.jsonl"):
        (folder / name).unlink(missing_ok=True)
    for name in ("outbox.jsonl", "mlflow.log", ".mlflow.lock"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / ".partial", ignore_errors=True)


def play_all(
    chunks: Sequence[Chunk], play: Play, partial: Partial, name: str, max_turns: int
) -> Played:
    """Play the chunks that `partial` does not hold yet; all rows, sorted."""
    left = [chunk for chunk in chunks if not partial.has(chunk.name)]
    total, solved, done = sum(len(chunk.tasks) for chunk in chunks), 0, 0
    for chunk in chunks:
        if partial.has(chunk.name):
            done += len(chunk.tasks)
            solved += _solved(partial.read(chunk.name)[0])
    if done:
        print(f"evaluate {name}: {done} of {total} episodes are kept from before", file=sys.stderr)
    with (
        Progress(total=total, initial=done, unit="episode", desc=f"evaluate {name}") as bar,
        between_steps(),
    ):
        for position, chunk in enumerate(left):
            following = left[position + 1].tasks if position + 1 < len(left) else ()

            def report(progress: RolloutProgress, base: int = done, won: int = solved) -> None:
                # Live episodes count by their turns: steady, and right at the end.
                share = progress.finished + progress.live * progress.turn / max_turns
                bar.update(int(base + share) - bar.n)
                bar.set_postfix(solved=won + progress.won)

            played = play(chunk, following, report)
            partial.write(chunk.name, played.episodes, played.tokens)
            done += len(chunk.tasks)
            solved += _solved(played.episodes)
            bar.update(done - bar.n)
            if stop_requested() and position + 1 < len(left):
                raise Stopped
    tables = [partial.read(chunk.name) for chunk in chunks]
    return Played(
        sorted_by(pa.concat_tables([episodes for episodes, _ in tables]), EPISODES_ORDER),
        sorted_by(pa.concat_tables([tokens for _, tokens in tables]), TOKENS_ORDER),
    )


def _solved(episodes: pa.Table) -> int:
    return sum(episodes["success"].to_pylist())


@dataclass
class ChunkPlayer:
    """Plays chunks with a policy on the real environment."""

    config: ExperimentConfig
    subject: Subject
    tasks: Path
    """The tasks' folder."""
    skills: Any
    recorded: set[tuple[str, str]]
    """(panel, task id) of those recorded token by token."""
    recorder: Any
    folder: Path
    """For what the engine leaves."""
    pool: EnvironmentPool = field(init=False)
    model: Any = field(init=False)
    tokenizer: Any = field(init=False)
    engine: Any = field(init=False)

    def open(self) -> None:
        """Load the policy and start the environment."""
        from sdar.environments.packages import environment_package
        from sdar.policy.gpu import chosen_device
        from sdar.policy.loading import load_policy
        from sdar.policy.reproducible import choose_kernels, make_reproducible
        from sdar.rollout.engines.opening import open_filled_engine

        make_reproducible(self.config.execution.threads)
        device = chosen_device(self.config.execution.device)
        choose_kernels(device)
        policy, dtype = self.subject.policy, self.config.policy.dtype
        self.model, self.tokenizer = load_policy(
            policy,
            device,
            dtype,
            trust_remote_code=self.config.policy.trust_remote_code,
            longest=longest_sequence(self.config),
            fp32_head=self.config.policy.fp32_head,
            share_prefixes=self.config.policy.share_prefixes,
        )
        self.engine = open_filled_engine(
            self.config, self.model, self.tokenizer, folder=self.folder
        )
        environment = self.config.environment
        self.pool = environment_package(environment.name).open_pool(environment, self.tasks)

    def play(
        self, chunk: Chunk, following: Iterable[Task], report: Callable[[RolloutProgress], None]
    ) -> Played:
        """Play one chunk, score its recorded episodes."""
        self.pool.prefetch(list(following))
        episodes = collect(
            self.engine,
            self.tokenizer,
            self.pool,
            chunk.tasks,
            range(len(chunk.tasks)),
            settings=RolloutSettings.from_config(
                self.config, temperature=self.config.evaluation.temperature, skill=chunk.with_skill
            ),
            skills=self.skills if chunk.with_skill else None,
            seed=chunk.evaluation_seed,
            step=chunk.step,
            on_progress=report,
        )
        identity = self._identity(chunk)
        rows = [episode_row(EPISODES, episode, **identity) for episode in episodes]
        tokens = [row for episode in episodes for row in self._token_rows(episode, chunk)]
        return Played(episodes_table(rows), tokens_table(tokens))

    def close(self) -> None:
        """End environment and engine, if they were started."""
        if hasattr(self, "engine"):
            from sdar.rollout.engines.opening import close_engine

            close_engine(self.engine)
        if hasattr(self, "pool"):
            self.pool.close()

    def _identity(self, chunk: Chunk) -> dict[str, Any]:
        """The columns that say which evaluation a row belongs to."""
        return {
            "method": self.subject.method,
            "seed": self.subject.seed,
            "with_skill": chunk.with_skill,
            "panel": chunk.panel,
            "evaluation_seed": chunk.evaluation_seed,
        }

    def _token_rows(self, episode: Episode, chunk: Chunk) -> list[dict[str, Any]]:
        first = chunk.evaluation_seed == self.config.evaluation.seeds[0]
        usual = chunk.with_skill == self.subject.prompts[0]
        if not (first and usual and (chunk.panel, episode.task.id) in self.recorded):
            return []
        from sdar.evaluation.scoring import score_episode
        from sdar.tracking.traces import episode_record

        scored = score_episode(
            self.model,
            self.tokenizer,
            episode,
            self.skills,
            self.config,
            engine=self.engine,
            device=self.model.device,
        )
        name = f"{chunk.panel}/{chunk.evaluation_seed}/{episode.task.id}"
        rows = token_rows(episode, scored, self._identity(chunk) | {"episode": name})
        gaps = [
            [t - s for s, t in zip(turn.student_log_probs, turn.teacher_log_probs, strict=True)]
            for turn in scored
        ]
        gates = [turn.gates for turn in scored]
        self.recorder.episodes([episode_record(episode, gaps=gaps, gates=gates)])
        return rows
