"""Health of the process, of each service and of each model, as gRPC clients ask for it.

The servicer of the grpcio-health-checking package forgets no name, so that a model which is no
longer served would be unhealthy for ever instead of unknown, and never ends a `Watch`, so that one
would hold up the end of the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

_OF_MODELS = "models/"

_Context = grpc.aio.ServicerContext[Any, Any]


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # it has no types
    """grpc.health.v1.Health, for "", the services' names and models/NAME of each model served.

    Args:
        services: Names of the services.
    """

    def __init__(self, services: Iterable[str]):
        self._services = ("", *services)
        self._models: tuple[str, ...] = ()
        self._serving = False
        self._ended = False
        self._changed = asyncio.Event()

    def show(self, *, serving: bool) -> None:
        """Say of everything whether it serves."""
        self._serving = serving
        self._tell()

    def show_models(self, names: Iterable[str]) -> None:
        """Say which models there are; what is not among them is unknown."""
        self._models = tuple(names)
        self._tell()

    def end(self) -> None:
        """End what watches, after a last word."""
        self._ended = True
        self._tell()

    async def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: _Context
    ) -> health_pb2.HealthCheckResponse:
        """See health.proto."""
        status = self._statuses().get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return health_pb2.HealthCheckResponse(status=status)

    async def List(  # noqa: N802
        self, request: health_pb2.HealthListRequest, context: _Context
    ) -> health_pb2.HealthListResponse:
        """See health.proto."""
        statuses = {
            name: health_pb2.HealthCheckResponse(status=status)
            for name, status in self._statuses().items()
        }
        return health_pb2.HealthListResponse(statuses=statuses)

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: _Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """See health.proto."""
        told = None
        while True:
            # Taken before the status is, so that no change in between is missed.
            changed = self._changed
            status = self._statuses().get(request.service, _UNKNOWN)
            if status != told:
                yield health_pb2.HealthCheckResponse(status=status)
                told = status
            elif self._ended:
                return
            else:
                await changed.wait()

    def _statuses(self) -> dict[str, int]:
        names = (*self._services, *(_OF_MODELS + name for name in self._models))
        return dict.fromkeys(names, SERVING if self._serving else NOT_SERVING)

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
