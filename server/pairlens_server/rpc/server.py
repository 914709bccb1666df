"""The gRPC server: its port, its services, its health, and its orderly end."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterable
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health, health_pb2_grpc
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
from pairlens_server.rpc.auth import Authorizer
from pairlens_server.rpc.gate import Gate
from pairlens_server.rpc.health import Health
from pairlens_server.rpc.interceptor import CallEnded, CallInterceptor
from pairlens_server.rpc.unsent import unsent_bytes

SERVICES = (
    explanation_service_pb2.DESCRIPTOR.services_by_name["ExplanationService"].full_name,
    model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name,
    image_service_pb2.DESCRIPTOR.services_by_name["ImageService"].full_name,
    admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name,
)

# For answers that have left the handlers to reach the kernel, and for calls that were on their way
# when the server began to refuse them.
_LAST_CALLS_S = 0.2
_LOOK_S = 0.05

_OPTIONS: list[tuple[str, int]] = [
    # Two servers on one port would share its calls between them, unnoticed.
    ("grpc.so_reuseport", 0),
    # The SDK pings every 20 s during a call; gRPC's default is to hang up on such a client.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # The calls of a client that vanished without a word are given up within half a minute.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Without it the answer to such a ping is waited for for a minute.
    ("grpc.http2.ping_timeout_ms", 10_000),
    # Clients meet new replicas only when they connect anew (gRFC A9): a rollout goes no faster
    # (minReadySeconds), and what an autoscaler added gets its share no sooner. What was called on
    # the old connection is cut off after the grace: that has room for the longest call that we
    # support, a `pairlens score` with its default timeout of 600 s, and its answer's way.
    ("grpc.max_connection_age_ms", 60_000),
    ("grpc.max_connection_age_grace_ms", 660_000),
    # By default a connection may say nothing for two minutes before it is closed.
    ("grpc.server_handshake_timeout_ms", 20_000),
    # Packed messages are refused (1 is gRPC's bit of "not packed"), before they are unpacked and
    # before anybody's token is looked at: 60 KB can hold 60 MB. Pictures are packed already.
    ("grpc.compression_enabled_algorithms_bitset", 1),
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
        max_bytes_under_way: Of all requests under way together.
        max_concurrent_streams: Calls that one connection may have under way.
        max_connections: That may be open; more are closed at once.
        reflects: Whether it tells its contract (server reflection).
        authorizer: Says who may call what; by default everybody everything.
        call_ended: Told of every call of our services.

    Attributes:
        gate: That those calls go through.
    """

    def __init__(
        self,
        max_request_bytes: int,
        *,
        max_bytes_under_way: int = 2**30,
        max_concurrent_streams: int = 256,
        max_connections: int = 1000,
        reflects: bool = True,
        authorizer: Authorizer | None = None,
        call_ended: CallEnded = lambda record, code, seconds: None,
    ):
        self.gate = Gate(max_bytes_under_way)
        self._reflects = reflects
        self._port = 0
        self._health = Health(SERVICES)
        self._server = grpc.aio.server(
            interceptors=[CallInterceptor(self.gate, authorizer=authorizer, call_ended=call_ended)],
            options=[
                *_OPTIONS,
                ("grpc.max_receive_message_length", max_request_bytes),
                ("grpc.max_concurrent_streams", max_concurrent_streams),
                ("grpc.max_allowed_incoming_connections", max_connections),
            ],
        )

    def bind(self, listen: str, credentials: grpc.ServerCredentials | None = None) -> str:
        """Take the port, without answering yet.

        Args:
            listen: `HOST:PORT`; port 0 takes a free one.
            credentials: For TLS; None listens in plain text.

        Returns:
            `HOST:PORT` as bound.

        Raises:
            ConfigurationError: The address cannot be listened on; says why.
        """
        host, _, port = listen.rpartition(":")
        try:
            _try_to_bind(host.strip("[]"), int(port))
            if credentials is None:
                bound = self._server.add_insecure_port(listen)
            else:
                bound = self._server.add_secure_port(listen, credentials)
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigurationError(f"cannot listen on {listen}: {reason}") from error
        self._port = bound
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
        if self._reflects:
            reflection.enable_server_reflection(
                (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
            )
        await self._server.start()

    def show_models(self, names: Iterable[str]) -> None:
        """Have health know these models."""
        self._health.show_models(names)

    def open(self) -> None:
        """Serve, and say so."""
        self.gate.open()
        self._health.show(serving=True)

    def leave(self) -> None:
        """Say that the server does not serve, and serve on: who balances load looks elsewhere."""
        self._health.show(serving=False)

    async def drain(self, timeout_s: float) -> None:
        """Refuse new calls, let those under way end, and see that their answers arrive.

        The server goes on refusing until it is closed, or the process ends: gRPC ends calls that
        meet a closing server with CANCELLED, which nobody tries again elsewhere.

        Args:
            timeout_s: How long all that may take.
        """
        self.gate.close()
        self._health.show(serving=False)
        loop = asyncio.get_running_loop()
        end_s = loop.time() + timeout_s
        if not await self.gate.wait_idle(timeout_s):
            _log.warning("cutting off %d calls after %g s", self.gate.under_way, timeout_s)
        await asyncio.sleep(_LAST_CALLS_S)
        # A connection that is closed while its client still speaks, as it does to ask for more,
        # is reset, and what the kernel has not sent is lost.
        while await asyncio.to_thread(unsent_bytes, self._port) and loop.time() < end_s:
            await asyncio.sleep(_LOOK_S)
        self._health.end()

    async def close(self) -> None:
        """Close at once; what is under way is cut off."""
        self.gate.close()
        await self._server.stop(None)


def _try_to_bind(host: str, port: int) -> None:
    # gRPC does not tell why it cannot bind; the socket interface does.
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trial.bind(address)
