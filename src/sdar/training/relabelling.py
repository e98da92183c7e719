"""Rounds of expert relabelling (DAgger, Ross et al. 2011): the policy plays, half of its episodes
with the hint, and the expert says what it would have done at every state the policy reached.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sdar.config import ExperimentConfig, Layout
from sdar.environments.base import Task
from sdar.environments.packages import environment_package
from sdar.environments.practices import open_practices, training_tasks
from sdar.errors import SdarError
from sdar.files.digest import file_digest
from sdar.policy.chat import render_prompt
from sdar.policy.weights import named_full_weights
from sdar.rollout.engines.base import RemoteWeights, RolloutEngine
from sdar.rollout.engines.opening import close_engine, open_engine
from sdar.rollout.engines.transformers import TransformersEngine
from sdar.rollout.turns import read_response
from sdar.training.demonstrations import (
    Demonstration,
    Libraries,
    Player,
    library_of,
    read_demonstrations,
    write_demonstrations,
)
from sdar.training.phases import Phase
from sdar.training.placed import PlacedPolicy
from sdar.training.playing import rest
from sdar.training.scoring import probe_scores
from sdar.training.shares import slots_of_rank

# Episodes the policy plays are numbered from here, after all that the demonstrations show.
FIRST_OWN_EPISODE = 10_000_000


@dataclass
class Relabelling:
    """Plays the rounds of a warm start, each rank its share of the episodes."""

    config: ExperimentConfig
    layout: Layout
    policy: PlacedPolicy
    tokenizer: Any
    engine: RolloutEngine | None
    """None: no round is played."""
    played: dict[str, str]
    """Digests of the files of the rounds that have begun, for the checkpoint."""
    libraries: Libraries = field(init=False)

    def __post_init__(self) -> None:
        self.libraries = library_of(self.config)

    @classmethod
    def open(
        cls,
        config: ExperimentConfig,
        layout: Layout,
        policy: PlacedPolicy,
        tokenizer: Any,
        played: dict[str, str],
        plays: bool,
    ) -> "Relabelling":
        """With the engine, where a round is yet to be played (`plays`): asleep, since fine-tuning
        comes first. Raises `SdarError` when it cannot start."""
        engine: Any = None
        if plays:
            engine = (
                TransformersEngine(policy.model, tokenizer)
                if config.policy.model == "tiny"
                else open_engine(
                    config,
                    policy.model,
                    tokenizer,
                    trusted=partial(probe_scores, policy.scorer, policy.accelerator),
                    folder=layout.warm_start,
                    rank=policy.ranks.rank,
                )
            )
            rest(engine)
        return cls(config, layout, policy, tokenizer, engine, played)

    def close(self) -> None:
        """End the engine."""
        if self.engine is not None:
            close_engine(self.engine)

    def own_episodes(self, phase: Phase, done: int) -> list[Demonstration]:
        """The states the policy reached in this round, each with the expert's turn.

        They are a function of the weights at the round's start; once a round has begun (`done`
        updates are made) they are read from the file they were written to.
        """
        folder = self.layout.warm_start
        path = folder / "relabelled" / f"round-{phase.round}.parquet"
        if done > phase.first_update:
            checkpoints = folder / "checkpoints"
            remedy = f"remove {checkpoints} and run the warm start again, it then begins anew"
            # An expert that knew no answer anywhere left nothing to learn, and that is no damage.
            turns = read_demonstrations(path, remedy, may_be_empty=True)
            if file_digest(path) != self.played.get(path.name):
                raise SdarError(f"{path} is not what the checkpoint was trained with: {remedy}")
            return turns
        ranks = self.policy.ranks
        shares = ranks.gather(self._play_share(phase))
        turns = [turn for share in shares for turn in share]
        turns.sort(key=lambda turn: (turn.episode, turn.turn))
        if ranks.first:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_demonstrations(path, turns)
        self.played[path.name] = ranks.broadcast(file_digest(path) if ranks.first else "")
        return turns

    def _play_share(self, phase: Phase) -> list[Demonstration]:
        """This rank's episodes of a round."""
        ranks, episodes = self.policy.ranks, self.config.warm_start.dagger.episodes
        slots = slots_of_rank(episodes, ranks.count, ranks.rank)
        first = FIRST_OWN_EPISODE + (phase.round - 1) * episodes
        cut_for = None if self.config.policy.model == "tiny" else self.tokenizer
        if isinstance(self.engine, RemoteWeights):
            self.engine.take_weights(named_full_weights(self.policy.model), phase.round)
        training = self.policy.model.training
        self.policy.model.eval()
        with open_practices(self.config, self.layout) as practices:
            players = [
                Player(
                    *(self.config, practices, first + slot, self.libraries),
                    slot=slot,
                    tokenizer=cut_for,
                )
                for slot in slots
            ]
            with self.policy.accelerator.autocast():
                turns = self._play(players, slots, step=-phase.round)
        self.policy.model.train(training)
        rest(self.engine)
        return turns

    def _play(self, players: Sequence[Player], slots: range, step: int) -> list[Demonstration]:
        """Let the policy act in every task, at training temperature; the expert labels each state.
        `slots`: the players' numbers in the round."""
        config, tokenizer = self.config, self.tokenizer
        assert self.engine is not None
        package = environment_package(config.environment.name)
        turns: list[Demonstration] = []
        live = list(range(len(players)))
        for index in range(config.environment.max_turns):
            at = [players[place] for place in live]
            turns += [player.demonstrate()[0] for player in at if not player.practice.stuck]
            still = []
            for start in range(0, len(live), config.rollout.batch):
                places = live[start : start + config.rollout.batch]
                generations = self.engine.generate(
                    [render_prompt(tokenizer, players[place].messages()) for place in places],
                    [(config.warm_start.seed, step, slots[place], index) for place in places],
                    max_new_tokens=config.policy.max_response_tokens,
                    temperature=config.rollout.temperature,
                )
                for place, generation in zip(places, generations, strict=True):
                    action = read_response(tokenizer, package, generation.token_ids)[1].action
                    if not players[place].step(action):
                        still.append(place)
            live = still
            if not live:
                break
        return turns


def tasks_to_play(config: ExperimentConfig, layout: Layout) -> list[Task]:
    """The real tasks that rounds are played on; none in generated worlds, and without rounds.
    Raises `SdarError` where they are missing: the first round comes long after the start."""
    environment = config.environment
    if not (environment.plays_data and config.chosen_warm_start.dagger_rounds):
        return []
    return training_tasks(environment.data, layout)
