"""`sdar serve-policy` and its client: a real vLLM server in processes of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import scripted
import vllm_world
import yaml
from test_vllm_engine import KEYS, assert_same, greedy, sampled

from sdar.config.rollout import VllmConfig
from sdar.errors import SdarError
from sdar.rollout.engines.base import Generation
from sdar.rollout.engines.transformers import TransformersEngine
from sdar.rollout.engines.vllm.servers import VllmServers


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, subprocess.Popen]]:
    """URL and process of a server with other weights than the `policy` fixture's."""
    folder = tmp_path_factory.mktemp("served")
    scripted.policy(seed=1, head=32, spread=2.0).save_pretrained(folder / "policy")
    scripted.tokenizer().save_pretrained(folder / "policy")
    experiment = {
        "policy": {
            "model": str(folder / "policy"),
            "max_prompt_tokens": vllm_world.LONGEST - 40,
            "max_teacher_prompt_tokens": vllm_world.LONGEST - 40,
            "max_response_tokens": 40,
        },
        "warm_start": {"enabled": False},
        "rollout": {"engine": "vllm", "batch": 16},
    }
    (folder / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "sdar.cli", "serve-policy", "-c", "experiment.yaml"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port), "--uvicorn-log-level=warning"],
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 300
        while socket.socket().connect_ex(("127.0.0.1", port)):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the server did not start:\n{(folder / 'log').read_text()[-3000:]}")
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def remote(server: Any, policy: Any, tmp_path_factory: pytest.TempPathFactory) -> VllmServers:
    engine = VllmServers(
        policy,
        scripted.tokenizer(),
        VllmConfig(servers=(server[0],), tolerance=1e-3, timeout=240),
        trusted=vllm_world.trusted(policy),
        folder=tmp_path_factory.mktemp("run") / "weights",
        longest=vllm_world.LONGEST,
        batch=16,
    )
    engine.take_weights(policy.state_dict().items(), 0)
    assert not engine.folder.exists()
    return engine


def test_a_server_answers_as_the_transformers_engine(remote: Any, policy: Any) -> None:
    prompts = vllm_world.prompts(24)
    both = TransformersEngine(policy, scripted.tokenizer())
    assert_same(greedy(remote, prompts), greedy(both, prompts))


def test_a_servers_response_depends_on_its_prompt_and_key_alone(
    remote: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = vllm_world.prompts(24)
    together = sampled(remote, prompts)
    assert_same(sampled(remote, prompts[::-1], KEYS[::-1])[::-1], together)
    end = together[0].token_ids[5]
    monkeypatch.setattr(remote, "ends", [end])
    stopped = sampled(remote, prompts[:1])
    place = together[0].token_ids.index(end) + 1
    assert stopped[0].token_ids == together[0].token_ids[:place]


def test_steps_of_a_server_take_a_token_of_each(remote: Any) -> None:
    prompts = vllm_world.prompts(6)
    wanted = sampled(remote, prompts)
    found: dict[int, Generation] = {}
    steps = 0
    while len(found) < 6:
        if steps < 6:
            remote.submit(steps, prompts[steps], KEYS[steps], max_new_tokens=24, temperature=0.8)
        found |= dict(remote.advance())
        steps += 1
    assert_same([found[name] for name in range(6)], wanted)
    assert steps == max(name + len(wanted[name].token_ids) for name in range(6))


def test_a_servers_scores_are_the_trainers(remote: Any, policy: Any) -> None:
    prompts = vllm_world.prompts(12)
    responses = [g.token_ids for g in sampled(remote, prompts)]
    wanted_SR = vllm_world.trusted(policy)(prompts, responses)
    for row, scores in enumerate(remote.score(prompts, responses)):
        wanted = wanted_SR[row, : len(responses[row])].tolist()
        assert scores == pytest.approx(wanted, abs=1e-3)


def test_a_server_with_wrong_weights_is_caught(remote: Any, policy: Any) -> None:
    kept = {name: value.clone() for name, value in policy.state_dict().items()}
    policy.load_state_dict(scripted.policy(seed=2, head=32, spread=2.0).state_dict())
    try:
        state = policy.state_dict()
        without_head = [item for item in state.items() if item[0] != "lm_head.weight"]
        with pytest.raises(SdarError, match=r"step 7: .*127\.0\.0\.1.*rollout\.vllm\.tolerance"):
            remote.take_weights(without_head, 7)
        remote.take_weights(state.items(), 8)
    finally:
        policy.load_state_dict(kept)
        remote.take_weights(policy.state_dict().items(), 9)


def test_a_dead_server_ends_the_rollout_with_its_url(remote: Any, server: Any) -> None:
    url, process = server
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)
    start = time.monotonic()
    with pytest.raises(SdarError, match=f"vLLM server {url} .*no connection"):
        greedy(remote, vllm_world.prompts(2))
    with pytest.raises(SdarError, match=f"vLLM server {url} .*no connection"):
        remote.score([[5, 6]], [[7]])
    assert time.monotonic() - start < 30
