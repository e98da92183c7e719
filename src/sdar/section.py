"""What every part of the configuration is made of."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]

Changes = Literal["result", "rounding", "nothing"]
"""What a change of a key does to what a run computes. `result`: another result. `rounding`: the
same sums in another order, so the last digits differ. `nothing`: not a bit."""
ROUNDING = Field(json_schema_extra={"changes": "rounding"})
NOTHING = Field(json_schema_extra={"changes": "nothing"})
"""Marks of a field, as in `workers: Annotated[int, NOTHING] = 1`."""


class Section(BaseModel):
    """A part of the configuration: frozen, and strict about its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    unmarked: ClassVar[Changes] = "result"
    """What a change of a field without a mark does."""

    @classmethod
    def changes(cls, name: str) -> Changes:
        """What a change of the field `name` does."""
        extra = cls.model_fields[name].json_schema_extra
        mark = extra.get("changes") if isinstance(extra, dict) else None
        return mark if mark in ("rounding", "nothing") else cls.unmarked  # type: ignore[return-value]

    def leaves(self, prefix: str = "") -> Iterator[tuple[str, Any, Changes]]:
        """Each key in dotted form with its value as JSON has it, and what a change of it does."""
        values = self.model_dump(mode="json")
        for name in type(self).model_fields:
            value, key = getattr(self, name), f"{prefix}{name}"
            if isinstance(value, Section):
                yield from value.leaves(f"{key}.")
            else:
                yield key, values[name], self.changes(name)
