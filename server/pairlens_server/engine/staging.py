"""Pictures of a batch made ready for the device while it runs another batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(eq=False)
class Staged:
    """The pictures of a batch in one tensor.

    Attributes:
        pixels: float32 [B, 3, H, W] on the device, where they may still be on their way;
            None once they were taken.
        arrived: On a GPU: when they are there.
        rows: Those that are still wanted, ascending; None for all.
    """

    pixels: Tensor | None
    arrived: torch.cuda.Event | None = None
    rows: tuple[int, ...] | None = None

    def take(self) -> Tensor | None:
        """Hand over the pictures that are still wanted, for the stream that runs the model.

        Nothing holds on to them then, so that a batch which does not fit leaves no trace.
        """
        pixels, self.pixels = self.pixels, None
        if pixels is None:
            return None
        if self.arrived is not None:
            stream = torch.cuda.current_stream(pixels.device)
            stream.wait_event(self.arrived)
            # Else their memory could be used again by the stream that copied them.
            pixels.record_stream(stream)
        return pixels if self.rows is None else pixels[list(self.rows)]


class Stager:
    """Stacks pictures, and copies them to a GPU on a stream of its own; for one thread."""

    def __init__(self) -> None:
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def stage(self, pixels: Sequence[Tensor], device: torch.device) -> Staged:
        """Make pictures ready.

        Args:
            pixels: float32 [3, H, W] each, on the CPU.
            device: Where they are needed.

        Raises:
            RuntimeError: They are not of one shape, or do not fit on the device.
        """
        if device.type != "cuda":
            return Staged(torch.stack(list(pixels)))
        shape = (len(pixels), *pixels[0].shape)
        # A copy from pinned memory is faster, and runs beside the model.
        stacked = torch.stack(list(pixels), out=torch.empty(shape, pin_memory=True))
        stream = self._streams.get(device)
        if stream is None:
            stream = self._streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            return Staged(stacked.to(device, non_blocking=True), stream.record_event())
