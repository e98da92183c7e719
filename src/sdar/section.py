"""What every part of the configuration is made of."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
)

from sdar.redaction import has_secret, redact

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]
"""A fraction that is not nothing."""
NonNegative = Annotated[float, Field(ge=0.0)]
LONGEST_NAME = 100


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("is no number: give one")
    return value


def name_of(characters: str, said: str) -> Any:
    """The type of a name that becomes a part of paths and a word of commands. `characters` are
    those of a regular expression, `said` the same for people; none of `.`, `-` comes first."""
    pattern = rf"[{characters}][{characters}.-]{{0,{LONGEST_NAME - 1}}}"

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value, re.ASCII):
            raise ValueError(
                f"names files and folders, so its pattern is at most {LONGEST_NAME} {said}, "
                "digits, `.`, `_` and `-`, the first no `.` or `-`"
            )
        return value

    return Annotated[
        str,
        AfterValidator(check),
        Field(json_schema_extra={"pattern": f"^{pattern}$"}),
    ]


if TYPE_CHECKING:
    Name = str
else:
    Name = name_of("A-Za-z0-9_", "letters")
Seed = Annotated[int, BeforeValidator(_no_truth), Field(ge=0, lt=2**32)]
"""Of a run: it is in the run's path."""

Changes = Literal["result", "rounding", "nothing"]
"""What a change of a key does to what a run computes. `result`: another result. `rounding`: the
same sums in another order, so the last digits differ. `nothing`: not a bit."""
ROUNDING = Field(json_schema_extra={"changes": "rounding"})
NOTHING = Field(json_schema_extra={"changes": "nothing"})
"""Marks of a field, as in `workers: Annotated[int, NOTHING] = 1`."""

Uri = Annotated[str, PlainSerializer(redact, when_used="json"), Field(repr=False)]
"""An address that may hold a password: whatever is written or shown of it is without."""


def _without_secret(url: str) -> str:
    if has_secret(url):
        raise ValueError(
            "a password or token here would stand in every record; leave it out, and put a bearer "
            "token into the environment (SDAR_RETRIEVER_TOKEN for search servers, VLLM_API_KEY for "
            "vLLM)"
        )
    return url


Url = Annotated[str, AfterValidator(_without_secret)]
"""An address that results depend on, so that it stands in records: it holds no secret."""


class Section(BaseModel):
    """A part of the configuration: frozen, and strict about its keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )
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
