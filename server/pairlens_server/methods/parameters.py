"""Parameters of methods: described for clients, checked and filled in from the description."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from pairlens_server.errors import InvalidParameterError


class Profile(str, Enum):
    """Which of the formulas in circulation runs."""

    STRICT = "strict"  # the mathematically consistent form
    REFERENCE = "reference"  # what the authors' code does
    PAPER = "paper"  # what the paper prints


@dataclass(frozen=True)
class Parameter:
    """Description of one parameter of a method, for people and for clients.

    Attributes:
        name: Name of the parameter.
        type: "int", "float", "bool", "string", "enum", "ints" or "floats" (lists) or "box".
        default: What unset stands for; None when unset has a meaning of its own.
        description: What the values are, and what unset means.
        minimum, maximum: Inclusive range of an "int", a "float" or of each of a list.
        above: A "float", or each of "floats", is more than this.
        below: Likewise less than this.
        choices: Values of an "enum".
        noun: What a number counts, for messages about a model's range ("block").
    """

    name: str
    type: str
    default: object
    description: str
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    noun: str = ""

    @property
    def default_text(self) -> str:
        """The default as the contract shows it; "" for None."""
        if self.default is None:
            return ""
        if isinstance(self.default, bool):
            return str(self.default).lower()
        if isinstance(self.default, tuple):
            return ",".join(map(str, self.default))
        return str(self.default.value if isinstance(self.default, Enum) else self.default)

    def resolved(self, value: object, field: str) -> object:
        """The value to run with: the default where it is unset, checked against the range.

        Args:
            value: As given; None, or () for a list, when unset.
            field: Path of the field in the request, for the error.

        Raises:
            InvalidParameterError: Names the field and the range.
        """
        if value is None or value == ():
            return self.default
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, (int, float)) and not isinstance(number, bool):
                self._check(number, field)
        return value

    def _check(self, number: float, field: str) -> None:
        inside = (
            math.isfinite(number)
            and (self.minimum is None or number >= self.minimum)
            and (self.maximum is None or number <= self.maximum)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )
        if inside:
            return
        if self.noun:
            span = f"this model has {self.noun}s {self.minimum:g} to {self.maximum:g}"
            raise InvalidParameterError(
                f"{self.noun} {number:g} is out of range; {span}", field=field
            )
        bounds = [
            f"{word} {bound:g}"
            for word, bound in (
                ("at least", self.minimum),
                ("more than", self.above),
                ("at most", self.maximum),
                ("less than", self.below),
            )
            if bound is not None
        ]
        raise InvalidParameterError(
            f"{self.name} {number:g} is out of range; it is {', '.join(bounds)}", field=field
        )


def choices(enum: type[Enum]) -> tuple[str, ...]:
    """Values of an enum, as `Parameter.choices` takes them."""
    return tuple(str(member.value) for member in enum)
