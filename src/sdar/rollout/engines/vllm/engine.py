"""Sampling with vLLM in this process: one engine per rank.

It starts with random weights and takes the trainer's, each time with a check (`probe`). It takes
and returns token ids, never text. On a GPU it sleeps while the trainer computes.
"""

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sdar.config.rollout import VllmConfig
from sdar.errors import SdarError
from sdar.policy.chat import end_token_ids
from sdar.rollout.engines.base import Generation, Key, seed_of
from sdar.rollout.engines.vllm.probe import Probe, Trusted, tolerance_of
from sdar.rollout.engines.vllm.request_engine import RequestEngine
from sdar.rollout.engines.vllm.start import import_vllm, start_engine
from sdar.rollout.engines.vllm.watchdog import Watchdog


class VllmEngine(RequestEngine):
    """Implements `ContinuousEngine`, `RemoteWeights` and `ScoringEngine`.

    `model` and `tokenizer` give the architecture and the tokens that end a response; the weights
    come with `take_weights`, and `trusted` are the trainer's scores for the check after it.
    `longest` is the most tokens of a prompt with its response, `batch` the most responses in one
    step; beyond it, or the engine's memory, requests wait in their order. Raises `SdarError` when
    vLLM is not installed or cannot start.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        config: VllmConfig,
        *,
        trusted: Trusted,
        longest: int,
        batch: int,
        dtype: str = "float32",
        rank: int = 0,
        trust_remote_code: bool = False,
    ) -> None:
        self.config = config
        self.rank = rank
        self.ends = sorted(end_token_ids(model, tokenizer))
        self._probe = Probe(
            trusted,
            tokenizer=tokenizer,
            longest=longest,
            tolerance=tolerance_of(config.tolerance, dtype),
            rank=rank,
            engine="vLLM in process",
        )
        self._asked = 0
        self._names: dict[str, tuple[int, int]] = {}
        self._asleep = False
        self._may_sleep = config.sleep and torch.cuda.is_available()
        self._own_group = not dist.is_initialized()
        self._vllm = import_vllm()
        with self._limit("starting the engine"):
            self._engine = start_engine(
                model,
                config,
                tokens=longest + 1,  # a token follows a scored response
                batch=batch,
                dtype=dtype,
                rank=rank,
                trust_remote_code=trust_remote_code,
            )

    def _ask(
        self, name: int, ids: list[int], key: Key, max_new_tokens: int, temperature: float
    ) -> None:
        self.wake()
        parameters = self._vllm.SamplingParams(
            temperature=temperature,
            max_tokens=max_new_tokens,
            stop_token_ids=self.ends,
            seed=None if temperature == 0.0 else seed_of(key),
            logprobs=0,
            detokenize=False,
            output_kind=self._final_only(),
        )
        request = str(self._asked)
        self._names[request] = (self._asked, name)
        self._asked += 1
        self._engine.add_request(request, _tokens(ids), parameters)

    def _step(self) -> list[tuple[int, Generation]]:
        ended = []
        for output in self._engine.step():
            if output.finished:
                order, name = self._names.pop(output.request_id)
                completion = output.outputs[0]
                ids = list(completion.token_ids)
                chosen = zip(completion.logprobs, ids, strict=True)
                log_probs = [each[token].logprob for each, token in chosen]
                ended.append((order, name, Generation(ids, log_probs)))
        return [(name, generation) for _, name, generation in sorted(ended, key=lambda e: e[0])]

    def score(
        self, prompt_ids: list[list[int]], response_ids: list[list[int]]
    ) -> list[list[float]]:
        """See `ScoringEngine.score`. Equal beginnings of prompts are computed once."""
        self.wake()
        with self._limit(f"scoring {len(prompt_ids)} responses"):
            scores = self._score(dict(enumerate(zip(prompt_ids, response_ids, strict=True))))
        return [scores[row] for row in range(len(prompt_ids))]

    def _score(
        self, rows: dict[int, tuple[list[int], list[int]]], share: bool = True
    ) -> dict[int, list[float]]:
        parameters = self._vllm.SamplingParams(
            temperature=0.0,
            max_tokens=1,
            prompt_logprobs=0,
            detokenize=False,
            skip_reading_prefix_cache=not share,
            output_kind=self._final_only(),
        )
        for row, (prompt, response) in rows.items():
            self._engine.add_request(f"score {row}", _tokens(prompt + response), parameters)
        scores, again = {}, {}
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                row = int(output.request_id.removeprefix("score "))
                prompt, response = rows[row]
                # Tokens taken from the cache have no log-probs: here some of the response.
                if (output.num_cached_tokens or 0) >= len(prompt):
                    again[row] = rows[row]
                    continue
                entries = output.prompt_logprobs[-len(response) :]
                pairs = zip(entries, response, strict=True)
                scores[row] = [entry[token].logprob for entry, token in pairs]
        return scores | (self._score(again, share=False) if again else {})

    def take_weights(self, named: Iterable[tuple[str, Tensor]], step: int) -> None:
        """See `RemoteWeights.take_weights`. Raises `SdarError` when what the engine computes with
        them is not what the trainer computes."""
        self.wake()
        with self._limit(f"taking the weights of step {step}"):
            weights = ((name, tensor.detach()) for name, tensor in named)
            self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
            self._forget()
            self._probe.verify(self._generate, step)
            # The probe's keys and values in the cache would change the rollout's rounding.
            self._forget()

    def _forget(self) -> None:
        if not self._engine.reset_prefix_cache():
            raise SdarError(
                f"rank {self.rank}: new weights came while responses were being generated; take "
                "them between rollouts"
            )

    def sleep(self) -> None:
        """See `RemoteWeights.sleep`: weights go to the host's memory, the cache is dropped."""
        if self._may_sleep and not self._asleep:
            with self._limit("going to sleep"):
                self._engine.sleep(level=1)
            self._asleep = True

    def wake(self) -> None:
        """See `RemoteWeights.wake`; every use of the engine calls it.

        vLLM takes its memory from the driver, not from torch's allocator: what that has kept of the
        update for later goes back first, else there is none left.
        """
        if self._asleep:
            gc.collect()  # what only cycles hold is not free
            torch.cuda.empty_cache()
            with self._limit("waking up"):
                self._engine.wake_up()
            self._asleep = False

    def close(self) -> None:
        """End the engine and give back its memory; then another may be opened."""
        with nullcontext() if self._own_group else _kept_group():
            self._engine.engine_core.shutdown()
        del self._engine

    def _final_only(self) -> Any:
        from vllm.sampling_params import RequestOutputKind

        return RequestOutputKind.FINAL_ONLY

    def _limit(self, what: str) -> Watchdog:
        return Watchdog(self.config.timeout, f"rank {self.rank}: {what} with vLLM")


@contextmanager
def _kept_group() -> Iterator[None]:
    """The ranks' group outlives an engine, whose shutdown would end it."""
    usual = dist.destroy_process_group

    def but_for_all(group: Any = None) -> None:
        if group is not None:
            usual(group)

    dist.destroy_process_group = but_for_all
    try:
        yield
    finally:
        dist.destroy_process_group = usual


def _tokens(ids: list[int]) -> dict[str, Any]:
    return {"type": "token", "prompt_token_ids": ids}
