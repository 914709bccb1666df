"""What every use case is built of."""

from __future__ import annotations

from pairlens_server.engine.engine import Engine
from pairlens_server.models.registry import ModelRegistry
from pairlens_server.service.limits import ServiceLimits
from pairlens_server.service.recordings import PictureRecorder


class UseCase:
    """Answers the calls of one RPC over shared parts."""

    def __init__(
        self,
        registry: ModelRegistry,
        engine: Engine,
        recorder: PictureRecorder,
        limits: ServiceLimits,
    ):
        self._registry = registry
        self._engine = engine
        self._recorder = recorder
        self._limits = limits
