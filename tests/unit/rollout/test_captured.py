"""How steps are captured and replayed, with a recorder in the place of CUDA."""

from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest
import scripted
import torch

from sdar.rollout.engines import static as static_module
from sdar.rollout.engines.captured import WARM_UP, CapturedSteps
from sdar.rollout.engines.transformers_continuous import ContinuousTransformersEngine


class Recorder:
    """Calls of torch.cuda, in order. What is captured is kept and not run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.debug = "default"
        self.capturing = False
        recorder, pools = self, count(1)

        class Stream:
            def __init__(self, name: Any = "side") -> None:
                self.name = name if isinstance(name, str) else "side"

            def wait_stream(self, other: "Stream") -> None:
                recorder.calls.append(f"{self.name} waits for {other.name}")

        @contextmanager
        def stream(given: Stream) -> Any:
            recorder.calls.append(f"on {given.name}")
            yield

        @contextmanager
        def graph(made: Any, pool: Any, stream: Stream, capture_error_mode: str) -> Any:
            assert capture_error_mode == "thread_local"
            recorder.calls.append(f"capture on {stream.name} in {pool}")
            recorder.capturing, recorder.made = True, made
            yield
            recorder.capturing = False

        class Graph:
            work: Any = None

            def replay(self) -> None:
                recorder.calls.append("replay")
                self.work()

        def set_debug(mode: str) -> None:
            recorder.debug = mode

        for name, value in {
            "Stream": Stream,
            "stream": stream,
            "graph": graph,
            "CUDAGraph": Graph,
            "graph_pool_handle": lambda: f"pool {next(pools)}",
            "empty_cache": lambda: recorder.calls.append("empty"),
            "current_stream": lambda device: Stream("usual"),
            "synchronize": lambda device: recorder.calls.append("synchronize"),
            "get_sync_debug_mode": lambda: recorder.debug,
            "set_sync_debug_mode": set_debug,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)

    def recorded(self, work: Any) -> Any:
        """`work` as a step: while a graph is captured it is recorded, else run."""

        def step() -> None:
            if self.capturing:
                self.made.work = work
            else:
                self.calls.append(f"run ({self.debug})")
                work()

        return step


def test_a_step_is_run_twice_then_captured_and_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, done = Recorder(monkeypatch), []
    steps = CapturedSteps(torch.device("cpu"))
    for _ in range(5):
        steps.run(("a", 1), recorder.recorded(lambda: done.append("a")))
    assert WARM_UP == 2
    around = ["side waits for usual", "on side", "run", "usual waits for side"]
    assert recorder.calls == [
        *[call.replace("run", "run (default)") for call in around],
        *[call.replace("run", "run (error)") for call in around],
        "capture on side in pool 1",
        *["replay"] * 3,
    ]
    assert done == ["a"] * 5
    assert recorder.debug == "default"
    steps.run(("b", 1), recorder.recorded(lambda: done.append("b")))
    assert recorder.calls[-2] == "run (default)", "another name is another step"
    recorder.calls.clear()
    steps.close()
    steps.run(("a", 1), recorder.recorded(lambda: done.append("c")))
    assert recorder.calls[:2] == ["synchronize", "empty"]
    assert done[-1] == "c", "what was captured is forgotten"
    for _ in range(2):
        steps.run(("a", 1), recorder.recorded(lambda: done.append("c")))
    assert "capture on side in pool 2" in recorder.calls, "torch refuses a pool whose graphs ended"


def test_a_step_that_waits_for_the_device_is_never_captured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorder = Recorder(monkeypatch)

    def step() -> None:
        if recorder.debug == "error":
            raise RuntimeError("called a synchronizing CUDA operation")

    steps = CapturedSteps(torch.device("cpu"))
    steps.run("a", step)
    with pytest.raises(RuntimeError, match="synchronizing"):
        steps.run("a", step)
    assert recorder.debug == "default"
    assert not any(call.startswith("capture") for call in recorder.calls)


def test_what_is_replayed_gives_the_same_responses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where rows leave, prompts grow beyond the cache, and weights change in between."""
    recorder = Recorder(monkeypatch)
    model = scripted.policy()
    prompts = [scripted.tokenizer()(text)["input_ids"] for text in scripted.TEXTS] * 8
    keys = [(0, 0, slot, 0) for slot in range(len(prompts))]
    options = {"ends": frozenset(range(0, 300, 12)), "path": "static"}
    plain = ContinuousTransformersEngine(model, None, **options)
    captured = ContinuousTransformersEngine(model, None, **options)
    rows = captured._static_rows()

    class Steps(CapturedSteps):
        def run(self, name: Any, step: Any) -> None:
            super().run(name, recorder.recorded(step))

    rows.captured = Steps(torch.device("cpu"))
    monkeypatch.setattr(type(captured), "sleep", lambda self: None)
    for scale in (1.0, 1.02):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(scale)
        for prompt in (prompts, [prompts[0] * 6 + each for each in prompts]):
            wanted = plain.generate(prompt, keys, max_new_tokens=50, temperature=1.0)
            assert captured.generate(prompt, keys, max_new_tokens=50, temperature=1.0) == wanted
    assert captured._static is rows
    assert recorder.calls.count("replay") > 100
    captures = sum(call.startswith("capture") for call in recorder.calls)
    assert 2 < captures < 16, "one for each size of the batch and of the cache"
    assert static_module.LOOK == 8
