"""The gates, one declaration each: how strongly a sampled token is distilled.

Nothing here computes: `sdar.algorithms.gates` has the formula of every name in `GATES`. What other
places ask (does beta matter, does the teacher, which tokens' entropy is needed) they ask here.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

Reading = Literal["gap", "entropy"]


@dataclass(frozen=True)
class Gate:
    """What a gate depends on, and who may choose it."""

    name: str
    reads: frozenset[Reading] = frozenset()
    """Of each token: its `gap` (log p_teacher - log p_student) and the student's `entropy`."""
    uses_beta: bool = True
    """A sigmoid of sharpness beta: one half everywhere at beta = 0."""
    uses_step: bool = False
    """Reads where the gaps of the whole step lie (`algorithms.context.StepContext`) as well."""
    chosen_by_runs: bool = True
    """May be a run's `training.distillation.gate`; otherwise only a method's declaration fixes it.
    Not for a gate that uses the step: then every method would have to prepare the step's context.
    """

    @property
    def reads_teacher(self) -> bool:
        """What the teacher says, and so the skill in its prompt, changes the gate."""
        return "gap" in self.reads

    @property
    def reads_entropy(self) -> bool:
        """The student's entropy changes the gate."""
        return "entropy" in self.reads


CONSTANT = Gate("none", uses_beta=False)
"""One half everywhere."""

_DECLARATIONS = (
    Gate("gap", reads=frozenset({"gap"})),
    Gate("entropy", reads=frozenset({"entropy"})),
    Gate("soft_or", reads=frozenset({"gap", "entropy"})),
    CONSTANT,
    Gate("adaptive", frozenset({"gap"}), uses_beta=False, uses_step=True, chosen_by_runs=False),
)

GATES: dict[str, Gate] = {gate.name: gate for gate in _DECLARATIONS}
RUN_GATES: tuple[str, ...] = tuple(name for name, gate in GATES.items() if gate.chosen_by_runs)
"""What a run may choose from."""

if TYPE_CHECKING:
    RunGate = str
else:
    # For the configuration: pydantic checks a value against the table.
    RunGate = Literal[RUN_GATES]
