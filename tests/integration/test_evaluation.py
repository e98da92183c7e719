"""The evaluation stage on a scripted world: counts, kills, prompts, bad input."""

import json
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
import scripted

from sdar.config import ExperimentConfig, Layout, parse_config
from sdar.environments.alfworld.tasks import HOME_FILE
from sdar.environments.alfworld.world.home import Home
from sdar.environments.base import Task
from sdar.errors import SdarError
from sdar.evaluation.evaluate import evaluate
from sdar.files.digest import folder_digest
from sdar.rollout.collector import collect

PANELS = {"valid_seen": 7, "valid_unseen": 5}


class CountingPool(scripted.ScriptedPool):
    """Counts the plays of each task; `stop_at` raises Ctrl-C at that reset."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__(modulus=5)
        self.plays: Counter[str] = Counter()
        self.resets = 0
        self.stop_at = stop_at
        self.closed = False

    def reset(self, tasks):
        self.resets += 1
        if self.resets == self.stop_at:
            raise KeyboardInterrupt
        self.plays.update(task.id for task in tasks.values())
        return super().reset(tasks)

    def close(self):
        self.closed = True


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Path:
    return save_policy(tmp_path_factory.mktemp("policy"))


def save_policy(folder: Path, seed: int = 0) -> Path:
    model = scripted.policy(seed=seed, spread=0.3)
    model.config.max_position_embeddings = 4096  # the teacher's prompts are long
    model.save_pretrained(folder)
    scripted.tokenizer().save_pretrained(folder)
    return folder


def experiment(root: Path, policy: Path, **evaluation) -> tuple[ExperimentConfig, Layout]:
    config = parse_config(
        {
            "experiment": "small",
            "methods": ["grpo", "skill_grpo"],
            "seeds": [3],
            "environment": {"max_turns": 4},
            "policy": {
                "tiny": {"context": 4096},
                "max_prompt_tokens": 1500,
                "max_teacher_prompt_tokens": 3000,
                "max_response_tokens": 6,
            },
            "rollout": {"batch": 3},
            "evaluation": {"seeds": [0, 1], "recorded_episodes": 3} | evaluation,
            "tracking": {"enabled": False},
        }
    )
    layout = Layout(root, config.experiment)
    types = ("pick_and_place_simple", "look_at_obj_in_light")
    tasks = [
        Task(f"{panel}/task-{i}", panel, types[i % 2], f"find the key {i}.", f"world/{i}")
        for panel, count in PANELS.items()
        for i in range(count)
    ]
    layout.tasks.mkdir(parents=True)
    lines = "".join(json.dumps(task.as_dict()) + "\n" for task in tasks)
    (layout.tasks / "tasks.jsonl").write_text(lines, "utf-8")
    Home.draw(0).write(layout.tasks / HOME_FILE)
    for folder in (layout.warm_start, layout.run("grpo", 3), layout.run("skill_grpo", 3)):
        folder.mkdir(parents=True)
        (folder / "policy").symlink_to(policy)
    return config, layout


def run(monkeypatch, config, layout, method="grpo", seed=3, stop_at=None) -> CountingPool:
    pool = CountingPool(stop_at)
    monkeypatch.setattr("sdar.environments.alfworld.engine.pool.make_pool", lambda config: pool)
    evaluate(config, layout, method, seed)
    return pool


def contents(folder: Path) -> dict[str, bytes]:
    names = ("episodes.parquet", "tokens.parquet", "summary.json", "metrics.jsonl")
    return {name: (folder / name).read_bytes() for name in names}


def test_every_task_is_played_exactly_once_per_evaluation_seed(tmp_path, monkeypatch, policy):
    config, layout = experiment(tmp_path, policy)
    pool = run(monkeypatch, config, layout)
    assert pool.plays == {f"{p}/task-{i}": 2 for p, count in PANELS.items() for i in range(count)}
    episodes = pl.read_parquet(layout.evaluation("grpo", 3) / "episodes.parquet")
    assert episodes.height == 24
    assert episodes.select("panel", "evaluation_seed", "task_id").n_unique() == 24
    assert set(episodes["seed"]) == {3}
    assert not episodes["with_skill"].any()
    assert 0 < episodes["success"].sum() < 24, "the world must be won sometimes and lost sometimes"
    seeds = episodes.partition_by("evaluation_seed", include_key=False)
    assert not seeds[0].equals(seeds[1]), "evaluation seeds must sample differently"
    assert pool.closed


def test_summary_is_the_mean_over_tasks(tmp_path, monkeypatch, policy):
    config, layout = experiment(tmp_path, policy)
    run(monkeypatch, config, layout)
    folder = layout.evaluation("grpo", 3)
    episodes = pl.read_parquet(folder / "episodes.parquet")
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    for item in summary["panels"]:
        rows = episodes.filter(pl.col("panel") == item["panel"])
        assert item["success"]["rate"] == pytest.approx(rows["success"].mean())
        assert item["success"]["tasks"] == PANELS[item["panel"]]
        assert item["success"]["plays"] == 2 * PANELS[item["panel"]]
    metrics = json.loads((folder / "metrics.jsonl").read_text("utf-8"))
    assert metrics["valid_seen/success"] == summary["panels"][0]["success"]["rate"]


def test_interrupted_and_continued_equals_uninterrupted(tmp_path, monkeypatch, policy):
    config, layout = experiment(tmp_path / "whole", policy)
    run(monkeypatch, config, layout)
    whole = contents(layout.evaluation("grpo", 3))

    config, layout = experiment(tmp_path / "cut", policy)
    pool = CountingPool(stop_at=5)
    monkeypatch.setattr("sdar.environments.alfworld.engine.pool.make_pool", lambda config: pool)
    with pytest.raises(KeyboardInterrupt):
        evaluate(config, layout, "grpo", 3)
    assert pool.closed
    folder = layout.evaluation("grpo", 3)
    assert not (folder / "episodes.parquet").exists()
    again = run(monkeypatch, config, layout)
    assert contents(folder) == whole
    # What differs from one run to the next lies beside the results, not among them.
    assert folder_digest(folder) == folder_digest(
        tmp_path / "whole" / folder.relative_to(tmp_path / "cut")
    )
    beside = {path.name for path in layout.evaluating("grpo", 3).iterdir()}
    assert {"config.yaml", "provenance.json"} <= beside
    assert "chunks" not in beside
    assert (pool.plays + again.plays).total() == 24, "finished chunks must not be played again"
    assert min(pool.plays.total(), again.plays.total()) > 0


def test_chunks_of_another_policy_are_not_reused(tmp_path, monkeypatch, policy):
    config, layout = experiment(tmp_path, policy)
    pool = CountingPool(stop_at=5)
    monkeypatch.setattr("sdar.environments.alfworld.engine.pool.make_pool", lambda config: pool)
    with pytest.raises(KeyboardInterrupt):
        evaluate(config, layout, "grpo", 3)
    other = save_policy(tmp_path / "other", seed=1)
    (layout.run("grpo", 3) / "policy").unlink()
    (layout.run("grpo", 3) / "policy").symlink_to(other)
    assert run(monkeypatch, config, layout).plays.total() == 24


def test_prompts_follow_the_declarations(tmp_path, monkeypatch, policy):
    config, layout = experiment(tmp_path, policy, seeds=[0])
    flags = {}
    for method, seed in (("warm_start", 0), ("skill_prompt", 0), ("skill_grpo", 3)):
        run(monkeypatch, config, layout, method, seed)
        rows = pl.read_parquet(layout.evaluation(method, seed) / "episodes.parquet")
        flags[method] = dict(rows.group_by("with_skill").len().iter_rows())
        told = rows.filter("with_skill")["skill_digest"]
        assert told.null_count() == 0
        assert rows.filter(~pl.col("with_skill"))["skill_digest"].drop_nulls().is_empty()
    assert flags == {
        "warm_start": {False: 12},
        "skill_prompt": {True: 12},
        "skill_grpo": {True: 12, False: 12},
    }


def test_recorded_tokens_carry_scores_of_the_sampled_tokens(tmp_path, monkeypatch, policy):
    config, layout = experiment(tmp_path, policy)
    run(monkeypatch, config, layout)
    run(monkeypatch, config, layout, "skill_prompt", 0)
    folder = layout.evaluation("grpo", 3)
    tokens = pl.read_parquet(folder / "tokens.parquet")
    assert tokens["episode"].n_unique() == 3
    other = pl.read_parquet(layout.evaluation("skill_prompt", 0) / "tokens.parquet")
    assert set(tokens["task_id"]) == set(other["task_id"]), "all methods are recorded on one set"
    episodes = pl.read_parquet(folder / "episodes.parquet").filter(evaluation_seed=0)
    counted = dict(tokens.group_by("task_id").len().iter_rows())
    stored = dict(episodes.select("task_id", "response_tokens").iter_rows())
    assert counted == {task: stored[task] for task in counted}
    assert (tokens["teacher_log_prob"] - tokens["student_log_prob"]).equals(tokens["gap"])
    expected = 1 / (1 + (-config.training.distillation.beta * tokens["gap"]).exp())
    assert (tokens["gate"] - expected).abs().max() < 1e-6
    assert tokens["gap"].abs().max() > 0, "the skill must change the prediction"
    first = tokens.row(0, named=True)
    assert first["teacher_prompt"].startswith("<|im_start|>system\n")
    assert first["teacher_prompt"].endswith(first["student_prompt"])


def test_scores_are_those_of_the_sampler(tmp_path, monkeypatch, policy):
    config, layout = experiment(tmp_path, policy, seeds=[0])
    played = {}

    def remember(*args, **options):
        episodes = collect(*args, **options)
        played.update({episode.task.id: episode for episode in episodes})
        return episodes

    monkeypatch.setattr("sdar.evaluation.evaluate.collect", remember)
    run(monkeypatch, config, layout)
    tokens = pl.read_parquet(layout.evaluation("grpo", 3) / "tokens.parquet")
    for row in tokens.iter_rows(named=True):
        turn = played[row["task_id"]].turns[row["turn"]]
        assert row["student_log_prob"] == pytest.approx(turn.log_probs[row["position"]], abs=1e-4)
    texts = tokens.group_by("task_id", "turn", maintain_order=True).agg(pl.col("token").str.join())
    for task_id, turn, text in texts.iter_rows():
        ids = played[task_id].turns[turn].response_ids
        assert text == scripted.tokenizer().decode(ids)


def test_missing_policy_is_one_sentence(tmp_path, monkeypatch, policy):
    config, layout = experiment(tmp_path, policy)
    with pytest.raises(SdarError, match=r"seed-9/policy.*sdar train --method grpo --seed 9"):
        evaluate(config, layout, "grpo", 9)


def test_missing_skill_is_refused_before_playing(tmp_path, monkeypatch, policy):
    config, layout = experiment(tmp_path, policy)
    library = tmp_path / "skills"
    library.mkdir()
    (library / "general.md").write_text("Look around.", "utf-8")
    (library / "pick_and_place_simple.md").write_text("Put it there.", "utf-8")
    changed = config.model_copy(
        update={"skills": config.skills.model_copy(update={"library": library})}
    )
    pool = CountingPool()
    monkeypatch.setattr("sdar.environments.alfworld.engine.pool.make_pool", lambda config: pool)
    with pytest.raises(SdarError, match="look_at_obj_in_light"):
        evaluate(changed, layout, "grpo", 3)
    assert not pool.plays


def test_unwritable_results_leave_the_old_ones(tmp_path, monkeypatch, policy):
    config, layout = experiment(tmp_path, policy, seeds=[0])
    run(monkeypatch, config, layout)
    before = contents(layout.evaluation("grpo", 3))

    def no_space(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.write_table", no_space)
    with pytest.raises(SdarError, match="No space left"):
        run(monkeypatch, config, layout)
    assert contents(layout.evaluation("grpo", 3)) == before
