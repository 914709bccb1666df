"""What runs on the device thread: recorders, their models, and nothing else."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from pairlens_server.engine.entry import Chunk, no_longer_served
from pairlens_server.engine.staging import Staged, Stager
from pairlens_server.errors import OutOfMemoryError
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.recording.activations import Activation, evaluate, primitives
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.recorder import Recorder

SCRATCH_BYTES = 2 * 2**30
"""What a batch may hold besides a plain forward pass; heavier ones run in parts."""

_COSTS_KEPT = 1024

Job = tuple[Tensor, tuple[Activation, ...]]
"""Pixels float32 [3, H, W] and the activations wanted of them."""

Recorded = dict[Activation, Tensor]
"""Activations of one picture on the CPU."""


class Backend(Protocol):
    """What the engine has its batches run by; see `DeviceWorker`."""

    def add(self, models: Sequence[LoadedModel]) -> None:
        """Take further models on, while others run."""
        ...

    def remove(self, models: Sequence[LoadedModel]) -> None:
        """Let go of models that nothing waits for any more."""
        ...

    def facts(self, model: LoadedModel) -> ModelFacts:
        """What a model can give."""
        ...

    def cost(self, model: LoadedModel, activations: tuple[Activation, ...]) -> float:
        """Plain forward passes of one picture that recording these takes."""
        ...

    def stage(self, model: LoadedModel, pixels: Sequence[Tensor]) -> Staged | None:
        """Make pictures ready, on a thread of its own."""
        ...

    def run(
        self, model: LoadedModel, jobs: Sequence[Job], staged: Staged | None = None
    ) -> list[Recorded | Exception]:
        """Record a batch."""
        ...

    def run_chunk(
        self, model: LoadedModel, pixels: Tensor, chunk: Chunk
    ) -> tuple[Tensor, ...] | Exception:
        """Run some of a probe's copies."""
        ...


def is_out_of_memory(error: BaseException) -> bool:
    """Whether something did not fit into the memory of the device or of the machine."""
    # The CPU allocator raises a plain RuntimeError.
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def is_broken_device(error: BaseException) -> bool:
    """Whether the device can run nothing any more, as after a device-side assert."""
    return (
        isinstance(error, RuntimeError)
        and not is_out_of_memory(error)
        and "CUDA error" in str(error)
    )


def _alone(error: Exception) -> Exception:
    """The error of a picture that fails by itself, free of the frames that hold its tensors."""
    traceback.clear_frames(error.__traceback__)
    if is_out_of_memory(error):
        return OutOfMemoryError("one picture alone does not fit on the device", retry_after_s=1.0)
    return error


class DeviceWorker:
    """Owns the recorders.

    `facts` and `cost` belong to any thread, `stage` to one, and so does `add`, whose models no
    other thread knows yet. All else belongs to the one device thread.

    Models are told apart by themselves, not by their names: while one is replaced, two have the
    same.
    """

    def __init__(self, models: Sequence[LoadedModel]):
        self._recorders: dict[LoadedModel, Recorder] = {}
        self._costs: dict[LoadedModel, Callable[[tuple[Activation, ...]], float]] = {}
        self._stager = Stager()
        self.add(models)

    def add(self, models: Sequence[LoadedModel]) -> None:
        """Take further models on; runs each once, to look it over."""
        recorders = {model: Recorder(model) for model in models}
        for model, recorder in recorders.items():
            self._costs[model] = lru_cache(maxsize=_COSTS_KEPT)(recorder.cost)
        self._recorders.update(recorders)

    def remove(self, models: Sequence[LoadedModel]) -> None:
        """Let go of models; what still asks for one fails by itself."""
        for model in models:
            self._recorders.pop(model, None)
            self._costs.pop(model, None)

    def facts(self, model: LoadedModel) -> ModelFacts:
        """What a model can give.

        Raises:
            ModelNotFoundError: It is not among these models any more.
        """
        return self._of(model).facts

    def cost(self, model: LoadedModel, activations: tuple[Activation, ...]) -> float:
        """Plain forward passes of one picture that recording these takes; see `Recorder.cost`.

        Raises:
            ModelNotFoundError: As `facts`.
        """
        cost = self._costs.get(model)
        if cost is None:
            raise no_longer_served(model)
        return cost(activations)

    def stage(self, model: LoadedModel, pixels: Sequence[Tensor]) -> Staged | None:
        """Make the pictures of a batch ready for `run`.

        Returns:
            None when that fails; `run` then finds out whose fault it is.
        """
        try:
            return self._stager.stage(pixels, model.device)
        except Exception:
            return None

    def run(
        self, model: LoadedModel, jobs: Sequence[Job], staged: Staged | None = None
    ) -> list[Recorded | Exception]:
        """Record a batch; a failing batch is halved until the failure stands alone.

        So a picture that cannot be computed never takes its batch mates with it, and a
        batch too large for the device runs in smaller ones.

        Args:
            model: The model to run.
            jobs: Of the pictures.
            staged: The pictures, where they were made ready beforehand.

        Returns:
            For each job its activations or the error of that job alone.

        Raises:
            RuntimeError: The device itself is broken; nothing will run on it any more.
        """
        try:
            return list(self._record(model, jobs, None if staged is None else staged.take()))
        except Exception as error:
            if is_broken_device(error):
                raise
            failure = _alone(error)
        # Only here, where the failed batch's tensors are let go, can smaller ones fit.
        if len(jobs) == 1:
            return [failure]
        if isinstance(failure, OutOfMemoryError):
            _empty_cache(model)
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
        try:
            recorder = self._of(model)
            clean = pixels.to(model.device)
            return (chunk.probe.run(recorder, clean, chunk.start, chunk.stop).cpu(),)
        except Exception as error:
            if is_broken_device(error):
                raise
            failure = _alone(error)
        if chunk.stop - chunk.start == 1 or not isinstance(failure, OutOfMemoryError):
            return failure
        _empty_cache(model)
        middle = (chunk.start + chunk.stop) // 2
        parts: tuple[Tensor, ...] = ()
        for start, stop in ((chunk.start, middle), (middle, chunk.stop)):
            half = self.run_chunk(model, pixels, Chunk(chunk.probe, start, stop))
            if isinstance(half, Exception):
                return half
            parts += half
        return parts

    def _of(self, model: LoadedModel) -> Recorder:
        recorder = self._recorders.get(model)
        if recorder is None:
            raise no_longer_served(model)
        return recorder

    def _record(
        self, model: LoadedModel, jobs: Sequence[Job], pixels: Tensor | None
    ) -> list[Recorded]:
        facts = self._of(model).facts
        needed = [
            sum(p.scratch_bytes(facts) for p in primitives(activations, facts))
            for _, activations in jobs
        ]
        results: list[Recorded] = []
        for start, stop in _within(needed, SCRATCH_BYTES):
            part = jobs[start:stop]
            stacked = torch.stack([p for p, _ in part]) if pixels is None else pixels[start:stop]
            results += self._record_at_once(model, part, stacked)
        return results

    def _record_at_once(
        self, model: LoadedModel, jobs: Sequence[Job], pixels: Tensor
    ) -> list[Recorded]:
        recorder = self._of(model)
        asked: dict[Activation, list[int]] = {}
        wanted: dict[Activation, list[int]] = {}
        for picture, (_, activations) in enumerate(jobs):
            for activation in dict.fromkeys(activations):
                asked.setdefault(activation, []).append(picture)
            for primitive in primitives(activations, recorder.facts):
                wanted.setdefault(primitive, []).append(picture)
        found = recorder.record(pixels, wanted)
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


def _empty_cache(model: LoadedModel) -> None:
    if model.device.type == "cuda":
        torch.cuda.empty_cache()


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
