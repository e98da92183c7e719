"""Decoding with the model's own forward and its own kind of cache, whatever the family.

A recurrent layer has a state and no keys, a layer with a window forgets: only the model's code
knows what must be kept. Responses that are prefilled together stay together, padded on the left
with a mask, until the last of them ends.

Shape suffixes: B rows (responses), T tokens, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sdar.policy.paths import takes

CACHE_NAMES = ("past_key_values", "cache_params", "state")
"""What the output of a forward calls its cache; the next forward takes it by the same name."""


class OwnCaches:
    """Responses in the order in which they came, each with its share of a cache.

    `together`: whether prompts of one prefill share a cache, or each has its own. Without `caching`
    nothing is kept, and every step computes the whole sequence again.
    """

    def __init__(self, model: Any, *, together: bool, caching: bool) -> None:
        self.model = model
        self.together = together
        self.caching = caching
        self._rows: list[tuple[_Bunch, int]] = []

    def prefill(self, blocks: Sequence[Sequence[Sequence[int]]]) -> Tensor:
        """Logits `[N, V]` after each prompt. These rows come behind those that are there."""
        logits = []
        for block in blocks:
            parts = [block] if self.together else [[prompt] for prompt in block]
            for prompts in parts:
                bunch = _Bunch(self.model, prompts, self.caching)
                logits.append(bunch.forward())
                self._rows += [(bunch, place) for place in range(len(prompts))]
        return torch.cat(logits)

    def decode(self, chosen_B: Tensor) -> Tensor:
        """Append a token to each row; logits `[B, V]` that predict the next ones."""
        tokens: dict[_Bunch, dict[int, Tensor]] = {}
        for (bunch, place), token in zip(self._rows, chosen_B, strict=True):
            tokens.setdefault(bunch, {})[place] = token
        logits = {}
        for bunch, given in tokens.items():
            bunch.append(given)
            logits[bunch] = bunch.forward()
        return torch.stack([logits[bunch][place] for bunch, place in self._rows])

    def keep(self, rows: Sequence[int] | Tensor) -> None:
        """Row `rows[i]` becomes row i; the others are forgotten."""
        self._rows = [self._rows[int(row)] for row in rows]

    leave = keep

    def join(self, lengths_N: Tensor, capacity: int) -> None:
        """Rows come next: nothing to prepare."""


class _Bunch:
    """Prompts of one prefill. A row that has ended goes on with masked tokens that nobody reads."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], caching: bool) -> None:
        self.model = model
        self.caching = caching
        width = max(map(len, prompts))
        filler = prompts[0][0]
        padded = [[filler] * (width - len(ids)) + list(ids) for ids in prompts]
        mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts]
        self.ids_BT = torch.tensor(padded, device=model.device)
        self.mask_BT = torch.tensor(mask, device=model.device)
        self.masked = bool((self.mask_BT == 0).any())
        self.cache: dict[str, Any] = {}

    def append(self, tokens: dict[int, Tensor]) -> None:
        """The next tokens of the rows that go on, by place."""
        new_B, real_B = self.ids_BT[:, -1].clone(), torch.zeros_like(self.mask_BT[:, -1])
        for place, token in tokens.items():
            new_B[place], real_B[place] = token, 1
        self.ids_BT = torch.cat([self.ids_BT, new_B[:, None]], dim=1)
        self.mask_BT = torch.cat([self.mask_BT, real_B[:, None]], dim=1)

    def forward(self) -> Tensor:
        """Logits `[B, V]` after the last tokens."""
        options: dict[str, Any] = {"use_cache": self.caching, **self.cache}
        ids_BN = self.ids_BT[:, -1:] if self.cache else self.ids_BT
        if self.masked:
            options["attention_mask"] = self.mask_BT
            if takes(self.model, "position_ids"):
                positions_BT = (self.mask_BT.cumsum(dim=1) - 1).clamp(min=0)
                options["position_ids"] = positions_BT[:, -ids_BN.shape[1] :]
        if takes(self.model, "logits_to_keep"):
            options["logits_to_keep"] = 1
        output = self.model(input_ids=ids_BN, **options)
        if self.caching:
            self.cache = {
                name: getattr(output, name)
                for name in CACHE_NAMES
                if getattr(output, name, None) is not None
            }
        return output.logits[:, -1]
