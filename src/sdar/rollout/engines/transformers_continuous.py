"""The same sampling for responses that begin and end at any time (`rollout.schedule: continuous`).

Live responses are the first rows of one key-value cache. A new one is prefilled in the step in
which it joins and written behind them; when a row ends, the last one moves into its place, so that
a step copies no more rows than ended. A response's row is a function of the calls alone, and so is
its rounding.

On the `static` path eight steps are computed at once and handed out one by one; what was asked for
meanwhile joins at the first step of the next eight. That, too, is a function of the calls alone.
"""

from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from sdar.rollout.engines.base import Generation, Key, uniforms
from sdar.rollout.engines.row_cache import RowCache
from sdar.rollout.engines.static import LOOK
from sdar.rollout.engines.transformers import TransformersEngine, sample

CAPACITY_GRAIN = 64
"""The cache, which is copied to grow, grows by at least this many tokens per row."""


@dataclass
class _Row:
    """A response that is being sampled."""

    name: int
    number: int
    prompt_ids: list[int]
    draws: NDArray
    temperature: float
    token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    seen: int = 0
    """Tokens that it had when the host last looked, where the tokens stay on the device."""

    @property
    def draw(self) -> float:
        """The random number of the next token."""
        return float(self.draws[len(self.token_ids)])

    @property
    def most_tokens(self) -> int:
        return len(self.prompt_ids) + len(self.draws)


class ContinuousTransformersEngine(TransformersEngine):
    """Implements `ContinuousEngine` on the trainer's own model.

    Memory is that of the most responses that were live at once, and is given back when none is.
    """

    def __init__(self, model: Any, tokenizer: Any, **options: Any) -> None:
        super().__init__(model, tokenizer, **options)
        self._number = 0
        self._asked: list[_Row] = []
        self._live: list[_Row] = []
        self._cache: Any = None
        self._chosen = torch.empty(0, dtype=torch.long)
        self._ahead: deque[list[tuple[int, Generation]]] = deque()

    def submit(
        self,
        name: int,
        prompt_ids: list[int],
        key: Key,
        *,
        max_new_tokens: int,
        temperature: float,
    ) -> None:
        """See `ContinuousEngine.submit`."""
        draws = uniforms([key], max_new_tokens)[0]
        self._asked.append(_Row(name, self._number, prompt_ids, draws, temperature))
        self._number += 1

    @torch.no_grad()
    def advance(self) -> list[tuple[int, Generation]]:
        """See `ContinuousEngine.advance`."""
        if self._ahead:
            return self._ahead.popleft()
        if not (self._live or self._asked):
            return []
        with self._computing(new_weights=not self._live):
            if self.path != "static":
                return self._step()
            self._ahead = deque(self._steps())
            return self._ahead.popleft()

    def _step(self) -> list[tuple[int, Generation]]:
        """`advance` where there is something to do."""
        hidden = [] if self._cache is None else [self._decode(self._chosen, self._cache)]
        if self._asked:
            hidden.append(self._join(self._asked))
        self._live, self._asked = self._live + self._asked, []
        self._chosen, log_probs = self._sample(self._logits(torch.cat(hidden)))
        ended = set()
        picked = zip(self._live, self._chosen.tolist(), log_probs.tolist(), strict=True)
        for place, (row, token, log_prob) in enumerate(picked):
            row.token_ids.append(token)
            row.log_probs.append(log_prob)
            if token in self.ends or len(row.token_ids) == len(row.draws):
                ended.add(place)
        finished = sorted((self._live[place] for place in ended), key=lambda row: row.number)
        if ended:
            self._leave(ended)
        return [(row.name, Generation(row.token_ids, row.log_probs)) for row in finished]

    def _steps(self) -> list[list[tuple[int, Generation]]]:
        """What ends in each of the next steps, all of which are computed now."""
        rows = self._static_rows()
        if not self._live:
            rows.clear()
        steps = LOOK
        if self._live:
            rows.run(1)
            steps -= 1
        # Rows at one time share their temperature: others wait until there is none.
        temperature = (self._live or self._asked)[0].temperature
        joining = [row for row in self._asked if row.temperature == temperature]
        if joining:
            prompts = [row.prompt_ids for row in joining]
            first = rows.join(list(map(len, prompts)), [row.draws for row in joining], temperature)
            rows.start(first, self._prefill(prompts, rows.cache, first))
            self._asked = [row for row in self._asked if row.temperature != temperature]
            self._live += joining
            steps = LOOK - 1
        rows.run(steps)
        tokens, running = rows.look()
        ended = [place for place, going in enumerate(running) if not going]
        found = rows.read(ended, [tokens[place] for place in ended]) if ended else []
        ending: list[list[tuple[_Row, Generation]]] = [[] for _ in range(LOOK)]
        for place, generation in zip(ended, found, strict=True):
            row = self._live[place]
            ending[tokens[place] - row.seen - 1].append((row, generation))
        for row, count in zip(self._live, tokens, strict=True):
            row.seen = count
        if ended:
            self._live = [self._live[place] for place in rows.leave(set(ended))]
        while not self._live and not ending[-1]:
            ending.pop()
        return [
            [(row.name, made) for row, made in sorted(step, key=lambda pair: pair[0].number)]
            for step in ending
        ]

    def _sampling(self) -> bool:
        return bool(self._live)

    def close(self) -> None:
        """Forget all responses and give their memory back."""
        self._asked, self._live, self._cache = [], [], None
        self._ahead.clear()
        super().close()

    def _join(self, rows: list[_Row]) -> Tensor:
        """Prefill the prompts behind the live rows; see `_prefill`."""
        lengths = torch.tensor([len(row.prompt_ids) for row in rows], device=self.model.device)
        most = max(row.most_tokens for row in rows)
        capacity = -(-most // CAPACITY_GRAIN) * CAPACITY_GRAIN
        if self._cache is None:
            self._cache = self._own_caches() or OpenRowCache(lengths, capacity)
        else:
            self._cache.join(lengths, capacity)
        return self._prefill([row.prompt_ids for row in rows], self._cache, len(self._live))

    def _sample(self, logits_BV: Tensor) -> tuple[Tensor, Tensor]:
        """The next tokens of all live rows and their log-probs, both `[B]`."""
        alike: dict[float, list[int]] = defaultdict(list)
        for place, row in enumerate(self._live):
            alike[row.temperature].append(place)
        draws = torch.tensor([row.draw for row in self._live], dtype=torch.float64)
        draws = draws.to(logits_BV.device)
        if len(alike) == 1:
            return sample(logits_BV, draws, self._live[0].temperature)
        chosen = draws.new_empty(len(draws), dtype=torch.long)
        log_probs = logits_BV.new_empty(len(draws))
        for temperature, places in alike.items():
            part = sample(logits_BV[places], draws[places], temperature)
            chosen[places], log_probs[places] = part
        return chosen, log_probs

    def _leave(self, ended: set[int]) -> None:
        """Close the gaps with the last rows."""
        count = len(self._live) - len(ended)
        if count == 0:
            self._live, self._cache = [], None
            return
        last = iter(place for place in range(count, len(self._live)) if place not in ended)
        order = [next(last) if place in ended else place for place in range(count)]
        self._live = [self._live[place] for place in order]
        self._chosen = self._chosen[order]
        assert self._cache is not None
        self._cache.leave(order)


class OpenRowCache(RowCache):
    """A `RowCache` that rows join and leave. The rows in use are the first of its buffers."""

    def join(self, lengths_N: Tensor, capacity: int) -> None:
        """Rows of these lengths come behind the last, to be prefilled next; the longest will need
        `capacity` tokens."""
        self.lengths = torch.cat([self.lengths, lengths_N])
        self.capacity = max(self.capacity, capacity)
        rows, tokens = self.buffers[0][0].shape[0], self.buffers[0][0].shape[2]
        more = (max(0, len(self.lengths) - rows), self.capacity - tokens)
        if any(more):
            self.extend(*more)

    def leave(self, order: list[int]) -> None:
        """Row `order[i]` becomes row i; the others are forgotten. What moves, moves forward."""
        moved = [(to, row) for to, row in enumerate(order) if to != row]
        if moved:
            targets, sources = (list(side) for side in zip(*moved, strict=True))
            width = int(self.lengths.max())
            for keys, values in self.buffers:
                keys[targets, :, :width] = keys[sources, :, :width]
                values[targets, :, :width] = values[sources, :, :width]
        self.lengths = self.lengths[order]
