"""First passes, so that no caller pays for first use."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from pairlens_server.engine.engine import Engine
from pairlens_server.errors import OutOfMemoryError, QueueFullError
from pairlens_server.methods.base import ExplanationMethod, Method
from pairlens_server.methods.catalogue import EXPLANATION_METHODS
from pairlens_server.methods.correspondence import Correspondence
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.recording.activations import Activation
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.primitives import Embedding, Logits
from pairlens_server.recording.probes import Probe, ProbeModel
from pairlens_server.recording.targets import ClassLogit, Similarity

_CLIENT = "(warm-up)"  # it has a fair share of the device while others are served
_ROOM_AGAIN_S = 0.1

_T = TypeVar("_T")

_log = logging.getLogger(__name__)


async def warm_up(engine: Engine, models: Sequence[LoadedModel]) -> None:
    """Run models once with each of their methods, and one changed copy of each probe.

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
        wanted = [Embedding(), *([Logits()] if facts.classes else [])]
        await _record(engine, model, wanted)
        for method in EXPLANATION_METHODS:
            if not method.refusal(facts):
                with _logged_where_it_does_not_fit(model, method):
                    await _explain(engine, model, facts, method().resolve(facts))
        if not Correspondence.refusal(facts):
            with _logged_where_it_does_not_fit(model, Correspondence):
                await _record(engine, model, Correspondence().pair_needs())
        engine.forget_speed(model)


@contextmanager
def _logged_where_it_does_not_fit(model: LoadedModel, method: type[Method]) -> Iterator[None]:
    try:
        yield
    except OutOfMemoryError:
        _log.warning("%s does not fit on the device with %s", model.name, method.name)


async def _explain(
    engine: Engine, model: LoadedModel, facts: ModelFacts, method: ExplanationMethod
) -> None:
    """All passes of a resolved method; of its probe, the first."""
    similarity = Similarity.to(torch.ones(1, facts.embedding_size))
    target = ClassLogit(0) if method.takes_class and facts.classes else similarity
    recorded = await _record(engine, model, method.needs(facts, target))
    probe = method.probe(recorded, facts, target)
    if probe is not None:
        first = _FirstCopy(probe)
        await _when_there_is_room(
            lambda: engine.probe(model, _picture(model), first, client=_CLIENT)
        )


async def _record(
    engine: Engine, model: LoadedModel, activations: Sequence[Activation]
) -> Mapping[Activation, Tensor]:
    if not activations:
        return {}
    recording = await _when_there_is_room(
        lambda: engine.record(model, _picture(model), activations, client=_CLIENT)
    )
    return recording.values


async def _when_there_is_room(run: Callable[[], Awaitable[_T]]) -> _T:
    while True:
        try:
            return await run()
        except QueueFullError as error:
            again_s = error.retry_after_s or _ROOM_AGAIN_S
        await asyncio.sleep(again_s)


def _picture(model: LoadedModel) -> Tensor:
    return torch.zeros(3, model.preprocessing.height, model.preprocessing.width)


@dataclass(frozen=True, eq=False)
class _FirstCopy(Probe):
    """The first copy of a probe: all that first use costs, without its hundreds of passes."""

    probe: Probe

    @property
    def steps(self) -> int:
        return 1

    @property
    def weight(self) -> int:
        return self.probe.weight

    def run(self, model: ProbeModel, pixels: Tensor, start: int, stop: int) -> Tensor:
        return self.probe.run(model, pixels, start, stop)

    def combine(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([part.flatten() for part in parts])
