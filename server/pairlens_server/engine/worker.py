"""What runs on the device thread: recorders, their models, and nothing else."""

from __future__ import annotations

import traceback
from collections.abc import Sequence

import torch
from torch import Tensor

from pairlens_server.engine.entry import Chunk
from pairlens_server.errors import OutOfMemoryError
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.recording.activations import Activation, evaluate, primitives
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.recorder import Recorder

SCRATCH_BYTES = 2 * 2**30
"""What a batch may hold besides a plain forward pass; heavier ones run in parts."""

Job = tuple[Tensor, tuple[Activation, ...]]
"""Pixels float32 [3, H, W] and the activations wanted of them."""

Recorded = dict[Activation, Tensor]
"""Activations of one picture on the CPU."""


def _is_out_of_memory(error: BaseException) -> bool:
    # The CPU allocator raises a plain RuntimeError.
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _is_broken_device(error: Exception) -> bool:
    # After an error such as a device-side assert, every further call on the device fails.
    return (
        isinstance(error, RuntimeError)
        and not _is_out_of_memory(error)
        and "CUDA error" in str(error)
    )


def _alone(error: Exception) -> Exception:
    """The error of a picture that fails by itself, free of the frames that hold its tensors."""
    traceback.clear_frames(error.__traceback__)
    if _is_out_of_memory(error):
        return OutOfMemoryError("one picture alone does not fit on the device", retry_after_s=1.0)
    return error


class DeviceWorker:
    """Owns the recorders. Every call but `facts` belongs on the one device thread."""

    def __init__(self, models: Sequence[LoadedModel]):
        self._recorders: dict[str, Recorder] = {m.name: Recorder(m) for m in models}

    def facts(self, model: LoadedModel) -> ModelFacts:
        """What a model can give."""
        return self._recorders[model.name].facts

    def run(self, model: LoadedModel, jobs: Sequence[Job]) -> list[Recorded | Exception]:
        """Record a batch; a failing batch is halved until the failure stands alone.

        So a picture that cannot be computed never takes its batch mates with it, and a
        batch too large for the device runs in smaller ones.

        Returns:
            For each job its activations or the error of that job alone.

        Raises:
            RuntimeError: The device itself is broken; nothing will run on it any more.
        """
        try:
            return list(self._record(model, jobs))
        except Exception as error:
            if _is_broken_device(error):
                raise
            failure = _alone(error)
        # Only here, where the failed batch's tensors are let go, can smaller ones fit.
        if len(jobs) == 1:
            return [failure]
        if isinstance(failure, OutOfMemoryError) and model.device.type == "cuda":
            torch.cuda.empty_cache()
        half = len(jobs) // 2
        return [*self.run(model, jobs[:half]), *self.run(model, jobs[half:])]

    def run_chunk(
        self, model: LoadedModel, pixels: Tensor, chunk: Chunk
    ) -> tuple[Tensor, ...] | Exception:
        """Run some of a probe's copies; a chunk too large for the device runs in halves.

        Args:
            model: The model that is asked.
            pixels: float32 of the clean picture or pictures, on the CPU, as the probe takes
                them: see `Engine.probe`.
            chunk: Which copies.

        Returns:
            Partial results in order, on the CPU, or the error.

        Raises:
            RuntimeError: The device itself is broken; nothing will run on it any more.
        """
        recorder = self._recorders[model.name]
        try:
            clean = pixels.to(model.device)
            return (chunk.probe.run(recorder, clean, chunk.start, chunk.stop).cpu(),)
        except Exception as error:
            if _is_broken_device(error):
                raise
            failure = _alone(error)
        if chunk.stop - chunk.start == 1 or not isinstance(failure, OutOfMemoryError):
            return failure
        if model.device.type == "cuda":
            torch.cuda.empty_cache()
        middle = (chunk.start + chunk.stop) // 2
        parts: tuple[Tensor, ...] = ()
        for start, stop in ((chunk.start, middle), (middle, chunk.stop)):
            half = self.run_chunk(model, pixels, Chunk(chunk.probe, start, stop))
            if isinstance(half, Exception):
                return half
            parts += half
        return parts

    def _record(self, model: LoadedModel, jobs: Sequence[Job]) -> list[Recorded]:
        facts = self._recorders[model.name].facts
        needed = [
            sum(p.scratch_bytes(facts) for p in primitives(activations, facts))
            for _, activations in jobs
        ]
        results: list[Recorded] = []
        for start, stop in _within(needed, SCRATCH_BYTES):
            results += self._record_at_once(model, jobs[start:stop])
        return results

    def _record_at_once(self, model: LoadedModel, jobs: Sequence[Job]) -> list[Recorded]:
        recorder = self._recorders[model.name]
        asked: dict[Activation, list[int]] = {}
        wanted: dict[Activation, list[int]] = {}
        for picture, (_, activations) in enumerate(jobs):
            for activation in dict.fromkeys(activations):
                asked.setdefault(activation, []).append(picture)
            for primitive in primitives(activations, recorder.facts):
                wanted.setdefault(primitive, []).append(picture)
        found = recorder.record(torch.stack([pixels for pixels, _ in jobs]), wanted)
        results: list[Recorded] = [{} for _ in jobs]
        with torch.no_grad():
            for activation, pictures in asked.items():
                inputs = {
                    primitive: _rows(found[primitive], wanted[primitive], pictures)
                    for primitive in primitives([activation], recorder.facts)
                }
                batch = evaluate(activation, inputs, recorder.facts).cpu()
                for row, picture in enumerate(pictures):
                    # A row that is a view would keep its whole batch in memory when cached.
                    results[picture][activation] = batch[row].clone(
                        memory_format=torch.contiguous_format
                    )
        return results


def _within(needed: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """Cut jobs into runs that need no more than a limit together, or are one job alone."""
    cuts, total = [0], 0
    for index, amount in enumerate(needed):
        if index > cuts[-1] and total + amount > limit:
            cuts.append(index)
            total = 0
        total += amount
    return list(zip(cuts, [*cuts[1:], len(needed)], strict=True))


def _rows(tensor: Tensor, held: list[int], pictures: list[int]) -> Tensor:
    if held == pictures:
        return tensor
    position = {picture: row for row, picture in enumerate(held)}
    return tensor[[position[picture] for picture in pictures]]
