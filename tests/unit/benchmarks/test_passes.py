"""`sdar bench passes` in its pure parts: ratios of timings, verdicts, the processes' protocol."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import bench_check
import pytest
import step_protocol
from passes_ratios import alternate, compare, ratio, spread
from passes_steps import (
    PAIRS,
    PLAIN,
    QUARTER,
    SDAR,
    Contender,
    missing_key,
    trl_work,
    with_changes,
)
from passes_world import differing
from pydantic import BaseModel
from step_protocol import ServerError, StepServer, Timing, python_with

from sdar.config import ExperimentConfig, parse_config


def test_pieces_alternate_and_their_order_turns_round() -> None:
    asked: list[str] = []

    def piece(name: str, seconds: float) -> Timing:
        asked.append(name)
        return Timing(seconds * len(asked), seconds)

    pairs = alternate(lambda: piece("A", 2.0), lambda: piece("B", 1.0), 3)
    assert "".join(asked) == "AB" + "AB" + "BA" + "AB"  # the first round warms up
    # Whatever was asked first, a pair has the first piece first.
    assert [(one.cpu, other.cpu) for one, other in pairs] == [(2.0, 1.0)] * 3


def test_a_ratio_is_of_each_round_and_of_a_unit_of_work() -> None:
    slow, quick = Timing(8.0, 4.0, work=2.0), Timing(2.0, 1.0)
    found = ratio([(slow, quick), (Timing(3.0, 1.0), quick), (Timing(20.0, 2.0), quick)])
    assert found.wall == {"min": 1.5, "median": 2.0, "max": 10.0}
    assert found.cpu == {"min": 1.0, "median": 2.0, "max": 2.0}
    assert found.details is not None
    assert found.details["first_seconds"] == {"wall": 8.0, "cpu": 2.0}
    assert ratio([(Timing(1.0, 0.0), quick)]).cpu is None  # nobody counted the processor's


def test_a_spread_of_one_value_is_that_value() -> None:
    assert spread([0.25]) == {"min": 0.25, "median": 0.25, "max": 0.25}


def run(name: str, **medians: float | None) -> dict[str, Any]:
    ratios = {key: value and spread([value]) for key, value in medians.items()}
    machine = {"name": name}
    return {
        "bench": "passes",
        "machine": machine,
        "commit": "1a2b3c4",
        "small": False,
        "ratios": ratios,
        "cpu_ratios": {},
        "check": {"fast": {"better": "higher", "tolerance": 0.1}, "slow": {"tolerance": 0.5}},
    }


@pytest.mark.parametrize(
    ("name", "was", "now", "worse"),
    [
        ("other", 1.0, 1.09, False),
        ("other", 1.0, 1.11, True),  # without a rule: less is better, a tenth may be
        ("other", 1.0, 0.5, False),
        ("slow", 1.0, 1.4, False),
        ("slow", 1.0, 1.6, True),
        ("fast", 3.0, 2.8, False),
        ("fast", 3.0, 2.6, True),
        ("fast", 3.0, 9.0, False),
    ],
)
def test_worse_is_what_the_stored_file_says(name: str, was: float, now: float, worse: bool) -> None:
    (verdict,) = compare(run("here", **{name: was}), run("here", **{name: now}))
    assert verdict.worse is worse
    assert ("WORSE" in verdict.sentence) is worse


def test_a_ratio_that_is_missing_is_said_and_no_worse() -> None:
    new = run("here", other=None) | {"reasons": {"other": "no TRL here"}}
    verdicts = compare(run("here", other=1.0, never=None), new)
    assert [verdict.sentence for verdict in verdicts] == ["other: not compared: no TRL here"]
    assert not verdicts[0].worse


def test_the_processor_decides_where_both_runs_counted_it() -> None:
    stored, new = run("here", other=1.0), run("here", other=2.0)
    assert compare(stored, new)[0].worse
    for each in (stored, new):
        each["cpu_ratios"] = {"other": spread([1.0])}
    assert not compare(stored, new)[0].worse


def test_bench_check_takes_this_machines_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_check, "RESULTS", tmp_path)
    files = {"passes-A": run("A", slow=1.0), "passes-B": run("B", slow=9.0), "growth-A": {}}
    for name, values in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(values), encoding="utf-8")
    new = tmp_path / "new.json"

    def outcome(values: dict[str, Any]) -> object:
        new.write_text(json.dumps(values), encoding="utf-8")
        monkeypatch.setattr(sys, "argv", ["bench_check.py", str(new)])
        with pytest.raises(SystemExit) as ended:
            bench_check.main()
        return ended.value.code

    assert outcome(run("A", slow=2.0)) == 1
    said = capsys.readouterr().out
    assert "passes-A.json" in said
    assert "passes-B.json" not in said
    assert outcome(run("B", slow=2.0)) == 0
    assert outcome(run("C", slow=2.0)) == 1  # a machine without a file: beside all
    assert outcome(run("A", slow=2.0) | {"small": True}) == 2
    assert "--small" in capsys.readouterr().err
    assert outcome({"bench": "growth"}) == 2


ANSWERS = (
    "import sys\n"
    "from step_protocol import private_output, serve\n"
    "def do(word):\n"
    "    print('something said on the way')\n"
    "    if word == 'bad': raise ValueError('no such thing')\n"
    "    if word == 'die': raise SystemExit('out of memory')\n"
    "    return {'wall': 2.0, 'cpu': 1.0, 'tokens': len(word)}\n"
    "with private_output() as answers: serve(do, sys.stdin, answers)\n"
)


def server(code: str = ANSWERS, patience: float = 60) -> StepServer:
    environment = python_with(Path(step_protocol.__file__).parent)
    return StepServer("child", [sys.executable, "-c", code], environment, patience)


def test_a_line_is_answered_with_seconds() -> None:
    child = server()
    assert child.time("step") == Timing(2.0, 1.0)
    assert child.time("step", per="tokens") == Timing(2.0, 1.0, 4.0)
    with pytest.raises(ServerError, match="child: ValueError: no such thing"):
        child.ask("bad")
    assert child.ask("again")["tokens"] == 5  # an error ends nothing
    with pytest.raises(ServerError, match="child: ended at `die`: out of memory"):
        child.ask("die")
    with pytest.raises(ServerError, match="ended at `step`"):
        child.ask("step")
    child.close()


def test_a_process_that_says_nothing_is_ended() -> None:
    child = server("import time; time.sleep(600)", patience=0.2)
    with pytest.raises(ServerError, match="child: ended at `step`"):
        child.ask("step")
    child.close()
    assert child._process.returncode is not None


def test_a_server_ends_with_its_input() -> None:
    environment = python_with(Path(step_protocol.__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", ANSWERS], input="one\nthree\n", capture_output=True,
        encoding="utf-8", env=environment, timeout=60, check=True,
    )  # fmt: skip
    assert [json.loads(line)["tokens"] for line in done.stdout.splitlines()] == [3, 5]
    assert done.stderr.count("something said on the way") == 2


def test_a_switch_that_is_missing_is_named() -> None:
    class Distillation(BaseModel):
        coefficient: float = 0.1

    class Training(BaseModel):
        distillation: Distillation = Distillation()

    class Older(BaseModel):
        training: Training = Training()

    assert missing_key(QUARTER, Older) == "training.distillation.share"
    assert missing_key(PLAIN, Older) == "policy.share_prefixes"
    assert missing_key(SDAR, Older) is None
    known = Contender("known", "sdar", (("training.distillation.coefficient", 0.2),))
    assert missing_key(known, Older) is None
    assert missing_key(known) is None


def test_changes_leave_the_experiments_values_alone() -> None:
    values = {"training": {"steps": 3}}
    changed = with_changes(values, {"training.steps": 4, "policy.dtype": "float32"})
    assert changed == {"training": {"steps": 4}, "policy": {"dtype": "float32"}}
    assert values == {"training": {"steps": 3}}


def test_an_older_commit_is_given_only_what_is_not_the_default(repository: Path) -> None:
    assert differing(ExperimentConfig()) == {"environment": {"name": "alfworld"}}
    config = parse_config({"environment": {"name": "webshop"}, "training": {"minibatch": 32,
        "micro_batch": 16}, "warm_start": {"updates": 7}})  # fmt: skip
    values = differing(config)
    assert values == {
        "environment": {"name": "webshop"},
        "training": {"minibatch": 32, "micro_batch": 16},
    }
    again = parse_config(values)
    assert (again.environment, again.training) == (config.environment, config.training)


@pytest.mark.parametrize("samples", [1, 24, 300, 604, 640])
@pytest.mark.parametrize(("minibatch", "micro", "group"), [(256, 64, 8), (16, 8, 2), (32, 10, 4)])
def test_trl_makes_about_our_step(samples: int, minibatch: int, micro: int, group: int) -> None:
    work = trl_work(samples, minibatch, micro, group)
    made = work.optimizer_steps * work.accumulate * work.micro_batch
    assert work.optimizer_steps == -(-samples // minibatch)  # as many as ours
    assert work.micro_batch % group == 0
    assert work.prompts * group == made
    assert abs(made - samples) <= work.optimizer_steps * work.micro_batch


def test_every_pair_takes_work_that_a_process_knows() -> None:
    words = {word for pair in PAIRS.values() for _, word in (pair.first, pair.second)}
    assert words <= {"step", "old", "teacher", "reference", "update", "rollout", "generate"}
