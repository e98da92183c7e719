"""Provenance, parameters, data sets and episode records."""

import json
import time
from pathlib import Path

import yaml

from sdar.config import Layout, parse_config
from sdar.config.stages import STAGES
from sdar.environments.base import Moment, Task
from sdar.rollout.episode import Episode, Prompt, Turn
from sdar.tracking import describe, write_provenance
from sdar.tracking.provenance import git_state
from sdar.tracking.traces import episode_record


def test_provenance_says_what_ran_where(tmp_path: Path) -> None:
    config, layout = parse_config({"experiment": "fake"}), Layout(tmp_path, "fake")
    layout.tasks.mkdir(parents=True)
    (layout.tasks / "tasks.jsonl").write_text("{}\n")
    folder = layout.run("sdar", 0)
    before = time.perf_counter()
    write_provenance(folder, config, layout, skills="abc")
    assert time.perf_counter() - before < 2  # half a second where the machine is idle
    record = json.loads((folder / "provenance.json").read_text())
    assert record["skills"] == "abc"
    digest = "ca3d163bab055381827226140568f3bef7eaac187cebd76878e0b63e9e442356"
    assert record["data"] == {"data/fake/tasks/tasks.jsonl": digest}
    assert record["packages"]["pydantic"]
    assert record["hardware"]["cores"] >= 1
    assert yaml.safe_load((folder / "config.yaml").read_text()) == config.model_dump(mode="json")


def test_the_resolved_configuration_is_itself_a_configuration(tmp_path: Path) -> None:
    config = parse_config({"training": {"steps": 3}})
    write_provenance(tmp_path, config, Layout(tmp_path, "fake"))
    assert parse_config(yaml.safe_load((tmp_path / "config.yaml").read_text())) == config


def test_a_second_start_remembers_the_first(tmp_path: Path) -> None:
    config, layout = parse_config({}), Layout(tmp_path, "fake")
    first = write_provenance(tmp_path, config, layout)
    write_provenance(tmp_path, config, layout)
    third = write_provenance(tmp_path, config, layout)
    assert len(third["earlier"]) == 2
    assert third["earlier"][0]["started"] == first["started"]


def test_git_state_names_a_commit(repository: Path) -> None:
    state = git_state()
    if (repository / ".git").exists():
        assert len(state["commit"]) == 40
        assert isinstance(state["dirty"], bool)


def test_each_kind_has_its_parameters() -> None:
    config = parse_config({})
    for kind in STAGES:
        flat = describe.parameters(config, kind)
        assert flat
        assert max(map(len, flat.values())) <= 500
    train = describe.parameters(config, "train")
    assert train["training.distillation.beta"] == "5.0"
    assert train["policy.tiny.layers"] == "3"
    assert not any(key.startswith(("evaluation", "warm_start.d", "cluster")) for key in train)
    assert "training.checkpoint_every" not in train, "changes nothing"
    assert train["training.micro_batch"] == "64"


def test_long_values_are_cut() -> None:
    assert len(describe.flatten({"a": ["word"] * 400})["a"]) == 500


def test_data_sets_have_digest_and_split_sizes(tmp_path: Path) -> None:
    layout = Layout(tmp_path, "fake")
    assert describe.datasets("train", layout) == []
    layout.tasks.mkdir(parents=True)
    rows = ["train"] * 3 + ["valid_seen"] * 2
    text = "".join(json.dumps({"split": split}) + "\n" for split in rows)
    (layout.tasks / "tasks.jsonl").write_text(text)
    (record,) = describe.datasets("train", layout)
    assert record["name"] == "fake tasks"
    assert record["splits"] == {"train": 3, "valid_seen": 2}
    assert len(record["digest"]) == 16
    assert describe.datasets("compare", layout) == []


def test_an_episode_becomes_plain_values() -> None:
    task = Task("id", "train", "look_at_obj_in_light", "look at the mug", "game.tw-pddl")
    moment = Moment(task, (), "before", (), 0)
    turn = Turn(
        Prompt(moment, [{"role": "user", "content": "go"}], [1, 2]),
        response_ids=[3, 4],
        log_probs=[-1.0, -2.0],
        response="<action>look</action>",
        action="look",
        valid=True,
        next_observation="after",
        admissible=True,
    )
    episode = Episode(task=task, slot=5, group=0, turns=[turn], won=True, episode_return=10.0)
    record = episode_record(episode, gaps=[[0.0, 1.0]], gates=[[0.25, 0.75]])
    assert json.loads(json.dumps(record)) == record
    assert record["instruction"] == "look at the mug"
    assert record["turns"][0]["gap_mean"] == 0.5
    assert record["turns"][0]["gate_mean"] == 0.5
    assert record["turns"][0]["observation"] == "after"
    assert "gap_mean" not in episode_record(episode)["turns"][0]
