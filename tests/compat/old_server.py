"""A server that knows an older contract: what is newer is neither understood nor answered.

Requests go on to a server of today after all that the old contract does not know was taken out of
them, and so do the answers on their way back; calls that it does not have are UNIMPLEMENTED.

    python -m tests.compat.old_server CONTRACT.binpb TARGET
"""

from __future__ import annotations

import sys
from concurrent import futures
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2_grpc

from tests.compat.descriptors import FileSet
from tests.compat.dynamic import Contract, Rpc, known

_MAX_BYTES = 256 * 2**20
# What the transport makes anew for each connection.
_DETAILS = "grpc-status-details-bin"


def _forwarded(channel: grpc.Channel, rpc: Rpc) -> grpc.RpcMethodHandler:
    call = channel.unary_unary(rpc.path)

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            response = call(known(request, rpc.request), timeout=context.time_remaining())
        except grpc.RpcError as error:
            trailing = [(key, value) for key, value in error.trailing_metadata() or ()]
            context.set_trailing_metadata([pair for pair in trailing if pair[0] == _DETAILS])
            context.abort(error.code(), error.details())
        return known(response, rpc.response)

    return grpc.unary_unary_rpc_method_handler(answer)


def serve(contract: Contract, target: str) -> tuple[grpc.Server, int]:
    """Start to answer.

    Args:
        contract: What the server knows.
        target: Of a server of today.

    Returns:
        The server and its port.
    """
    limits = [
        ("grpc.max_receive_message_length", _MAX_BYTES),
        ("grpc.max_send_message_length", _MAX_BYTES),
    ]
    channel = grpc.insecure_channel(target, limits)
    server = grpc.server(futures.ThreadPoolExecutor(16), options=limits)
    services: dict[str, dict[str, grpc.RpcMethodHandler]] = {}
    for rpc in contract.rpcs():
        services.setdefault(rpc.service, {})[rpc.name] = _forwarded(channel, rpc)
    for service, handlers in services.items():
        handler = grpc.method_handlers_generic_handler(service, handlers)
        server.add_generic_rpc_handlers((handler,))
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def main() -> None:
    """Command line; runs until it is killed."""
    path, target = sys.argv[1:]
    server, port = serve(Contract(FileSet.FromString(Path(path).read_bytes())), target)
    sys.stdout.write(f"listening on 127.0.0.1:{port}\n")
    sys.stdout.flush()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
