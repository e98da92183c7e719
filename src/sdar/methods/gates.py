"""Which gates there are: how strongly a token is distilled. Their formulas are in
`sdar.algorithms.gates`."""

from typing import Literal, get_args

GateName = Literal["gap", "entropy", "soft_or", "none"]
GATES: tuple[str, ...] = get_args(GateName)
"""What a run may choose from."""
MethodGate = Literal["gap", "entropy", "soft_or", "none", "adaptive"]
"""What a method may fix; `adaptive` needs the step's statistics, so it is a method's own."""
