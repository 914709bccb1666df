"""What the event loop owns, as it was at its last beat, for the threads that answer scrapes.

Queue, cache, gate and registry are the event loop's alone. A scrape neither reads them from its
own thread, where a count could be half done, nor waits for a loop that may hang: it gets the last
snapshot, which is a fraction of a second old.
"""

from __future__ import annotations

from dataclasses import dataclass

from pairlens_server.cache.stats import CacheStats
from pairlens_server.cache.tiers import Cache
from pairlens_server.engine.engine import Engine
from pairlens_server.engine.entry import QueueReport
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.models.registry import ModelRegistry
from pairlens_server.rpc.gate import Gate


@dataclass(frozen=True)
class Watched:
    """Where snapshots are taken; see `Telemetry.watch`."""

    engine: Engine
    cache: Cache
    registry: ModelRegistry
    gate: Gate


@dataclass(frozen=True)
class ModelFacts:
    """Of a served model, without the model: a snapshot keeps no weights alive."""

    name: str
    architecture: str
    family: str
    fingerprint: str
    dtype: str
    device: str


@dataclass(frozen=True)
class Snapshot:
    """One moment.

    Attributes:
        queue: What waits for the device.
        queue_limit: Bound of its cost.
        cache: Of both tiers; nothing was asked of Redis for it.
        models: That are served.
        calls: Under way.
        request_bytes, request_bytes_limit: Of their requests, and the bound.
    """

    queue: QueueReport
    queue_limit: float
    cache: CacheStats
    models: tuple[ModelFacts, ...]
    calls: int
    request_bytes: int
    request_bytes_limit: int


def take(watched: Watched) -> Snapshot:
    """Look at everything; on the event loop."""
    return Snapshot(
        queue=watched.engine.queue(),
        queue_limit=watched.engine.max_queued,
        cache=watched.cache.counters(),
        models=tuple(_facts(model) for model in watched.registry.all()),
        calls=watched.gate.under_way,
        request_bytes=watched.gate.bytes_under_way,
        request_bytes_limit=watched.gate.max_bytes,
    )


def _facts(model: LoadedModel) -> ModelFacts:
    return ModelFacts(
        model.name,
        model.architecture,
        model.family.value,
        model.fingerprint,
        str(model.dtype).removeprefix("torch."),
        str(model.device),
    )
