"""The sweep: its cells and variants, where they lie, what it costs, and the comparison."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner

from sdar.cli.app import app
from sdar.cli.options import prepare_run
from sdar.config import ExperimentConfig, Layout, load_config, parse_config
from sdar.config.generate import resolved_yaml
from sdar.config.variants import (
    Cell,
    find_variant,
    sweep_cells,
    sweep_variants,
    variant_config,
)
from sdar.errors import SdarError
from sdar.evaluation.statistics import paired_bootstrap
from sdar.files.whole import write_parquet
from sdar.report.comparison import BOOTSTRAP_SEED, CONFIDENCE, RESAMPLES
from sdar.report.sweep.compare import compare_sweep, read_sweep, sweep_markdown
from sdar.report.sweep.heatmap import heatmap
from sdar.report.sweep.plan import measured_pace, plan_text
from sdar.report.sweep.teacher_tokens import teacher_tokens_figure
from sdar.tracking.recorder import RunRecorder

SWEEP = {
    "gates": ["gap", "none"],
    "betas": [1.0, 5.0],
    "coefficients": [0.0, 0.1],
    "retrievals": ["type", "random"],
}
TASKS = 40


def configuration(**sweep: object) -> ExperimentConfig:
    return parse_config({"seeds": [3, 4], "sweep": SWEEP | sweep})


def names(config: ExperimentConfig) -> list[str]:
    return [variant.name for variant in sweep_variants(config)]


def test_the_grid_is_full_and_its_variants_distinct() -> None:
    config = configuration()
    assert len(sweep_cells(config)) == 2 * 2 * 2 * 2
    assert names(config) == [
        "grpo",
        "gap-beta1-lambda0.1-type",
        "gap-beta1-lambda0.1-random",
        "gap-beta5-lambda0.1-type",
        "gap-beta5-lambda0.1-random",
        "none-lambda0.1",
    ]


def test_cells_that_train_alike_are_one_variant() -> None:
    config = configuration(gates=["gap", "entropy", "soft_or", "none"], betas=[0.0, 5.0])
    names = {cell: variant.name for cell, variant in sweep_cells(config).items()}
    for cell, name in names.items():
        if cell.coefficient == 0:
            assert name == "grpo"
        elif cell.beta == 0 or cell.gate == "none":
            assert name == "none-lambda0.1"
        elif cell.gate == "entropy":
            assert name == "entropy-beta5-lambda0.1"
        else:
            assert name == f"{cell.gate}-beta5-lambda0.1-{cell.retrieval}"


def test_gates_collapse_as_their_gradients_do() -> None:
    """The claims behind the collapse: what a gate does not read leaves its values unchanged."""
    import torch

    from sdar.algorithms.gates import compute_gate

    one, other = torch.tensor([[0.3, -1.0]]), torch.tensor([[-2.0, 0.7]])
    entropy = torch.tensor([[0.5, 1.5]])
    for gate in ("gap", "entropy", "soft_or"):
        flat = compute_gate(gate, one, beta=0.0, entropy=entropy)
        assert torch.equal(flat, compute_gate("none", other, beta=5.0, entropy=entropy))
    same = [compute_gate("entropy", gap, beta=5.0, entropy=entropy) for gap in (one, other)]
    assert torch.equal(*same)
    for gate in ("gap", "soft_or"):
        both = [compute_gate(gate, gap, beta=5.0, entropy=entropy) for gap in (one, other)]
        assert not torch.equal(*both)


def test_an_axis_without_values_is_the_experiments_own() -> None:
    config = parse_config(
        {
            "sweep": {"betas": [2.0, 3.0]},
            "training": {"distillation": {"coefficient": 0.2, "gate": "soft_or"}},
            "skills": {"retrieval": "keyword"},
        }
    )
    assert list(sweep_cells(config)) == [
        Cell("soft_or", 2.0, 0.2, "keyword"),
        Cell("soft_or", 3.0, 0.2, "keyword"),
    ]


def test_near_numbers_have_different_names() -> None:
    config = configuration(gates=["gap"], coefficients=[0.1, 0.10000001, 1e-5])
    assert len(set(names(config))) == len(names(config)) == 1 + 3 * 2 * 2
    assert "gap-beta1-lambda1e-05-type" in names(config)


def test_no_sweep_says_what_to_set() -> None:
    with pytest.raises(SdarError, match=r"list values under sweep\.gates"):
        sweep_cells(ExperimentConfig())
    with pytest.raises(SdarError, match=r"--variant gap-beta9: not in the sweep, which has grpo, "):
        find_variant(configuration(), "gap-beta9")


def test_a_variants_configuration_is_whole_and_has_no_sweep(tmp_path: Path) -> None:
    config = configuration(steps=7, panels=["valid_unseen"], seeds=[9])
    variant = find_variant(config, "gap-beta5-lambda0.1-random")
    made = variant_config(config, variant)
    assert (made.methods, made.seeds) == (("sdar",), (9,))
    assert made.training.steps == 7
    assert made.evaluation.panels == ("valid_unseen",)
    own = {"coefficient": 0.1, "beta": 5.0, "gate": "gap", "share": 1.0}
    usual = config.training.distillation.model_dump()
    assert made.training.distillation.model_dump() == usual | own
    assert made.skills.retrieval == "random"
    assert not made.sweep.is_set
    untouched = {"methods", "seeds", "training", "evaluation", "skills", "sweep"}
    assert made.model_dump(exclude=untouched) == config.model_dump(exclude=untouched)
    path = tmp_path / "config.yaml"
    path.write_text(resolved_yaml(made))
    assert load_config(path) == made


SHARES = {"gates": [], "betas": [], "coefficients": [], "retrievals": [], "shares": [1.0, 0.25]}


def test_a_share_of_the_turns_is_a_variant_of_its_own() -> None:
    config = configuration(**SHARES)
    assert names(config) == [
        "grpo",
        "gap-beta5-lambda0.1-type",
        "gap-beta5-lambda0.1-type-share0.25",
    ]
    shares = [
        variant_config(config, variant).training.distillation.share
        for variant in sweep_variants(config)
    ]
    assert shares == [1.0, 1.0, 0.25]


def test_the_shipped_experiment_varies_the_share_alone() -> None:
    root = Path(__file__).parents[3] / "config"
    config, usual = (
        load_config(root / "experiments/teaching.yaml"),
        load_config(root / "config.yaml"),
    )
    cells = sweep_cells(config)
    assert [cell.share for cell in cells] == [1.0, 0.5, 0.25, 0.1]
    assert len({cell._replace(share=1.0) for cell in cells}) == 1
    for variant in sweep_variants(config)[1:]:
        made = variant_config(config, variant)
        assert len(made.seeds) == 5
        assert made.training.steps == usual.training.steps
        plain = made.training.distillation.model_copy(update={"share": 1.0})
        assert plain == usual.training.distillation
        assert made.environment == usual.environment


@pytest.mark.parametrize(("method", "base"), [("sdar", "grpo"), ("sdar_gigpo", "gigpo")])
def test_the_baseline_is_the_method_without_its_term(method: str, base: str) -> None:
    from sdar.methods.declarations import get_method

    config = configuration(method=method)
    variant = sweep_variants(config)[0]
    assert (variant.name, variant.method, variant.cell) == (base, base, None)
    assert variant_config(config, variant).training.distillation.coefficient == 0
    swept, plain = get_method(method), get_method(base)
    assert swept.advantage == plain.advantage
    assert swept.gate is None
    assert swept.distillation_coefficient is None
    assert plain.distillation == "none"
    assert not swept.evaluate_with_skill
    assert not swept.evaluate_both_prompts


def test_a_higher_limit_of_the_teacher_raises_the_context() -> None:
    config = configuration(max_teacher_prompt_tokens=2000)
    made = variant_config(config, sweep_variants(config)[1])
    assert made.policy.max_teacher_prompt_tokens == 2000
    assert made.context == 2000 + config.policy.max_response_tokens
    assert variant_config(configuration(), sweep_variants(config)[1]).policy == config.policy


def test_variants_lie_apart_and_share_the_rest(tmp_path: Path) -> None:
    layout = Layout(tmp_path, "e")
    variant = layout.of_variant("gap-beta5-lambda0.1-type")
    folder = tmp_path / "runs" / "e" / "sweep" / "gap-beta5-lambda0.1-type" / "seed-2"
    assert variant.run("sdar", 2) == folder
    assert variant.evaluation("sdar", 2) == folder / "evaluation"
    assert variant.warm_start == layout.warm_start
    assert (variant.tasks, variant.results) == (layout.tasks, layout.results)
    assert variant.of_variant("none-lambda0.1").run("sdar", 2) != folder


def test_a_command_runs_one_variant_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text(resolved_yaml(configuration()))
    config, layout, method = prepare_run(path, tmp_path, None, "none-lambda0.1", training=True)
    assert (method, layout.variant) == ("sdar", "none-lambda0.1")
    assert config.training.distillation.gate == "none"
    with pytest.raises(SdarError, match=r"--method grpo: variant none-lambda0\.1 is of sdar"):
        prepare_run(path, tmp_path, "grpo", "none-lambda0.1")
    with pytest.raises(SdarError, match=r"--method: missing; .*--variant"):
        prepare_run(path, tmp_path, None, None)
    assert prepare_run(path, tmp_path, "grpo", None)[1].variant is None


def test_a_variants_record_carries_its_name(tmp_path: Path) -> None:
    config = parse_config({"tracking": {"enabled": True}, "sweep": SWEEP})
    made = variant_config(config, find_variant(config, "gap-beta5-lambda0.1-random"))
    specs = []
    for layout in (
        Layout(tmp_path, "e").of_variant("gap-beta5-lambda0.1-random"),
        Layout(tmp_path, "e"),
    ):
        recorder = RunRecorder(
            tmp_path, config=made, layout=layout, kind="train", name="sdar/seed-1"
        )
        specs.append(recorder._spec)
    assert specs[0]["name"] == "sweep/gap-beta5-lambda0.1-random/seed-1"
    assert specs[0]["tags"]["variant"] == "gap-beta5-lambda0.1-random"
    assert (specs[0]["tags"]["method"], specs[0]["tags"]["seed"]) == ("sdar", "1")
    assert specs[0]["parameters"]["skills.retrieval"] == "random"
    assert specs[1]["name"] == "sdar/seed-1"
    assert "variant" not in specs[1]["tags"]


def write_evaluations(config: ExperimentConfig, layout: Layout, skip: str = "") -> None:
    """Evaluations drawn by seeds; one variant wins every task, as no noise could."""
    for number, variant in enumerate(sweep_variants(config)):
        if variant.name == skip:
            continue
        for seed in config.seeds:
            rng = np.random.default_rng([number, seed])
            rows = [
                {
                    "panel": panel,
                    "with_skill": False,
                    "task_id": f"{panel}-{index:03d}",
                    "seed": seed,
                    "evaluation_seed": 0,
                    "success": bool(variant.name == "none-lambda0.1" or rng.random() < 0.5),
                }
                for panel in ("valid_seen", "valid_unseen")
                for index in range(TASKS)
            ]
            folder = layout.of_variant(variant.name).evaluation(variant.method, seed)
            write_parquet(folder / "episodes.parquet", pa.Table.from_pylist(rows))


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[ExperimentConfig, Layout]:
    config = configuration()
    layout = Layout(tmp_path_factory.mktemp("swept"), config.experiment)
    write_evaluations(config, layout)
    compare_sweep(config, layout)
    return config, layout


def test_differences_are_paired_with_the_baseline(
    swept: tuple[ExperimentConfig, Layout],
) -> None:
    config, layout = swept
    comparison = read_sweep(config, layout)
    tables = []
    for variant in (comparison.base.variant, find_variant(config, "gap-beta1-lambda0.1-type")):
        columns = []
        for seed in config.seeds:
            path = layout.of_variant(variant.name).evaluation(variant.method, seed)
            frame = pl.read_parquet(path / "episodes.parquet")
            columns.append(frame.filter(pl.col("panel") == "valid_seen")["success"].to_numpy())
        tables.append(np.stack(columns, axis=1).astype(float))
    expected = paired_bootstrap(
        tables[1],
        tables[0],
        seed=BOOTSTRAP_SEED,
        resamples=RESAMPLES,
        confidence=CONFIDENCE,
    )
    result = comparison.results["gap-beta1-lambda0.1-type"]
    assert result.difference == expected
    assert result.rate.rate == pytest.approx(tables[1].mean())
    assert (result.rate.tasks, result.rate.plays) == (TASKS, 2 * TASKS)
    assert comparison.base.difference is None


def test_a_certain_effect_is_marked_and_listed_first(
    swept: tuple[ExperimentConfig, Layout],
) -> None:
    comparison = read_sweep(*swept)
    assert comparison.by_effect[0].variant.name == "none-lambda0.1"
    assert comparison.by_effect[0].decided
    effects = [one.difference.difference for one in comparison.by_effect if one.difference]
    assert effects == sorted(effects, reverse=True)
    table = [line for line in sweep_markdown(comparison).splitlines() if line.startswith("| ")]
    assert len(table) == 1 + 5
    assert table[1].startswith("| none-lambda0.1 ")
    assert "| yes " in table[1]


def test_files_hold_every_cell_and_are_reproducible(
    swept: tuple[ExperimentConfig, Layout],
) -> None:
    config, layout = swept
    folder = layout.sweep_results
    paths = sorted(folder.iterdir())
    figures = [
        f"{name}.{kind}" for name in ("heatmap", "teacher_tokens") for kind in ("png", "svg")
    ]
    assert [path.name for path in paths] == sorted([*figures, "sweep.json", "sweep.md"])
    values = json.loads((folder / "sweep.json").read_text())
    assert len(values["cells"]) == 16
    assert {cell["variant"] for cell in values["cells"]} == {v["name"] for v in values["variants"]}
    assert values["baseline"] == "grpo"
    before = [path.read_bytes() for path in paths]
    compare_sweep(config, layout)
    assert [path.read_bytes() for path in paths] == before


def test_the_heat_map_shows_each_cells_value_and_interval(
    swept: tuple[ExperimentConfig, Layout],
) -> None:
    from sdar.report.formatting import points

    comparison = read_sweep(*swept)
    figure = heatmap(comparison)
    facets = [axis for axis in figure.axes if axis.get_title(loc="left")]
    assert [axis.get_title(loc="left") for axis in facets] == [
        "gap gate, skill: type",
        "none gate, skill: type",
        "gap gate, skill: random",
        "none gate, skill: random (same runs)",
    ]
    texts = [text for axis in facets for text in axis.texts]
    assert len(texts) == 2 * (4 + 2)  # gate none: one row, whatever beta
    paired = comparison.results["gap-beta5-lambda0.1-random"].difference
    assert paired is not None
    shown = f"{points(paired.difference)}\n[{points(paired.low)}, {points(paired.high)}]"
    assert [text.get_text() for text in facets[2].texts] == [
        "baseline",
        facets[2].texts[1].get_text(),
        "baseline",
        shown,
    ]
    bold = [text.get_fontweight() == "bold" for text in facets[1].texts]
    assert bold == [False, True]
    title = figure.get_suptitle()
    assert f"{TASKS} tasks of valid_seen x 2 run seeds" in title
    assert "GRPO: " in title


def test_missing_and_unlike_evaluations_are_named(tmp_path: Path) -> None:
    config, layout = configuration(), Layout(tmp_path, "alfworld-tiny")
    write_evaluations(config, layout, skip="none-lambda0.1")
    with pytest.raises(SdarError, match=r"sdar evaluate --variant none-lambda0\.1 --seed 3"):
        read_sweep(config, layout)
    write_evaluations(config, layout)
    for seed in config.seeds:
        path = layout.of_variant("none-lambda0.1").evaluation("sdar", seed) / "episodes.parquet"
        frame = pl.read_parquet(path)
        write_parquet(path, frame.filter(pl.col("task_id") != "valid_seen-000").to_arrow())
    with pytest.raises(SdarError, match=r"none-lambda0\.1 and grpo were evaluated on different"):
        read_sweep(config, layout)
    write_parquet(path, frame.to_arrow())
    with pytest.raises(SdarError, match="did not all play the same tasks"):
        read_sweep(config, layout)
    write_parquet(path, frame.filter(pl.col("panel") != "valid_seen").to_arrow())
    with pytest.raises(SdarError, match=r"seed-4.*nothing of panel valid_seen; .*--seed 4"):
        read_sweep(config, layout)


def test_the_plan_counts_jobs_and_judges_time_by_what_ran(tmp_path: Path) -> None:
    config, layout = configuration(steps=10), Layout(tmp_path, "alfworld-tiny")
    text = plan_text(config, layout)
    assert "16 cells, 6 variants x 2 seeds = 12 trainings of 10 steps" in text
    assert "is not known" in text
    folder = layout.run("sdar", 0)
    folder.mkdir(parents=True)
    (folder / "timings.jsonl").write_text(
        '{"step": 0, "total_s": 5.0}\n{"step": 1, "total_s": 7.0}\n'
    )
    assert measured_pace(layout).step == 6.0
    assert measured_pace(layout).panel is None
    text = plan_text(config, layout)
    assert "12 of 12 are left, 1 min 00 s each: about 12 min 00 s" in text
    benchmarks = tmp_path / "logs" / "alfworld-tiny" / "benchmarks"
    benchmarks.mkdir(parents=True)
    (benchmarks / "evaluate-sdar-0.tsv").write_text("s\th:m:s\n60.0\t0:01:00\n")
    (layout.evaluation("sdar", 0)).mkdir()
    (layout.evaluation("sdar", 0) / "summary.json").write_text('{"panels": [{}, {}]}')
    assert measured_pace(layout).panel == 30.0
    for seed in config.seeds:
        (layout.of_variant("grpo").run("grpo", seed) / "policy").mkdir(parents=True)
    assert "10 of 12 are left, 1 min 30 s each: about 15 min 00 s" in plan_text(config, layout)


def test_the_list_command_reads_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text(resolved_yaml(configuration()))
    done = CliRunner().invoke(
        app, ["sweep", "list", "--config", str(path), "--root", str(tmp_path)]
    )
    assert done.exit_code == 0
    assert "gap-beta5-lambda0.1-random" in done.stdout
    path.write_text("experiment: none")
    done = CliRunner().invoke(app, ["sweep", "list", "--config", str(path)])
    assert done.exit_code == 2


@pytest.mark.parametrize("name", ["minute", "sweep"])
def test_the_sweeps_that_come_with_sdar_are_whole(repository: Path, name: str) -> None:
    config = load_config(repository / "config" / "experiments" / f"{name}.yaml")
    for variant in sweep_variants(config):
        assert variant_config(config, variant).methods == (variant.method,)


def write_timings(config: ExperimentConfig, layout: Layout, tokens: dict[str, list[int]]) -> None:
    """Three steps of every run: `tokens` of the teacher in a step, by variant and seed."""
    for variant in sweep_variants(config):
        for seed, count in zip(config.seeds, tokens[variant.name], strict=True):
            folder = layout.of_variant(variant.name).run(variant.method, seed)
            steps = [{"step": step, "teacher_tokens": count} for step in range(3)]
            (folder / "timings.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in steps))


def test_success_is_shown_against_the_teachers_tokens(tmp_path: Path) -> None:
    config = configuration(**SHARES)
    layout = Layout(tmp_path, config.experiment)
    write_evaluations(config, layout)
    every, quarter = names(config)[1:]
    assert {one.teacher_tokens for one in read_sweep(config, layout).results.values()} == {None}
    assert "no run counted them" in texts(teacher_tokens_figure(read_sweep(config, layout)))
    counts = {"grpo": [0, 0], every: [400_000, 600_000], quarter: [10_000, 12_000]}
    write_timings(config, layout, counts)
    comparison = read_sweep(config, layout)
    spent = {name: one.teacher_tokens for name, one in comparison.results.items()}
    assert spent == {"grpo": 0, every: 1_500_000, quarter: 33_000}
    table = sweep_markdown(comparison)
    assert " 1.50 M |" in table
    assert " 33 k |" in table
    figure = teacher_tokens_figure(comparison)
    named = {every: "share 1", quarter: "share 0.25"}
    assert set(named.values()) <= set(texts(figure))
    (axis,) = figure.axes
    points = {text.get_text(): text.xy for text in axis.texts if hasattr(text, "xy")}
    for name in (every, quarter):
        top = comparison.results[name].rate.high
        assert points[named[name]] == pytest.approx((spent[name] / 1e6, 100 * top))
    titles = [axis.get_title(loc="left") for axis in heatmap(comparison).axes]
    assert titles[:2] == [
        "gap gate, skill: type, 100% of turns",
        "gap gate, skill: type, 25% of turns",
    ]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axis in figure.axes for text in axis.texts]
