"""First passes, so that no caller pays for first use."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from pairlens_server.engine.engine import Engine
from pairlens_server.errors import OutOfMemoryError, QueueFullError
from pairlens_server.methods.catalogue import EXPLANATION_METHODS
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.recording.activations import Activation
from pairlens_server.recording.primitives import Embedding, Logits
from pairlens_server.recording.targets import ClassLogit, Similarity

_CLIENT = "(warm-up)"  # it has a fair share of the device while others are served
_ROOM_AGAIN_S = 0.1

_log = logging.getLogger(__name__)


async def warm_up(engine: Engine, models: Sequence[LoadedModel]) -> None:
    """Run models once with each of their methods.

    A method that does not fit on the device is logged, and refused when it is called.

    Args:
        engine: Runs them, in between what else it has to do.
        models: Of those that it has loaded.

    Raises:
        OutOfMemoryError: A model does not fit by itself.
        PairlensError: As `Engine.record`.
    """
    for model in models:
        facts = engine.facts(model)
        pixels = torch.zeros(3, model.preprocessing.height, model.preprocessing.width)
        similarity = Similarity.to(torch.ones(1, facts.embedding_size))
        await _run(engine, model, pixels, [Embedding(), *([Logits()] if facts.classes else [])])
        for method in EXPLANATION_METHODS:
            if method.refusal(facts):
                continue
            target = ClassLogit(0) if method.takes_class and facts.classes else similarity
            wanted = method().resolve(facts).needs(facts, target)
            try:
                await _run(engine, model, pixels, wanted)
            except OutOfMemoryError:
                _log.warning("%s does not fit on the device with %s", model.name, method.name)
        engine.forget_speed(model)


async def _run(
    engine: Engine, model: LoadedModel, pixels: Tensor, activations: Sequence[Activation]
) -> None:
    while (again_s := await _refused(engine, model, pixels, activations)) is not None:
        await asyncio.sleep(again_s)


async def _refused(
    engine: Engine, model: LoadedModel, pixels: Tensor, activations: Sequence[Activation]
) -> float | None:
    """Seconds to wait where there was no room; None once it has run."""
    try:
        await engine.record(model, pixels, activations, client=_CLIENT)
    except QueueFullError as error:
        return error.retry_after_s or _ROOM_AGAIN_S
    return None
