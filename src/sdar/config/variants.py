"""The variants of a sweep: which runs fill its grid, what each is called and configured. Pure.

Cells that train alike by construction are one variant, trained once:
- lambda = 0 adds nothing to the loss: it is the baseline, GRPO (GiGPO under `sdar_gigpo`);
- a gate that uses beta is at beta = 0 the constant one half, gate `none`;
- a gate that does not use beta (`none`) trains alike under every beta;
- a gate that reads no gap (`none`, `entropy`) does not see what the teacher says, nor the skill.
Retrieval `none` is no such case for gates that read the gap: the teacher is scored once per step,
and the student differs from it after the step's first update.
"""

from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from sdar.config.models import ExperimentConfig
from sdar.config.sweep import RetrievalKind, SweepConfig
from sdar.errors import SdarError
from sdar.methods.declarations import get_method
from sdar.methods.gates import CONSTANT, GATES, RunGate


class Cell(NamedTuple):
    """One combination of the sweep's lists."""

    gate: RunGate
    beta: float
    coefficient: float
    retrieval: RetrievalKind
    share: float = 1.0


@dataclass(frozen=True)
class SweepVariant:
    """What is trained for one or more cells; `cell` is None for the baseline."""

    name: str
    method: str
    cell: Cell | None


def baseline(sweep: SweepConfig) -> SweepVariant:
    """The sweep's method at lambda = 0."""
    name = get_method(sweep.method).without_distillation or sweep.method
    return SweepVariant(name, name, None)


def sweep_cells(config: ExperimentConfig) -> dict[Cell, SweepVariant]:
    """Every cell of the grid, in the order of the lists, with the variant that fills it.

    Raises SdarError, with what to set, when the configuration has no sweep.
    """
    sweep, usual = config.sweep, config.training.distillation
    if not sweep.is_set:
        raise SdarError(
            "sweep: nothing to vary; list values under sweep.gates, sweep.betas, "
            "sweep.coefficients, sweep.retrievals or sweep.shares "
            "(config/experiments/sweep.yaml is an example)"
        )
    grid = product(
        sweep.gates or (usual.gate,),
        sweep.betas or (usual.beta,),
        sweep.coefficients or (usual.coefficient,),
        sweep.retrievals or (config.skills.retrieval,),
        sweep.shares or (usual.share,),
    )
    return {Cell(*values): _variant(Cell(*values), config) for values in grid}


def sweep_variants(config: ExperimentConfig) -> list[SweepVariant]:
    """The runs of the sweep without repeats, the baseline first."""
    return list(dict.fromkeys([baseline(config.sweep), *sweep_cells(config).values()]))


def find_variant(config: ExperimentConfig, name: str) -> SweepVariant:
    """The variant of this name. Raises SdarError listing those there are."""
    known = {variant.name: variant for variant in sweep_variants(config)}
    if name not in known:
        raise SdarError(f"--variant {name}: not in the sweep, which has {', '.join(known)}")
    return known[name]


def sweep_seeds(config: ExperimentConfig) -> tuple[int, ...]:
    """Run seeds of every variant."""
    return config.sweep.seeds or config.seeds


def sweep_panels(config: ExperimentConfig) -> tuple[str, ...]:
    """Panels every variant is evaluated on."""
    return config.sweep.panels or config.evaluation.panels[:1]


def variant_config(config: ExperimentConfig, variant: SweepVariant) -> ExperimentConfig:
    """The whole configuration of one variant's runs: no sweep in it, and nothing implied."""
    values = config.model_dump()
    values["methods"], values["seeds"] = (variant.method,), sweep_seeds(config)
    values["evaluation"]["panels"] = sweep_panels(config)
    values["training"]["steps"] = config.sweep.steps or config.training.steps
    if variant.cell is None:
        values["training"]["distillation"]["coefficient"] = 0.0
    else:
        cell = variant.cell._asdict()
        values["skills"]["retrieval"] = cell.pop("retrieval")
        values["training"]["distillation"] |= cell
    limit = config.sweep.max_teacher_prompt_tokens
    if limit is not None:
        policy, known = values["policy"], config.context
        policy["max_teacher_prompt_tokens"] = limit
        if known is not None:
            policy["context"] = max(known, limit + policy["max_response_tokens"])
    values["sweep"] = {}
    return ExperimentConfig.model_validate(values)


def _variant(cell: Cell, config: ExperimentConfig) -> SweepVariant:
    method, usual = config.sweep.method, config.training.distillation
    if cell.coefficient == 0:
        return baseline(config.sweep)
    gate = GATES[cell.gate]
    if gate.uses_beta and cell.beta == 0:
        gate = CONSTANT
    cell, name = cell._replace(gate=gate.name), [gate.name]
    if gate.uses_beta:
        name.append(f"beta{_number(cell.beta)}")
    else:
        cell = cell._replace(beta=usual.beta)
    name.append(f"lambda{_number(cell.coefficient)}")
    if gate.reads_teacher:
        name.append(cell.retrieval)
    else:
        cell = cell._replace(retrieval="type")
    if cell.share != 1:
        name.append(f"share{_number(cell.share)}")
    return SweepVariant("-".join(name), method, cell)


def _number(value: float) -> str:
    """Short, and different for different numbers."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)
