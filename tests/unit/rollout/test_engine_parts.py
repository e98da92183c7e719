"""What engines outside the trainer's own model are made of; vLLM itself: tests/vllm."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import scripted
import torch

from sdar.config import parse_config
from sdar.errors import SdarError
from sdar.rollout.engines.base import Generation, seed_of
from sdar.rollout.engines.opening import local_scores, open_engine
from sdar.rollout.engines.transformers import TransformersEngine
from sdar.rollout.engines.vllm import http as vllm_http
from sdar.rollout.engines.vllm.engine import VllmEngine
from sdar.rollout.engines.vllm.http import VllmHttp
from sdar.rollout.engines.vllm.probe import Probe, difference, first_prompts, tolerance_of
from sdar.rollout.engines.vllm.watchdog import STUCK_EXIT_CODE, Watchdog
from sdar.rollout.engines.vllm.weight_files import read_weights, write_weights


def test_seeds_are_spread_and_fit_63_bits():
    keys = [(s, t, i, k) for s in range(4) for t in range(-8, 8) for i in range(16) for k in (0, 1)]
    seeds = [seed_of(key) for key in keys]
    assert len(set(seeds)) == len(keys)
    assert all(0 <= seed < 1 << 63 for seed in seeds)
    bits = np.array([[seed >> bit & 1 for bit in range(63)] for seed in seeds])
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 5 * 0.5 / len(keys) ** 0.5


def probe(model: Any, **changed: Any) -> Probe:
    values = {"tokenizer": scripted.tokenizer(), "longest": 64, "tolerance": 1e-3, "rank": 2}
    return Probe(local_scores(model), **(values | changed), engine="an engine")


def sampler(model: Any) -> Any:
    engine = TransformersEngine(model, scripted.tokenizer())
    return lambda prompts, keys, tokens, temperature: engine.generate(
        prompts, keys, max_new_tokens=tokens, temperature=temperature
    )


def test_the_probe_passes_the_same_weights_and_no_others():
    model = scripted.policy()
    probe(model).verify(sampler(model), 3)
    near = scripted.policy()
    with torch.no_grad():
        near.model.layers[0].mlp.down_proj.weight.mul_(1.5)
    message = r"rank 2, step 3: .*an engine differ.*rollout\.vllm\.tolerance \(0\.001\)"
    with pytest.raises(SdarError, match=message):
        probe(model).verify(sampler(near), 3)
    probe(model, tolerance=100.0).verify(sampler(near), 3)


def test_the_probe_takes_what_is_no_number_for_wrong():
    generations = [Generation([1, 2], [-1.0, float("nan")])]
    model = scripted.policy()
    with pytest.raises(SdarError, match="nan"):
        probe(model, tolerance=100.0).verify(lambda *_: generations * 4, 0)


def test_the_probe_asks_the_first_rollouts_prompts_once_it_knows_them():
    model, asked = scripted.policy(), []
    inner = sampler(model)

    def sample(prompts: Any, *rest: Any) -> Any:
        asked.append(prompts)
        return inner(prompts, *rest)

    checked = probe(model)
    checked.verify(sample, 0)
    checked.remember([[5, 6], [5, 6], [7, 8], [9, 10, 11], [12, 13], [14, 15]])
    checked.remember([[16, 17]])
    checked.verify(sample, 1)
    assert asked == [
        first_prompts(scripted.tokenizer(), 48),
        [[5, 6], [7, 8], [9, 10, 11], [12, 13]],
    ]


def test_the_first_prompts_are_text_cut_to_the_limit():
    tokenizer = scripted.tokenizer()
    prompts = first_prompts(tokenizer, 20)
    assert [len(ids) for ids in prompts] == [20] * 4
    assert tokenizer.decode(prompts[0]).startswith("You are in the")
    assert len({tuple(ids) for ids in prompts}) == 4
    assert {len(ids) for ids in first_prompts(tokenizer, 0)} == {1}


@pytest.mark.parametrize(
    ("given", "dtype", "taken"),
    [(None, "float32", 0.05), (None, "bfloat16", 0.15), (0.01, "bfloat16", 0.01)],
)
def test_the_tolerance_is_that_of_the_type_unless_it_is_given(given, dtype, taken):
    vllm = {} if given is None else {"tolerance": given}
    config = parse_config({"rollout": {"engine": "vllm", "vllm": vllm}})
    assert tolerance_of(config.rollout.vllm.tolerance, dtype) == taken


def test_vllm_wakes_when_the_allocator_has_given_back_what_it_kept(monkeypatch):
    calls: list[str] = []

    class Asleep:
        def wake_up(self) -> None:
            calls.append("wake_up")

        def sleep(self, level: int) -> None:
            calls.append(f"sleep {level}")

    engine = VllmEngine.__new__(VllmEngine)
    engine.config, engine.rank = parse_config({}).rollout.vllm, 0
    engine._engine, engine._asleep, engine._may_sleep = Asleep(), False, True
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("empty_cache"))
    engine.wake()
    assert calls == [], "awake already"
    engine.sleep()
    engine.wake()
    engine.wake()
    assert calls == ["sleep 1", "empty_cache", "wake_up"]


def test_difference_is_over_tokens_not_samples():
    generations = [Generation([1], [-1.0]), Generation([1, 2, 3], [-1.0, -2.0, -3.0])]
    trusted_SR = torch.tensor([[-1.0, 0.0, 0.0], [-1.0, -2.0, -3.8]])
    assert difference(generations, trusted_SR) == pytest.approx((0.2, 0.0, 0.8))


def test_weights_go_through_files_with_their_ties(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    state = scripted.policy().state_dict()
    monkeypatch.setattr("sdar.rollout.engines.vllm.weight_files.SHARD_BYTES", 20_000)
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "weights-99999.safetensors").write_text("of the step before")
    write_weights(state.items(), tmp_path / "w", torch.float32)
    assert len(list((tmp_path / "w").iterdir())) > 1
    read = dict(read_weights(tmp_path / "w"))
    assert set(read) == set(state)
    assert "lm_head.weight" in read
    assert all(torch.equal(read[name], state[name]) for name in state)
    write_weights(state.items(), tmp_path / "w", torch.bfloat16)
    assert {value.dtype for _, value in read_weights(tmp_path / "w")} == {torch.bfloat16}
    with pytest.raises(FileNotFoundError, match="no weights"):
        next(read_weights(tmp_path / "nothing"))


def test_a_slow_call_ends_with_its_name_and_the_stacks(capfd: pytest.CaptureFixture[str]):
    def wait() -> None:
        with Watchdog(0.1, "rank 3: waiting"):
            for _ in range(1000):
                time.sleep(0.01)

    with pytest.raises(SdarError, match=r"^rank 3: waiting took more than .* \(0\.1 s\)"):
        wait()
    assert "test_a_slow_call" in capfd.readouterr().err
    with Watchdog(0.1, "rank 3: working"):
        pass
    time.sleep(0.2)  # nothing comes later


def test_a_call_stuck_in_c_ends_its_process():
    script = (
        "import threading\n"
        "from sdar.rollout.engines.vllm.watchdog import Watchdog\n"
        "lock = threading.Lock(); lock.acquire()\n"
        "with Watchdog(0.1, 'rank 1: generating', grace=0.2):\n"
        "    lock.acquire()\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == STUCK_EXIT_CODE
    assert "rank 1: generating took more than rollout.vllm.timeout (0.1 s)" in done.stderr


class Handler(BaseHTTPRequestHandler):
    """Answers the statuses in `plan`, then 200; /slow never answers, /cut breaks off."""

    plan: ClassVar[list[int]] = []

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/slow":
            time.sleep(2)
        status = self.plan.pop(0) if self.plan else 200
        self.send_response(status)
        self.end_headers()
        if self.path == "/cut":
            self.wfile.write(b'data: {"choices": [1]}\n\n')
        else:
            with suppress(BrokenPipeError):  # the client of /slow is gone
                self.wfile.write(json.dumps({"said": status}).encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Handler.plan = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as opened:
        threading.Thread(target=opened.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{opened.server_address[1]}"
        opened.shutdown()


def test_a_busy_server_is_asked_again_and_a_refusing_one_is_not(
    server: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(vllm_http, "PAUSES", (0.0, 0.0))
    client = VllmHttp(server, 5.0, rank=1)
    Handler.plan = [503, 429]
    assert client.post("/x") == {"said": 200}
    Handler.plan = [503, 503, 503]
    with pytest.raises(SdarError, match=f"rank 1: vLLM server {server} .*status 503"):
        client.post("/x")
    Handler.plan = [404]
    with pytest.raises(SdarError, match=r"status 404.*sdar serve-policy"):
        client.post("/x")
    assert Handler.plan == []


def test_a_server_that_hangs_breaks_off_or_is_not_there_is_named(
    server: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(vllm_http, "PAUSES", (0.0,))
    client = VllmHttp(server, 0.3, rank=0)
    with pytest.raises(SdarError, match=rf"{server} .*no answer within rollout\.vllm\.timeout"):
        client.post("/slow")
    events = client.stream("/cut", {})
    assert next(events) == {"choices": [1]}
    with pytest.raises(SdarError, match=f"{server} .*stopped in the middle"):
        next(events)
    gone = VllmHttp("http://127.0.0.1:9", 0.3, rank=0)
    with pytest.raises(SdarError, match=r"127\.0\.0\.1:9 .*no connection"):
        gone.post("/x")
    with pytest.raises(SdarError, match="no answer to /health"):
        gone.wait_until_ready()
    with pytest.raises(SdarError, match="is no URL of a server"):
        VllmHttp("gpu-node:8000", 1.0, rank=0)


def test_without_vllm_the_error_names_the_remedy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    config = parse_config({"rollout": {"engine": "vllm"}})
    with pytest.raises(SdarError, match=r"vLLM is not installed.*docs/vllm\.md"):
        open_engine(config, scripted.policy(), scripted.tokenizer())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, "rollout.engine is transformers"),
        ({"rollout": {"engine": "vllm", "temperature": 0.7}}, r"rollout\.temperature \(0\.7\)"),
        ({"rollout": {"engine": "vllm"}, "methods": ["reverse_kl_full"]}, "whole distribution"),
    ],
)
def test_the_engine_scores_only_where_it_can(changed: Any, message: str):
    given = {"training": {"distillation": {"scored_by": "engine"}}} | changed
    with pytest.raises(SdarError, match=message):
        parse_config(given)
