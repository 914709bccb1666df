"""The gRPC server: its port, its services, its health, and its orderly end."""

from __future__ import annotations

import asyncio
import logging
import socket
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from pairlens.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    explanation_service_pb2,
    explanation_service_pb2_grpc,
    image_service_pb2,
    image_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
)
from pairlens_server.errors import ConfigurationError
from pairlens_server.rpc.interceptor import CallInterceptor, Gate

SERVICES = (
    explanation_service_pb2.DESCRIPTOR.services_by_name["ExplanationService"].full_name,
    model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name,
    image_service_pb2.DESCRIPTOR.services_by_name["ImageService"].full_name,
    admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name,
)

# For answers that have left the handlers to reach the wire. Short, since an open
# Health.Watch never ends by itself.
_LAST_BYTES_S = 1.0

# In which calls that were on their way when the server closed are still refused, so that they
# may be tried elsewhere: gRPC ends those that meet a stopping server with CANCELLED.
_LAST_CALLS_S = 0.2

_OPTIONS: list[tuple[str, int]] = [
    # Two servers on one port would share its calls between them, unnoticed.
    ("grpc.so_reuseport", 0),
    # The SDK pings every 20 s during a call; gRPC's default is to hang up on such a client.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # The calls of a client that vanished without a word are given up within half a minute.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Clients meet new replicas when they connect anew (gRFC A9). What was called on the old
    # connection is cut off after the grace: that has room for the longest call that we
    # support, a `pairlens score` with its default timeout of 600 s, and its answer's way.
    ("grpc.max_connection_age_ms", 300_000),
    ("grpc.max_connection_age_grace_ms", 660_000),
]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Servicers:
    """What answers the calls of each service."""

    explanations: explanation_service_pb2_grpc.ExplanationServiceServicer
    models: model_service_pb2_grpc.ModelServiceServicer
    images: image_service_pb2_grpc.ImageServiceServicer
    admin: admin_service_pb2_grpc.AdminServiceServicer


class RpcServer:
    """One gRPC server from its port to its end; call the methods in their order.

    Args:
        max_request_bytes: Largest request message.
    """

    def __init__(self, max_request_bytes: int):
        self._gate = Gate()
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(
            interceptors=[CallInterceptor(self._gate)],
            options=[*_OPTIONS, ("grpc.max_receive_message_length", max_request_bytes)],
        )

    def bind(self, listen: str) -> str:
        """Take the port, without answering yet.

        Args:
            listen: `HOST:PORT`; port 0 takes a free one.

        Returns:
            `HOST:PORT` as bound.

        Raises:
            ConfigurationError: The address cannot be listened on; says why.
        """
        host, _, port = listen.rpartition(":")
        try:
            _try_to_bind(host.strip("[]"), int(port))
            bound = self._server.add_insecure_port(listen)
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigurationError(f"cannot listen on {listen}: {reason}") from error
        return f"{host}:{bound}"

    async def start(self, servicers: Servicers) -> None:
        """Answer: health says NOT_SERVING, and calls are refused as NOT_READY."""
        explanation_service_pb2_grpc.add_ExplanationServiceServicer_to_server(
            servicers.explanations, self._server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(servicers.models, self._server)
        image_service_pb2_grpc.add_ImageServiceServicer_to_server(servicers.images, self._server)
        admin_service_pb2_grpc.add_AdminServiceServicer_to_server(servicers.admin, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._server.start()

    async def open(self) -> None:
        """Serve, and say so."""
        self._gate.open()
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)

    @property
    def calls_under_way(self) -> int:
        """Calls that were let in and have not ended."""
        return self._gate.under_way

    @property
    def calls_admitted(self) -> int:
        """Calls that were ever let in."""
        return self._gate.let_in

    async def drain(self, timeout_s: float) -> None:
        """Refuse new calls, let those under way end, and close.

        Args:
            timeout_s: How long calls under way may take; then they are cut off.
        """
        self._gate.close()
        await self._health.enter_graceful_shutdown()
        if not await self._gate.wait_idle(timeout_s):
            _log.warning("cutting off %d calls after %g s", self._gate.under_way, timeout_s)
        await asyncio.sleep(_LAST_CALLS_S)
        await self._server.stop(_LAST_BYTES_S)

    async def _set_health(self, status: Any) -> None:
        for name in ("", *SERVICES):
            await self._health.set(name, status)


def _try_to_bind(host: str, port: int) -> None:
    # gRPC does not tell why it cannot bind; the socket interface does.
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trial.bind(address)
