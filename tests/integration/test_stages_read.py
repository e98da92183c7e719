"""No stage reads a key that it does not say it depends on (config/stages.py)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pretrained_world
import pytest

from sdar.config import ExperimentConfig, Layout, parse_config
from sdar.config.load import read_values
from sdar.config.stages import STAGES, Stage, computed_with, depends_on
from sdar.section import Section

# Where results go, and what only chooses among runs: they are in the names of outputs. Panels are
# the columns of MLflow's pages, and generated tasks are made for all of them.
BESIDE_THE_RESULT = {"experiment", "methods", "seeds", "evaluation.panels"}
# Demonstrations beyond these are refused; none is made shorter. Where prompts are made for a model,
# it must have room for a response.
ONLY_REFUSE = {
    "demonstrations": {"policy.max_response_tokens"},
    "warm_start": {"policy.max_prompt_tokens", "policy.max_teacher_prompt_tokens"},
}


def places(section: Section, prefix: str = "") -> Iterator[tuple[int, str]]:
    """The identity of each section of a configuration, and its dotted prefix."""
    yield id(section), prefix
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from places(value, f"{prefix}{name}.")


@contextmanager
def watched(config: ExperimentConfig) -> Iterator[set[str]]:
    """The keys of `config` that are read meanwhile, by attribute."""
    where = dict(places(config))
    read: set[str] = set()
    plain, leaves = Section.__getattribute__, Section.leaves
    listing = 0

    def list_leaves(section: Section, prefix: str = "") -> Iterator[Any]:
        """To list all keys, for a digest of some, is not to read them."""
        nonlocal listing
        listing += 1
        try:
            yield from list(leaves(section, prefix))
        finally:
            listing -= 1

    def watch(section: Section, name: str) -> object:
        value = plain(section, name)
        prefix = None if listing else where.get(id(section))
        is_key = prefix is not None and name in type(section).model_fields
        if is_key and not isinstance(value, Section):
            read.add(f"{prefix}{name}")
        return value

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Section, "leaves", list_leaves)
        patch.setattr(Section, "__getattribute__", watch)
        yield read


def stages(config: ExperimentConfig, layout: Layout) -> list[tuple[Stage, Callable[[], None]]]:
    """The stages in their order, each as its command runs it."""
    from sdar.environments.tasks import make_tasks
    from sdar.evaluation.evaluate import evaluate
    from sdar.report.results import compare, make_report
    from sdar.training.demonstrations import make_demonstrations
    from sdar.training.trainer import train
    from sdar.training.warm_start import warm_start

    def evaluate_all() -> None:
        for method in ("warm_start", "skill_prompt", "sdar"):
            evaluate(config, layout, method, 0)

    return [
        ("tasks", lambda: make_tasks(config.environment, config.evaluation.panels, layout)),
        ("demonstrations", lambda: make_demonstrations(config, layout)),
        ("warm_start", lambda: warm_start(config, layout)),
        ("train", lambda: train(config, layout, "sdar", 0)),
        ("evaluate", evaluate_all),
        ("compare", lambda: compare(config, layout)),
        ("report", lambda: make_report(config, layout)),
    ]


@pytest.mark.parametrize("name", ["minute-searchqa", "minute-webshop"])
def test_a_stage_reads_no_key_beyond_those_it_depends_on(
    name: str, repository: Path, tmp_path: Path
) -> None:
    path = repository / "config" / "experiments" / f"{name}.yaml"
    other = {"execution": {"warm_start_threads": 1}, "tracking": {"enabled": False}}
    config = parse_config(read_values(path) | other)
    layout = Layout(tmp_path, config.experiment)
    harmless = {key for key, _, changes in config.leaves() if changes == "nothing"}
    undeclared = {}
    for stage, run in stages(config, layout):
        with watched(config) as read:
            run()
        assert read, f"{stage}: nothing was seen to be read"
        declared = depends_on(config, stage).keys() | computed_with(config, stage).keys()
        beside = BESIDE_THE_RESULT | ONLY_REFUSE.get(stage, set())
        undeclared[stage] = sorted(read - declared - harmless - beside)
    assert undeclared == {stage: [] for stage in STAGES if stage != "compare_sweep"}


@pytest.mark.slow
def test_nor_does_the_warm_start_of_a_pretrained_model(tmp_path: Path) -> None:
    model = pretrained_world.save_model(tmp_path / "model")
    config = pretrained_world.configuration(model, updates=2, dagger=pretrained_world.DAGGER)
    layout = Layout(tmp_path, config.experiment)
    harmless = {key for key, _, changes in config.leaves() if changes == "nothing"}
    for stage, run in stages(config, layout)[1:3]:
        with watched(config) as read:
            run()
        declared = depends_on(config, stage).keys() | computed_with(config, stage).keys()
        beside = BESIDE_THE_RESULT | ONLY_REFUSE[stage]
        assert read - declared - harmless - beside == set(), stage
