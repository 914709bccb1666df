"""Who calls, from metadata and addresses as gRPC gives them."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from pairlens_server.rpc.caller import Caller, caller_of
from pairlens_server.telemetry.record import CURRENT, CallRecord


class Context:
    def __init__(self, metadata=(), peer="ipv4:10.0.0.7:51234", remaining_s=None):
        self._metadata, self._peer, self._remaining_s = metadata, peer, remaining_s

    def invocation_metadata(self):
        return self._metadata

    def peer(self):
        return self._peer

    def time_remaining(self):
        return self._remaining_s


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("indexer-3:417", "indexer-3:417"),
        (" indexer ", "indexer"),
        ("Größe 猫", "Größe 猫"),
        ("x" * 100, "x" * 100),
        # Refused, so that the address stands in.
        ("x" * 101, "10.0.0.7"),
        ("two\nlines", "10.0.0.7"),
        ("a\x00", "10.0.0.7"),
        ("", "10.0.0.7"),
        ("   ", "10.0.0.7"),
        (b"indexer", "10.0.0.7"),
    ],
)
def test_the_name_that_a_client_gives(name, expected):
    metadata = (("user-agent", "grpc"), ("pairlens-client", name), ("pairlens-client", "second"))
    assert caller_of(Context(metadata)) == Caller(None, expected)


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("ipv4:10.0.0.7:51234", "10.0.0.7"),
        ("ipv6:%5B::1%5D:51234", "::1"),
        ("ipv6:[2001:db8::7]:51234", "2001:db8::7"),
        ("ipv6:%5Bfe80::1%25eth0%5D:51234", "fe80::1%eth0"),
        ("unix:/run/pairlens.sock", "/run/pairlens.sock"),
        ("unix:", ""),
        ("", ""),
        ("unix:" + "x" * 200, "x" * 100),
    ],
)
@pytest.mark.parametrize("metadata", [(), None, (("user-agent", "grpc"),)])
def test_the_address_of_a_client_without_a_name(peer, expected, metadata):
    assert caller_of(Context(metadata, peer)).client == expected


@pytest.mark.parametrize(("known", "expected"), [("retrieval", "retrieval"), ("", "somebody-else")])
async def test_the_name_of_a_token_goes_before_what_a_client_calls_itself(known, expected):
    reset = CURRENT.set(CallRecord("/pairlens.v1.ExplanationService/Explain", "id", client=known))
    try:
        caller = caller_of(Context((("pairlens-client", "somebody-else"),)))
    finally:
        CURRENT.reset(reset)
    assert caller.client == expected


async def test_the_deadline_in_event_loop_time():
    now_s = asyncio.get_running_loop().time()
    assert caller_of(Context(remaining_s=30.0)).deadline_s == pytest.approx(now_s + 30, abs=1)
    assert caller_of(Context(remaining_s=-1.0)).deadline_s == pytest.approx(now_s - 1, abs=1)
    assert caller_of(Context()).deadline_s is None


@pytest.mark.parametrize(
    ("listen", "metadata", "expected"),
    [
        ("127.0.0.1", (("pairlens-client", "indexer"),), "indexer"),
        ("127.0.0.1", None, "127.0.0.1"),
        ("[::1]", None, "::1"),
    ],
)
async def test_on_a_real_connection(listen, metadata, expected):
    callers = []

    async def call(data, context):
        callers.append(caller_of(context))
        return data

    handlers = {"Call": grpc.unary_unary_rpc_method_handler(call)}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", handlers),))
    try:
        port = server.add_insecure_port(f"{listen}:0")
    except RuntimeError:
        pytest.skip(f"no {listen} here")
    await server.start()
    now_s = asyncio.get_running_loop().time()
    async with grpc.aio.insecure_channel(f"{listen}:{port}") as channel:
        await channel.unary_unary("/test/Call")(b"", timeout=20, metadata=metadata)
        await channel.unary_unary("/test/Call")(b"", metadata=metadata)
    await server.stop(0)
    assert [caller.client for caller in callers] == [expected] * 2
    assert callers[0].deadline_s == pytest.approx(now_s + 20, abs=5)
    assert callers[1].deadline_s is None
