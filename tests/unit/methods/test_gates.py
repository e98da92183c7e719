"""Every gate is declared, has a formula, and reads what its declaration says."""

import pytest
import torch
from torch import Tensor

from sdar.algorithms.gates import FORMULAS, compute_gate
from sdar.config import parse_config
from sdar.errors import SdarError
from sdar.methods.gates import CONSTANT, GATES, RUN_GATES, Gate

GAP, ENTROPY = torch.tensor([0.3, -1.0, 0.1]), torch.tensor([0.5, 1.5, 0.2])
each_gate = pytest.mark.parametrize("gate", GATES.values(), ids=list(GATES))


def compute(gate: Gate, **changed: object) -> Tensor:
    given: dict = {"gap": GAP, "entropy": ENTROPY, "beta": 5.0, "centre": 0.0, "scale": 0.5}
    return compute_gate(gate.name, **(given | changed))


def test_every_declared_gate_has_a_formula_and_every_formula_a_declaration() -> None:
    assert set(FORMULAS) == set(GATES)
    assert all(gate.name == name for name, gate in GATES.items())


@each_gate
def test_a_gate_reads_what_it_declares_and_nothing_else(gate: Gate) -> None:
    """What a variant, a plan or a heat map takes from the declaration is true of the formula."""
    usual = compute(gate)

    def matters(**changed: object) -> bool:
        return not torch.equal(usual, compute(gate, **changed))

    assert usual.shape == GAP.shape
    assert matters(gap=GAP + 2) == gate.reads_teacher == ("gap" in gate.reads)
    assert matters(entropy=ENTROPY + 0.4) == gate.reads_entropy == ("entropy" in gate.reads)
    assert matters(beta=2.0) == gate.uses_beta
    assert matters(centre=0.2) == matters(scale=0.7) == gate.uses_step


@each_gate
def test_the_entropy_is_asked_for_exactly_where_it_is_read(gate: Gate) -> None:
    if gate.reads_entropy:
        with pytest.raises(SdarError, match=f"gate '{gate.name}' needs the student's entropy"):
            compute(gate, entropy=None)
    else:
        assert torch.equal(compute(gate, entropy=None), compute(gate))


@each_gate
def test_a_sigmoid_without_sharpness_is_the_constant_gate(gate: Gate) -> None:
    """So that a sweep trains such cells once."""
    if gate.uses_beta or gate == CONSTANT:
        assert torch.equal(compute(gate, beta=0.0), compute(CONSTANT))


def test_a_run_chooses_from_the_gates_that_need_no_statistics_of_the_step() -> None:
    assert RUN_GATES == ("gap", "entropy", "soft_or", "none")
    assert not any(GATES[name].uses_step for name in RUN_GATES)
    assert set(GATES) - set(RUN_GATES) == {"adaptive"}


def test_the_configuration_takes_the_gates_a_run_may_choose() -> None:
    for name in RUN_GATES:
        config = parse_config(
            {"training": {"distillation": {"gate": name}}, "sweep": {"gates": [name]}}
        )
        assert (config.training.distillation.gate, config.sweep.gates) == (name, (name,))
    message = r"gate: Input should be 'gap', 'entropy', 'soft_or' or 'none'"
    with pytest.raises(SdarError, match=message):
        parse_config({"training": {"distillation": {"gate": "adaptive"}}})
