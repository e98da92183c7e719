"""The declarations of methods, and the parts they play in an experiment."""

import re
from dataclasses import FrozenInstanceError
from typing import get_args

import pytest

from sdar.algorithms.distillation import DISTILLATION_TERMS
from sdar.algorithms.step import ADVANTAGES, TOKEN_CREDITS
from sdar.config import parse_config
from sdar.errors import SdarError
from sdar.methods.declarations import (
    METHODS,
    AdvantageName,
    DistillationName,
    TokenCredit,
    get_method,
)
from sdar.methods.gates import GATES
from sdar.methods.roles import (
    REFERENCE,
    START,
    START_WITH_SKILL,
    SWEPT,
    TRAINED,
    UNTRAINED,
    colour,
    label,
    trained_among,
    untrained_beside,
)


def test_unknown_method_lists_the_known_ones() -> None:
    with pytest.raises(SdarError, match=r"unknown method 'ppo'.*grpo, sdar, opsd"):
        get_method("ppo")


def test_a_declaration_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        get_method("sdar").policy_coefficient = 0.0  # type: ignore[misc]


def test_what_each_method_is() -> None:
    teacher = {name for name, method in METHODS.items() if method.needs_teacher}
    assert teacher == {
        "sdar", "opsd", "grpo_opsd", "sdar_gigpo", "skill_sd", "rlsd", "reverse_kl", "agent_opsd",
        "reverse_kl_full", "sdar_centred", "sdar_adaptive", "sdar_objective",
    }  # fmt: skip
    whole_step = {n for n, m in METHODS.items() if m.needs_step_context}
    assert whole_step == {"sdar_centred", "sdar_adaptive", "sdar_objective"}
    distributions = {n for n, m in METHODS.items() if m.needs_teacher_distribution}
    assert distributions == {"reverse_kl_full"}
    assert not any(METHODS[name].evaluate_with_skill for name in whole_step | distributions)
    # Of the new ones only the adaptive method has a gate of its own.
    for name, kind in (("sdar_centred", "soft_or"), ("sdar_adaptive", "adaptive")):
        assert get_method(name).gate_kind("soft_or") == kind
    assert get_method("sdar_centred").needs_old_entropy("entropy")
    assert not get_method("sdar_centred").needs_old_entropy("gap")
    assert not get_method("sdar").needs_old_entropy("entropy")
    assert {n for n, m in METHODS.items() if m.advantage == "gigpo"} == {"gigpo", "sdar_gigpo"}
    assert {n for n, m in METHODS.items() if m.rollout_with_skill} == {"skill_prompt", "skill_grpo"}
    assert {n for n, m in METHODS.items() if not m.trained} == {"warm_start", "skill_prompt"}
    assert {n for n, m in METHODS.items() if m.policy_coefficient == 0} == {"opsd"}
    assert get_method("skill_grpo").evaluate_both_prompts
    # grpo_opsd is its gate; the others follow an ablation of the run.
    assert get_method("grpo_opsd").gate_kind("entropy") == "none"
    assert get_method("sdar").gate_kind("entropy") == "entropy"
    assert get_method("sdar").needs_entropy_gate("soft_or")
    assert not get_method("grpo").needs_entropy_gate("soft_or")
    assert get_method("skill_sd").gate_kind("gap") is None
    assert get_method("skill_sd").coefficient(0.01) == 0.001
    assert get_method("sdar").coefficient(0.01) == 0.01
    assert get_method("grpo").coefficient(0.01) == 0.0
    assert get_method("agent_opsd").clip_high == 0.24


def test_rlsd_mix_falls_to_zero_over_a_hundred_steps() -> None:
    mix = get_method("rlsd").token_mix
    assert [mix(step) for step in (0, 50, 100, 150)] == [0.5, 0.25, 0.0, 0.0]
    assert get_method("agent_opsd").token_mix(70) == 0.5


def test_a_method_is_known_by_its_label_and_colour() -> None:
    labels = {method.label for method in METHODS.values()}
    colours = {method.colour for method in METHODS.values()}
    assert len(labels) == len(colours) == len(METHODS)
    assert all(re.fullmatch("#[0-9A-F]{6}", one) for one in colours)
    assert (label("grpo_opsd"), colour("grpo_opsd")) == ("GRPO+OPSD", "#E69F00")
    assert (label("of_old"), colour("of_old")) == ("of_old", "#444444")


def test_every_part_of_a_method_is_carried_out() -> None:
    assert set(ADVANTAGES) == set(get_args(AdvantageName))
    assert set(TOKEN_CREDITS) == set(get_args(TokenCredit))
    assert {*DISTILLATION_TERMS, "none"} == set(get_args(DistillationName))


def test_a_fixed_gate_is_declared() -> None:
    assert {method.gate for method in METHODS.values()} - {None} <= set(GATES)
    assert not any(method.gate and method.distillation != "gated" for method in METHODS.values())


def test_the_configuration_takes_every_method_and_no_other() -> None:
    assert parse_config({"methods": list(METHODS)}).methods == tuple(METHODS)
    with pytest.raises(
        SdarError, match=r"methods\.0: Input should be 'grpo', 'sdar', .* found 'ppo'"
    ):
        parse_config({"methods": ["ppo"]})
    assert parse_config({"sweep": {"method": "sdar_gigpo"}}).sweep.method == "sdar_gigpo"
    with pytest.raises(SdarError, match=r"sweep\.method: Input should be 'sdar' or 'sdar_gigpo'"):
        parse_config({"sweep": {"method": "grpo"}})


def test_the_untrained_methods_are_the_start_of_training() -> None:
    assert UNTRAINED == (START, START_WITH_SKILL) == ("warm_start", "skill_prompt")
    start, with_skill = map(get_method, UNTRAINED)
    assert not start.evaluate_with_skill
    assert with_skill.evaluate_with_skill
    assert not any(METHODS[name].needs_teacher for name in UNTRAINED)
    assert set(TRAINED) | set(UNTRAINED) == set(METHODS)
    assert REFERENCE in TRAINED


def test_the_untrained_methods_are_evaluated_whether_listed_or_not() -> None:
    for listed in ([], ["warm_start"], ["skill_prompt", "warm_start"]):
        assert trained_among(["sdar", *listed, "grpo"]) == ["sdar", "grpo"]
        assert untrained_beside(["sdar", *listed, "grpo"]) == ["warm_start", "skill_prompt"]


def test_a_sweep_varies_methods_that_are_another_one_without_their_term() -> None:
    assert {name: get_method(name).without_distillation for name in SWEPT} == {
        "sdar": "grpo",
        "sdar_gigpo": "gigpo",
    }
