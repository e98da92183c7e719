"""Sampling with vLLM servers on other GPUs (`sdar serve-policy`, or `vllm serve` with the same
options): token ids in and out over HTTP, weights through files that both sides see.

Tokens stream in as the servers sample them; a step here takes the next token of every response, so
that a rollout does not depend on how fast a server is.
"""

import contextlib
import queue
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from sdar.config.rollout import VllmConfig
from sdar.errors import SdarError
from sdar.policy.chat import end_token_ids
from sdar.rollout.engines.base import Generation, Key, seed_of
from sdar.rollout.engines.vllm.http import VllmHttp
from sdar.rollout.engines.vllm.probe import Probe, Trusted, tolerance_of
from sdar.rollout.engines.vllm.request_engine import RequestEngine
from sdar.rollout.engines.vllm.weight_files import write_weights


class _Token(NamedTuple):
    id: int
    log_prob: float
    last: bool


class _Response:
    """A response that is being sampled: tokens received, and those of them taken up."""

    def __init__(self, name: int) -> None:
        self.name = name
        self.coming: queue.SimpleQueue[_Token | SdarError] = queue.SimpleQueue()
        self.generation = Generation([], [])


class VllmServers(RequestEngine):
    """Implements `ContinuousEngine`, `RemoteWeights` and `ScoringEngine`; see `VllmEngine`.

    Rank r uses server r modulo their number. `folder` holds the weights during their transfer.
    Raises `SdarError` naming rank and URL when a server fails.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        config: VllmConfig,
        *,
        trusted: Trusted,
        folder: Path,
        longest: int,
        batch: int,
        dtype: str = "float32",
        rank: int = 0,
    ) -> None:
        self.ends = sorted(end_token_ids(model, tokenizer))
        self.rank = rank
        self.folder = folder.resolve()
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._server = VllmHttp(config.servers[rank % len(config.servers)], config.timeout, rank)
        self._leads = rank < len(config.servers)
        self._batch = batch
        self._room = threading.BoundedSemaphore(batch)
        self._live: list[_Response] = []
        self._probe = Probe(
            trusted,
            tokenizer=tokenizer,
            longest=longest,
            tolerance=tolerance_of(config.tolerance, dtype),
            rank=rank,
            engine=f"the vLLM server {self._server.url}",
        )
        self._server.wait_until_ready()
        with self._understood():
            self._name = self._server.get("/v1/models")["data"][0]["id"]

    def _step(self) -> list[tuple[int, Generation]]:
        ended = []
        for response in self._live:
            token = response.coming.get()
            if isinstance(token, SdarError):
                raise token
            response.generation.token_ids.append(token.id)
            response.generation.log_probs.append(token.log_prob)
            if token.last:
                ended.append(response)
        self._live = [response for response in self._live if response not in ended]
        return [(response.name, response.generation) for response in ended]

    def _ask(
        self, name: int, ids: list[int], key: Key, max_new_tokens: int, temperature: float
    ) -> None:
        body = {
            "model": self._name,
            "prompt": ids,
            "max_tokens": max_new_tokens,
            "temperature": temperature,
            "seed": None if temperature == 0.0 else seed_of(key),
            "stop_token_ids": self.ends,
            "logprobs": 0,
            "return_token_ids": True,
        }
        response = _Response(name)
        self._live.append(response)
        threading.Thread(target=self._receive, args=(body, response), daemon=True).start()

    def _receive(self, body: dict[str, Any], response: _Response) -> None:
        """In one thread per response: put its tokens into `coming`, or what went wrong."""
        try:
            with self._room, self._understood():
                held: _Token | None = None  # until it is known whether it is the last
                for event in self._server.stream("/v1/completions", body):
                    for choice in event["choices"]:
                        ids = choice.get("token_ids") or []
                        log_probs = choice["logprobs"]["token_logprobs"] if ids else []
                        for token, log_prob in zip(ids, log_probs, strict=True):
                            if held is not None:
                                response.coming.put(held)
                            held = _Token(token, log_prob, False)
                if held is None:
                    raise SdarError(f"vLLM server {self._server.url}: a response without tokens")
                response.coming.put(held._replace(last=True))
        except SdarError as error:
            response.coming.put(error)

    @contextlib.contextmanager
    def _understood(self) -> Iterator[None]:
        """An answer of another shape is an error that names the server."""
        try:
            yield
        except SdarError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {str(error)[:200]}"
            raise SdarError(
                f"rank {self.rank}: vLLM server {self._server.url}: its answer is not "
                f"understood ({reason}): start it with `sdar serve-policy`"
            ) from error

    def score(
        self, prompt_ids: list[list[int]], response_ids: list[list[int]]
    ) -> list[list[float]]:
        """See `ScoringEngine.score`."""

        def ask(prompt: list[int], response: list[int]) -> list[float]:
            body = {
                "model": self._name,
                "prompt": prompt + response,
                "max_tokens": 1,
                "temperature": 0.0,
                "prompt_logprobs": 0,
            }
            with self._understood():
                answer = self._server.post("/v1/completions", body)
                entries = answer["choices"][0]["prompt_logprobs"][-len(response) :]
                pairs = zip(entries, response, strict=True)
                return [entry[str(token)]["logprob"] for entry, token in pairs]

        with ThreadPoolExecutor(self._batch) as threads:
            return list(threads.map(ask, prompt_ids, response_ids))

    def take_weights(self, named: Iterable[tuple[str, Tensor]], step: int) -> None:
        """See `RemoteWeights.take_weights`. All ranks call it; rank 0 writes the files, the first
        rank of each server has it read them, and every rank checks its server."""
        if self._live:
            raise SdarError(
                f"rank {self.rank}: new weights came while responses were being generated; take "
                "them between rollouts"
            )

        def hand_over() -> None:
            if self.rank == 0:
                try:
                    write_weights(named, self.folder, self._dtype)
                except OSError as error:
                    raise SdarError(
                        f"{self.folder}: weights cannot be written ({error})"
                    ) from error
            else:
                for _ in named:  # gathering a sharded tensor takes all ranks
                    pass

        def take_up() -> None:
            if self._leads:
                call = {"method": "sdar_take_weights", "args": [str(self.folder)]}
                self._server.post("/collective_rpc", call)
                self._forget()

        def clear_up() -> None:
            # The probe's keys and values in the cache would change the rollout's rounding.
            if self._leads:
                self._forget()
            if self.rank == 0:
                shutil.rmtree(self.folder, ignore_errors=True)

        def verify() -> None:
            self._probe.verify(self._generate, step)

        for action in (hand_over, take_up, verify, clear_up):
            _on_all_ranks(action)

    def _forget(self) -> None:
        self._server.post("/reset_prefix_cache")

    def sleep(self) -> None:
        """Does nothing: the servers' GPUs are their own."""

    def wake(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing: it holds nothing."""


def _on_all_ranks(action: Callable[[], None]) -> None:
    """Do this rank's part; when it failed on any rank, raise that `SdarError` on all."""
    failed = None
    try:
        action()
    except SdarError as error:
        failed = str(error)
    if dist.is_initialized() and dist.get_world_size() > 1:
        failures: list[str | None] = [None] * dist.get_world_size()
        dist.all_gather_object(failures, failed)
        failed = next(filter(None, failures), None)
    if failed:
        raise SdarError(failed)
