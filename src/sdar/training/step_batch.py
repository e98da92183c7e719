"""The samples of a training step: its episodes laid out turn by turn.

Shape suffixes: S samples (turns of all episodes, in order of slot and turn), R response tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sdar.algorithms.inputs import StepSamples
from sdar.rollout.episode import Episode, TeacherPrompt, Turn


@dataclass(frozen=True, eq=False)  # what is worked out for a batch is kept under it
class StepBatch:
    """Episodes of a step as samples: entry i of every list is sample i."""

    episodes: list[Episode]
    owners: list[Episode]
    turns: list[Turn]
    response_mask_SR: Tensor

    @classmethod
    def from_episodes(cls, episodes: Sequence[Episode]) -> "StepBatch":
        owners = [episode for episode in episodes for _ in episode.turns]
        turns = [turn for episode in episodes for turn in episode.turns]
        lengths = torch.tensor([len(turn.response_ids) for turn in turns])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        return cls(list(episodes), owners, turns, mask)

    def __len__(self) -> int:
        return len(self.turns)

    @cached_property
    def prompts(self) -> list[list[int]]:
        return [turn.prompt.token_ids for turn in self.turns]

    @property
    def teacher_prompts(self) -> list[list[int]]:
        """As `prompts`, where the rollout made them; without a token elsewhere."""
        made = [turn.teacher for turn in self.turns]
        return [[] if each is None else each.prompt.token_ids for each in made]

    @property
    def taught(self) -> list[tuple[Episode, Turn, TeacherPrompt]]:
        """The turns that have a teacher's prompt, and so are taught."""
        pairs = zip(self.owners, self.turns, strict=True)
        return [(owner, turn, turn.teacher) for owner, turn in pairs if turn.teacher is not None]

    @property
    def taught_S(self) -> Tensor:
        """Booleans: the samples that are taught."""
        return torch.tensor([turn.teacher is not None for turn in self.turns])

    @cached_property
    def responses(self) -> list[list[int]]:
        return [turn.response_ids for turn in self.turns]

    def engine_log_probs(self) -> Tensor:
        """`[S, R]` log-probs of the sampled tokens as the engine saw them, 0 on padding."""
        values_SR = torch.zeros(self.response_mask_SR.shape)
        values_SR[self.response_mask_SR] = torch.tensor(
            [log_prob for turn in self.turns for log_prob in turn.log_probs]
        )
        return values_SR

    @cached_property
    def sequences(self) -> list[list[int]]:
        """Prompts with their responses."""
        return [[*turn.prompt.token_ids, *turn.response_ids] for turn in self.turns]

    def lengths(self) -> list[int]:
        """Tokens of prompt and response."""
        return [len(turn.prompt.token_ids) + len(turn.response_ids) for turn in self.turns]

    def samples(
        self,
        old_log_probs_SR: Tensor,
        teacher_log_probs_SR: Tensor | None,
        old_entropy_SR: Tensor | None = None,
    ) -> StepSamples:
        """What advantages are made from: a sample's score is its episode's return less the turn's
        own penalty; the environment pays on an episode's last turn."""
        taught_S = None if teacher_log_probs_SR is None else self.taught_S
        pairs = list(zip(self.owners, self.turns, strict=True))
        earned = [
            episode.episode_return if turn is episode.turns[-1] else 0.0 for episode, turn in pairs
        ]
        return StepSamples(
            step_return=torch.tensor([e.episode_return - t.penalty for e, t in pairs]),
            step_reward=torch.tensor(earned) - torch.tensor([t.penalty for t in self.turns]),
            group=[episode.group for episode in self.owners],
            episode=[episode.slot for episode in self.owners],
            turn=[turn.moment.index for turn in self.turns],
            success=torch.tensor([float(episode.won) for episode in self.owners]),
            anchor_observation=[turn.moment.observation for turn in self.turns],
            valid=torch.tensor([turn.valid for turn in self.turns]),
            response_mask=self.response_mask_SR,
            old_log_probs=old_log_probs_SR,
            old_entropy=old_entropy_SR,
            teacher_log_probs=teacher_log_probs_SR,
            taught=None if taught_S is None or taught_S.all() else taught_S,
        )
