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

from torch import Tensor

from pairlens_server.recording.facts import ModelFacts


@dataclass(frozen=True)
class Activation:
    """Base of all activations; equal values name the same tensor."""

    @property
    def key(self) -> str:
        """Stable text form, part of cache keys: `MeanAttention(block=3)`."""
        values = ((f.name, getattr(self, f.name)) for f in fields(self))
        # An enum's own text form differs between Python releases.
        plain = (f"{n}={v.value if isinstance(v, Enum) else v}" for n, v in values)
        return f"{type(self).__name__}({', '.join(plain)})"


@dataclass(frozen=True)
class ReadoutAttention(Activation):
    """[heads, tokens]: attention of the readout to every token, mean over readout tokens.

    The class token's row of the post-softmax attention, or the mean of the rows of
    all tokens that the head reads. Rows sum to 1.
    """

    block: int


@dataclass(frozen=True)
class MeanAttention(Activation):
    """[tokens, tokens]: post-softmax attention, mean over heads; rows are output tokens."""

    block: int


@dataclass(frozen=True)
class Logits(Activation):
    """[classes]: output of the class head."""


@dataclass(frozen=True)
class Embedding(Activation):
    """[embedding_size]: pooled features after the projection, not normalised."""


@dataclass(frozen=True)
class PooledParts(Activation):
    """[tokens, embedding_size]: what each token adds to the embedding.

    Sums over tokens to the embedding less `ModelFacts.embedding_constant`, exactly:
    tokens through the projection over their number for mean pooling, winners only
    for max pooling. Zero on tokens that are not pooled.
    """


@dataclass(frozen=True)
class FeatureMap(Activation):
    """[channels, rows, columns]: the features that a CAM weighs, at its default layer."""


@dataclass(frozen=True)
class FeatureGradient(Activation):
    """[channels, rows, columns]: gradient of one class's logit by the FeatureMap.

    Attributes:
        class_index: The class, or None for the one with the largest logit.
    """

    class_index: int | None


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
