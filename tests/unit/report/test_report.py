"""Tables, figures, page and terminal view on made data whose answers are known."""

import json
import re
from html.parser import HTMLParser
from io import StringIO

import polars as pl
import pytest
from report_data import SUCCESS, make_experiment
from rich.console import Console

from sdar.errors import SdarError
from sdar.evaluation.statistics import wilson_interval
from sdar.records import colours
from sdar.records.episodes import read_all, read_tokens
from sdar.records.page import render_page, run_page
from sdar.records.runs import read_run, seconds_by_phase
from sdar.records.view import view
from sdar.report.comparison import Variant
from sdar.report.figures import running_mean
from sdar.report.formatting import duration, markdown_table, p_text, points
from sdar.report.phases import order_phases
from sdar.report.results import compare, make_report

pytestmark = pytest.mark.slow  # its fixture makes whole experiments

PANELS = {"valid_seen": 60, "valid_unseen": 48}
FIGURES = (
    "success_by_panel",
    "learning_curves",
    "success_by_type",
    "gate_curves",
    "gate_mass",
    "gap_over_training",
    "teacher_agreement",
    "teacher_cost",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    config, layout = make_experiment(tmp_path_factory.mktemp("root"), steps=8, panels=PANELS)
    compare(config, layout)
    make_report(config, layout)
    return config, layout


def test_rates_are_those_of_the_rows(made):
    _, layout = made
    values = json.loads((layout.results / "comparison.json").read_text("utf-8"))
    episodes = pl.read_parquet(layout.results / "episodes.parquet")
    assert len(values["results"]) == len(SUCCESS) * len(PANELS)
    for item in values["results"]:
        rows = episodes.filter(method=item["method"], panel=item["panel"])
        assert item["rate"]["rate"] == pytest.approx(rows["success"].mean())
        assert item["rate"]["tasks"] == PANELS[item["panel"]]
        low, high = wilson_interval(
            rows["success"].mean() * item["rate"]["tasks"], item["rate"]["tasks"]
        )
        assert (item["rate"]["low"], item["rate"]["high"]) == pytest.approx((low, high))
        for name, rate in item["by_type"].items():
            assert rate["rate"] == pytest.approx(rows.filter(task_type=name)["success"].mean())


def test_differences_are_paired_and_named(made):
    _, layout = made
    values = json.loads((layout.results / "comparison.json").read_text("utf-8"))
    rate = {(r["method"], r["panel"]): r["rate"]["rate"] for r in values["results"]}
    assert [(v["method"], v["reference"], v["panel"]) for v in values["versus"]] == [
        ("sdar", "grpo", panel) for panel in PANELS
    ]
    for item in values["versus"]:
        expected = rate["sdar", item["panel"]] - rate["grpo", item["panel"]]
        assert item["difference"] == pytest.approx(expected)
        assert item["low"] < item["difference"] < item["high"]
        assert (item["tasks"], item["runs_a"], item["runs_b"]) == (PANELS[item["panel"]], 2, 2)
    for panel in PANELS:
        expected = rate["skill_prompt", panel] - rate["warm_start", panel]
        assert values["privilege"][panel]["difference"] == pytest.approx(expected)
    for item in values["results"]:
        if item["method"] == "warm_start":
            assert item["gain"] is None
        else:
            base = rate["warm_start", item["panel"]]
            expected = rate[item["method"], item["panel"]] - base
            assert item["gain"]["difference"] == pytest.approx(expected)


def test_teacher_share_is_of_the_whole_step(made):
    _, layout = made
    values = json.loads((layout.results / "comparison.json").read_text("utf-8"))
    costs = {cost["method"]: cost for cost in values["costs"]}
    assert costs["grpo"]["teacher_share"] == 0
    sdar = costs["sdar"]
    assert sdar["teacher_share"] == pytest.approx(sdar["seconds"]["teacher"] / sdar["total"])
    assert 0.1 < sdar["teacher_share"] < 0.2


def test_markdown_opens_with_the_privilege_gap_and_is_well_formed(made):
    _, layout = made
    text = (layout.results / "comparison.md").read_text("utf-8")
    headings = re.findall(r"^## (.*)$", text, re.M)
    assert headings[0] == "What there is to distil"
    assert {"Success", "Paired differences"} <= set(headings)
    assert "| SDAR - GRPO" in text
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({line.count("|") for line in block.splitlines()}) == 1
    assert "nan" not in text.lower()


def test_results_are_functions_of_their_inputs(made, tmp_path):
    _, layout = made
    other_config, other = make_experiment(tmp_path, steps=8, panels=PANELS)
    compare(other_config, other)
    make_report(other_config, other)
    files = [path for path in layout.results.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {
        "comparison.json",
        "comparison.md",
        "comparison.html",
        "episodes.parquet",
        "episodes.html",
        *(f"answers.{kind}" for kind in ("json", "md", "html")),
        *(f"{name}.{kind}" for name in FIGURES for kind in ("svg", "png")),
    }
    for path in files:
        twin = other.results / path.relative_to(layout.results)
        assert twin.read_bytes() == path.read_bytes(), path.name


def test_missing_evaluation_names_the_command(made, tmp_path):
    config, layout = make_experiment(tmp_path, steps=2, panels={"valid_seen": 6})
    (layout.evaluation("sdar", 1) / "episodes.parquet").unlink()
    with pytest.raises(SdarError, match="sdar evaluate --method sdar --seed 1"):
        compare(config, layout)


def test_an_evaluation_of_another_version_names_the_command(tmp_path):
    config, layout = make_experiment(tmp_path, steps=2, panels={"valid_seen": 6})
    path = layout.evaluation("grpo", 1) / "episodes.parquet"
    pl.read_parquet(path).drop("skill_digest").write_parquet(path)
    with pytest.raises(SdarError, match=r"grpo/seed-1.*sdar evaluate --method grpo --seed 1"):
        compare(config, layout)


def test_missing_training_records_name_the_command(tmp_path):
    config, layout = make_experiment(tmp_path, steps=2, panels={"valid_seen": 6})
    (layout.run("grpo", 0) / "metrics.jsonl").unlink()
    with pytest.raises(SdarError, match="sdar train --method grpo --seed 0"):
        compare(config, layout)


def test_runs_that_were_not_computed_alike_are_named(tmp_path):
    config, layout = make_experiment(tmp_path, steps=2, panels={"valid_seen": 6})
    compare(config, layout)
    assert "Not computed alike" not in (layout.results / "comparison.md").read_text()
    assert "rounding" not in json.loads((layout.results / "comparison.json").read_text())
    for method, threads in (("grpo", 1), ("sdar", 4)):
        spans = [{"from_step": 0, "execution.threads": threads}]
        path = layout.run(method, 0) / "provenance.json"
        path.write_text(json.dumps({"computed_with": spans}))
    compare(config, layout)
    page = (layout.results / "comparison.md").read_text()
    assert "Not computed alike" in page
    row = next(line for line in page.splitlines() if line.startswith("| execution.threads"))
    assert row.split("|")[3].strip() == "grpo/seed-0"
    assert json.loads((layout.results / "comparison.json").read_text())["rounding"] == {
        "execution.threads": {"1": ["grpo/seed-0"], "4": ["sdar/seed-0"]}
    }


def test_runs_on_different_tasks_are_not_compared(tmp_path):
    config, layout = make_experiment(tmp_path, steps=2, panels={"valid_seen": 6})
    path = layout.evaluation("sdar", 0) / "episodes.parquet"
    pl.read_parquet(path)[1:].write_parquet(path)
    with pytest.raises(SdarError, match="did not all play the same tasks"):
        compare(config, layout)
    for method, seed in (("sdar", 0), ("sdar", 1)):
        path = layout.evaluation(method, seed) / "episodes.parquet"
        pl.read_parquet(path)[-5:].write_parquet(path)
    with pytest.raises(SdarError, match="different tasks"):
        compare(config, layout)


def test_variants_tell_the_prompt():
    assert Variant("skill_grpo", True).label == "Skill-GRPO"
    assert Variant("skill_grpo", False).label == "Skill-GRPO without skill"
    assert Variant("skill_prompt", True).label == "warm start + skill"
    assert Variant("warm_start", False).usual


def test_series_and_phases_are_read(made):
    _, layout = made
    run = read_run(layout, "sdar", 0)
    drawn = {"success", "gate_mean", "gate_active", "gap_mean", "response_tokens"}
    assert set(run.series) == drawn | {f"gap_q{q}" for q in ("05", "25", "50", "75", "95")}
    assert run.series["response_tokens"] == [(step, 1000.0) for step in range(8)]
    assert [step for step, _ in run.series["success"]] == list(range(8))
    assert "gate_mean" not in read_run(layout, "grpo", 0).series
    timings = [
        {"step": 0, "a_s": 2.0, "total_s": 5.0},
        {"step": 1, "a_s": 1.0, "b_s": 1.0, "total_s": 5.0},
    ]
    assert seconds_by_phase(timings) == pytest.approx({"a": 1.5, "b": 0.5, "other": 3.0})
    assert order_phases({"other", "new", "update", "rollout"}) == [
        "rollout",
        "update",
        "new",
        "other",
    ]


def test_running_mean_keeps_a_line_and_its_ends():
    assert running_mean([1.0, 2.0, 3.0, 4.0], 5)[1] == pytest.approx(2.5)
    assert running_mean([5.0] * 7) == pytest.approx([5.0] * 7)
    assert running_mean([0, 0, 1, 0, 0], 3) == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3, 0])


def test_tables_align_and_refuse_ragged_rows():
    table = markdown_table(["name", "n"], [["a", "1"], ["bb", "+10"]])
    assert table.splitlines() == [
        "| name |   n |",
        "|------|----:|",
        "| a    |   1 |",
        "| bb   | +10 |",
    ]
    with pytest.raises(ValueError, match="2 cells"):
        markdown_table(["name"], [["a", "b"]])
    assert points(-0.0001) == "+0.0"
    assert p_text(0.0004) == "< .001"
    assert [duration(s) for s in (8.24, 185, 7800)] == ["8.2 s", "3 min 05 s", "2 h 10 min"]


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.data = ""
        self._inside = False

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.links += [values[key] for key in ("src", "href") if values.get(key)]
        self.ids.add(values.get("id") or "")
        self._inside = values.get("id") == "data"

    def handle_endtag(self, tag):
        self._inside = False

    def handle_data(self, data):
        if self._inside:
            self.data += data


def parse(text: str) -> tuple[dict, _Page]:
    page = _Page()
    page.feed(text)
    return json.loads(page.data), page


def test_page_holds_every_recorded_token_and_nothing_from_elsewhere(made):
    _, layout = made
    text = (layout.results / "episodes.html").read_text("utf-8")
    data, page = parse(text)
    assert page.links == []
    assert "http" not in text.replace("http-equiv", "")
    recorded = 0
    for method, seed in (
        ("warm_start", 0),
        ("skill_prompt", 0),
        ("grpo", 0),
        ("grpo", 1),
        ("sdar", 0),
        ("sdar", 1),
    ):
        recorded += pl.read_parquet(layout.evaluation(method, seed) / "tokens.parquet").height
    assert sum(len(turn["tokens"]) for e in data["episodes"] for turn in e["turns"]) == recorded
    values = dict(zip(data["numbers"], data["episodes"][0]["turns"][0]["values"][0], strict=True))
    gap = values["teacher_log_prob"] - values["student_log_prob"]
    assert values["gap"] == pytest.approx(gap, abs=2e-4)
    assert 0 < values["gate"] < 1
    assert values["advantage"] is None


def test_page_knows_class_skill_and_second_opinions(made):
    _, layout = made
    data, _ = parse((layout.results / "episodes.html").read_text("utf-8"))
    turn = data["episodes"][0]["turns"][1]
    names = [data["classes"][number]["name"] for number in turn["classes"]]
    assert names == ["tag", *["thought"] * 3, "tag", "tag", "action verb", "object", "tag"]
    assert turn["token_ids"] == list(range(100, 109))
    assert data["texts"][turn["skill_text"]] in data["texts"][turn["teacher_prompt"]]
    assert data["texts"][turn["skill_text"]] not in data["texts"][turn["student_prompt"]]
    assert (turn["number"], turn["action"], turn["expert_action"]) == (2, *["go to cabinet 2"] * 2)
    assert turn["teacher_greedy_action"] == turn["student_greedy_action"] == "go to cabinet 2"


def test_page_offers_the_filters_that_its_data_have(made):
    _, layout = made
    text = (layout.results / "episodes.html").read_text("utf-8")
    data, page = parse(text)
    wanted = {"method", "seed", "stage", "panel", "type", "outcome", "turns", "first", "last"}
    assert wanted <= page.ids
    # Every key that a filter reads is a key of the episodes.
    keys = dict(re.findall(r"(\w+): \"(\w+)\"", re.search(r"const filters = {(.*?)};", text)[1]))
    assert keys.keys() <= page.ids
    assert set(keys.values()) <= data["episodes"][0].keys()
    assert {e["method_label"] for e in data["episodes"]} >= {"GRPO", "SDAR"}


def test_page_of_one_run_holds_its_rows(made, tmp_path):
    config, layout = made
    rows = pl.read_parquet(layout.evaluation("sdar", 1) / "tokens.parquet")
    path = run_page(tmp_path / "page.html", rows.iter_rows(named=True), config, "sdar/seed-1")
    data, page = parse(path.read_text("utf-8"))
    assert sum(len(t["tokens"]) for e in data["episodes"] for t in e["turns"]) == rows.height
    assert {e["source"] for e in data["episodes"]} == {"sdar/seed-1"}
    assert page.links == []


def test_page_survives_texts_that_look_like_html(made):
    config, layout = made
    episodes = read_all(config, layout)[:1]
    episodes[0].turns[0].tokens[0] = "</script><script>alert(1)</script>"
    data, _ = parse(render_page(episodes, title="<b>", gate="gap", beta=5.0))
    assert data["episodes"][0]["turns"][0]["tokens"][0] == "</script><script>alert(1)</script>"


def test_page_says_what_it_leaves_out(made, monkeypatch):
    config, layout = made
    monkeypatch.setattr("sdar.records.page.MAX_TOKENS", 100)
    text = render_page(read_all(config, layout), title="t", gate="gap", beta=5.0)
    data, _ = parse(text)
    assert 0 < len(data["episodes"]) < 5
    assert "episodes are left out" in text


def test_unreadable_tokens_name_the_file(tmp_path):
    path = tmp_path / "tokens.parquet"
    path.write_bytes(b"PAR1 cut")
    with pytest.raises(SdarError, match=r"tokens\.parquet cannot be read"):
        read_tokens(path, source="x")


def test_colours_point_the_right_way():
    assert colours.of_gap(0.0) == colours.of_gate(0.5) == colours.WHITE
    assert colours.of_gap(9.0) == colours.of_gate(1.0) == colours.BLUE
    assert colours.of_gap(-9.0) == colours.of_gate(0.0) == colours.ORANGE
    assert colours.of_gap(float("nan")) == colours.WHITE
    assert colours.of_gate(0.0, signed=True) == colours.WHITE
    assert colours.of_gate(1.0, signed=True) == colours.BLUE
    assert colours.of_gate(-1.0, signed=True) == colours.ORANGE


def shown(*arguments, **options) -> str:
    console = Console(file=StringIO(), width=200, force_terminal=True, color_system="truecolor")
    view(*arguments, console=console, **options)
    return console.file.getvalue()


def test_view_lists_and_prints_coloured_tokens(made):
    _, layout = made
    folder = layout.run("sdar", 0)
    tokens = pl.read_parquet(folder / "evaluation" / "tokens.parquet")
    listing = shown(folder)
    assert listing.count("trial_") == tokens["episode"].n_unique()
    text = shown(folder, tokens["task_id"][0])
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    first = tokens.filter(episode=tokens["episode"][0])
    assert plain.count("Turn ") == first["turn"].n_unique()
    assert "says    " + first.filter(turn=0)["token"].str.join()[0] in plain
    red, green, blue = colours.of_gap(first["gap"][0])
    assert f"48;2;{red};{green};{blue}" in text
    red, green, blue = colours.of_gate(first["gate"][0])
    assert f"48;2;{red};{green};{blue}" in shown(folder, "1", colour_by="gate")


def test_weights_of_either_sign_are_neutral_at_zero(made, tmp_path):
    _, layout = made
    recorded = layout.run("sdar", 0) / "evaluation" / "tokens.parquet"
    tokens = pl.read_parquet(recorded).with_columns(gate=pl.col("gate") - 0.6)
    tokens.write_parquet(tmp_path / "tokens.parquet")
    episode, *_ = read_tokens(tmp_path / "tokens.parquet", source="x")
    assert episode.signed_gate
    assert not read_tokens(recorded, source="x")[0].signed_gate
    text = shown(tmp_path / "tokens.parquet", "1", colour_by="gate")
    assert "gate > 0 " in text
    red, green, blue = colours.of_gate(episode.turns[0].values[0][1], signed=True)
    assert f"48;2;{red};{green};{blue}" in text


def test_view_shows_numbers_classes_and_second_opinions(made):
    _, layout = made
    folder = layout.run("sdar", 0)
    tokens = pl.read_parquet(folder / "evaluation" / "tokens.parquet").sort(
        "panel", "episode", "turn", "position"
    )
    turn = tokens.filter(episode=tokens["episode"][0], turn=3).to_dicts()
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown(folder, "1", numbers=True, turn=4, prompts=True))
    assert "Turn 4" in text
    assert "Turn 3" not in text
    for row in turn:
        line = next(line for line in text.splitlines() if f" {row['token_id']} " in line)
        numbers = (row["gap"], row["gate"], row["student_log_prob"], row["teacher_log_prob"])
        for number in numbers:
            assert f"{round(number, 4):.3f}" in line
        assert row["token_class"] in line
    assert "advan-" not in text, "an evaluation has no advantages"
    assert re.search(r"^expert +go to cabinet 4$", text, re.M)
    assert re.search(r"^student +go to cabinet 4  as the expert$", text, re.M)
    assert re.search(r"^teacher +go to fridge 1  not so$", text, re.M)
    assert text.count("Mugs & cups are kept in the sink.") == 1
    narrow = Console(file=StringIO(), width=80)
    view(folder, "1", numbers=True, turn=1, console=narrow)
    assert "…" in narrow.file.getvalue()
    assert f"{turn[0]['gap']:.3f}" not in narrow.file.getvalue()


def test_view_says_what_is_wrong(made, tmp_path):
    _, layout = made
    with pytest.raises(SdarError, match="no recorded episodes"):
        view(tmp_path)
    with pytest.raises(SdarError, match="numbered from 1"):
        view(layout.run("sdar", 0), "99")
    with pytest.raises(SdarError, match="turns 1 to"):
        view(layout.run("sdar", 0), "1", turn=99)
    with pytest.raises(SdarError, match="no recorded task"):
        view(layout.run("sdar", 0), "zebra")
