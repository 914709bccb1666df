"""What a method can ask a forward pass to leave behind.

An activation is a frozen value: two requests that name equal activations share
the work and the cache entry. Tensors are float32 and batched over pictures in
the first dimension; the shapes below leave that dimension out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from typing import ClassVar

from torch import Tensor

from pairlens_server.recording.facts import ModelFacts


@dataclass(frozen=True)
class Activation:
    """Base of all activations; equal values name the same tensor.

    Attributes:
        exact: Whether it is kept as float32 whatever the cache's precision is: small, and
            read by callers as it stands.
    """

    exact: ClassVar[bool] = False

    def scratch_bytes(self, facts: ModelFacts) -> int:
        """About how much memory it takes on the device, a picture, until a batch is done.

        Only what grows with the square of the tokens, or with depth, is counted.
        """
        return 0

    @property
    def key(self) -> str:
        """Stable text form, part of cache keys: `FusedAttention(block=3, fusion=mean)`."""
        values = ((f.name, getattr(self, f.name)) for f in fields(self))
        return f"{type(self).__name__}({', '.join(f'{n}={_text(v)}' for n, v in values)})"


def _text(value: object) -> str:
    # An enum's own text form differs between Python releases; a target's bytes are long.
    if isinstance(value, Enum):
        return str(value.value)
    return str(getattr(value, "key", value))


class Derived(Activation, ABC):
    """An activation computed from others on the device, so that only it is kept."""

    @abstractmethod
    def inputs(self, facts: ModelFacts) -> tuple[Activation, ...]:
        """The activations it is computed from."""

    @abstractmethod
    def derive(self, recorded: Mapping[Activation, Tensor], facts: ModelFacts) -> Tensor:
        """Compute it, batched, from its inputs on their device."""


Wanted = Mapping[Activation, Sequence[int]]
"""For each primitive activation, the pictures of the batch that it is wanted of, ascending."""


def primitives(activations: Iterable[Activation], facts: ModelFacts) -> set[Activation]:
    """Replace derived activations by what they are computed from, all the way down."""
    found: set[Activation] = set()
    for activation in activations:
        if isinstance(activation, Derived):
            found |= primitives(activation.inputs(facts), facts)
        else:
            found.add(activation)
    return found


def evaluate(
    activation: Activation, recorded: Mapping[Activation, Tensor], facts: ModelFacts
) -> Tensor:
    """Look an activation up, or derive it."""
    if not isinstance(activation, Derived):
        return recorded[activation]
    inputs = {a: evaluate(a, recorded, facts) for a in activation.inputs(facts)}
    return activation.derive(inputs, facts)
