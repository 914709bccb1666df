"""Activations of one picture, however they were got."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from pairlens_server.cache.packing import Packed
from pairlens_server.recording.activations import Activation


class Recorded(Mapping[Activation, Tensor]):
    """Activations of one picture: float32 CPU tensors without a batch dimension.

    Unpacked when they are first looked at, in whatever thread that is.

    Args:
        packed: As they are kept.
    """

    def __init__(self, packed: Mapping[Activation, Packed]):
        self.packed = packed
        self._values: dict[Activation, Tensor] = {}

    def __getitem__(self, activation: Activation) -> Tensor:
        value = self._values.get(activation)
        if value is None:
            value = self._values[activation] = self.packed[activation].unpack()
        return value

    def __iter__(self) -> Iterator[Activation]:
        return iter(self.packed)

    def __len__(self) -> int:
        return len(self.packed)

    @property
    def numbers(self) -> int:
        """How many numbers they hold."""
        return sum(packed.data.numel() for packed in self.packed.values())

    def renamed(self, names: Mapping[Activation, Activation]) -> Recorded:
        """The same, some of them under other names."""
        return Recorded({names.get(a, a): packed for a, packed in self.packed.items()})

    def joined(self, other: Recorded) -> Recorded:
        """These and others."""
        return Recorded({**self.packed, **other.packed})


@dataclass(frozen=True, eq=False)
class PictureRecording:
    """Activations of one picture and where they came from.

    Attributes:
        values: float32 CPU tensors without a batch dimension.
        cached: Whether all of them were in the cache.
        queue_s, compute_s: Seconds; 0 when cached, or when another call's pass was shared.
    """

    values: Recorded
    cached: bool
    queue_s: float = 0.0
    compute_s: float = 0.0

    def emptied(self) -> PictureRecording:
        """This without the values, for the books."""
        return replace(self, values=Recorded({}))

    def joined(self, later: PictureRecording) -> PictureRecording:
        """This and what was got after it of the same picture."""
        return PictureRecording(
            self.values.joined(later.values),
            cached=self.cached and later.cached,
            queue_s=self.queue_s + later.queue_s,
            compute_s=self.compute_s + later.compute_s,
        )


NOTHING = PictureRecording(Recorded({}), cached=True)
"""Where books begin."""
