"""What every method offers, and how its parameters are described and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, ClassVar, Protocol

from torch import Tensor

from pairlens_server.errors import InvalidParameterError
from pairlens_server.recording.activations import Activation
from pairlens_server.recording.facts import ModelFacts

if TYPE_CHECKING:
    from typing_extensions import Self


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
        type: "int", "bool" or "enum".
        default: The default as text; "" when unset has a meaning of its own.
        description: What the values are, and what unset means.
        minimum, maximum: Inclusive range of an "int".
        choices: Values of an "enum".
    """

    name: str
    type: str
    default: str
    description: str
    minimum: int | None = None
    maximum: int | None = None
    choices: tuple[str, ...] = ()


class Method(Protocol):
    """A method with its parameters: a frozen value.

    Attributes:
        name: Name in the contract.
        revision: Changes whenever the method's numbers do.
        summary: One line on what the map shows.
    """

    name: ClassVar[str]
    revision: ClassVar[int]
    summary: ClassVar[str]

    @classmethod
    def refusal(cls, facts: ModelFacts) -> str:
        """Why a model cannot give this method, or "" when it can."""
        ...

    @classmethod
    def parameters(cls, facts: ModelFacts) -> tuple[Parameter, ...]:
        """The parameters with ranges and defaults for a model that can give the method."""
        ...

    def resolve(self, facts: ModelFacts) -> Self:
        """Fill in the defaults for a model.

        Raises:
            InvalidParameterError: A parameter is out of range for this model.
            MethodUnsupportedError: The model cannot give what a parameter asks for.
        """
        ...


class ExplanationMethod(Method, Protocol):
    """A method of Explain.

    Attributes:
        takes_target: Whether the map depends on a class.
    """

    takes_target: ClassVar[bool]

    def needs(self, class_index: int | None) -> tuple[Activation, ...]:
        """Activations that the map is computed from; call on a resolved method.

        Args:
            class_index: The class to explain, None for the predicted one; ignored by
                methods that take no target.
        """
        ...

    def heatmap(
        self, recorded: Mapping[Activation, Tensor], facts: ModelFacts, class_index: int | None
    ) -> Tensor:
        """Compute maps: float32 [B, rows, columns], unnormalised, from batched activations."""
        ...


def check_range(value: int, upper: int, field: str, noun: str) -> None:
    """Refuse an index outside 0..upper.

    Raises:
        InvalidParameterError: Names the field and the range.
    """
    if not 0 <= value <= upper:
        raise InvalidParameterError(
            f"{noun} {value} is out of range; this model has {noun}s 0 to {upper}", field=field
        )


PROFILE_CHOICES = tuple(profile.value for profile in Profile)
