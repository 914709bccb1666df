"""A gRPC server whose one call does nothing, as the floor of what any call costs.

`python -m tests.benchmark.empty_server BYTES` prints where it listens and answers that many
bytes to whatever it is sent, until its standard input ends.
"""

from __future__ import annotations

import asyncio
import sys

import grpc

METHOD = "/pairlens.benchmark.Empty/Call"


async def serve(answer: bytes) -> None:
    """Listen until the standard input ends."""

    async def call(request: bytes, context: object) -> bytes:
        return answer

    service, name = METHOD.strip("/").split("/")
    handler = grpc.unary_unary_rpc_method_handler(call)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {name: handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"127.0.0.1:{port}\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(serve(bytes(int(sys.argv[1]))))
