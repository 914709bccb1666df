"""Clients in forked processes, each case in a process of its own: gRPC cannot be begun anew."""

import json
import os
import subprocess
import sys

import pytest

from tests.client.scripted import Running, Scripted
from tests.client.uploading import EXPLAIN

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

PROGRAM = """
import asyncio, concurrent.futures, json, os, signal, sys
import pairlens

target, before, calls = sys.argv[1:4]

def found(function):
    try:
        return function()
    except pairlens.PairlensError as error:
        return [error.code, error.message]

def ask(client):
    return len(client.list_models())

async def ask_async(client):
    return len(await client.list_models())

# Made before the fork in any case; `before` says whether they were used.
client = pairlens.Client(target, timeout=5)
async_client = pairlens.AsyncClient(target, timeout=5)
loop = asyncio.new_event_loop()
if before == "used":
    ask(client)
if before == "other used":
    with pairlens.Client(target, timeout=5) as other:
        ask(other)
if before == "async used":
    loop.run_until_complete(ask_async(async_client))
if before == "many":
    items = client.explain_many([sys.argv[4]] * 9, concurrency=2)
    next(items)
    # gRPC does not bear a fork amid calls, not even with its support for forks.
    concurrent.futures.wait(items.gi_frame.f_locals["pending"])
if before == "locked":
    client._calls._catalogue._lock.acquire()
    client._driver._lock.acquire()

reader, writer = os.pipe()
child = os.fork()
if child == 0:
    signal.alarm(20)  # a hang is a failure
    if calls == "sync":
        answer = [found(lambda: ask(client)), client.name]
    elif calls == "async":
        answer = [found(lambda: asyncio.run(ask_async(async_client))), async_client.name]
    else:
        answer = [found(lambda: len(list(items))), ""]
    os.write(writer, json.dumps(answer).encode())
    sys.exit(0)  # with all of Python's cleaning up
status = os.waitpid(child, 0)[1]
os.close(writer)
answer = os.read(reader, 10_000) or b"[null, null]"
if before == "locked":
    client._calls._catalogue._lock.release()
    client._driver._lock.release()
rest = len(list(items)) if before == "many" else 8
print(json.dumps([status, *json.loads(answer), client.name, ask(client), rest]))
os._exit(0)
"""


def forked(
    server: Running, before: str, calls: str, *more: str, support: bool = False
) -> list[object]:
    """What the child's call answered; that it ended well and the parent goes on is checked."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, server.target, before, calls, *more],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "1" if support else "0"},
    )
    assert done.returncode == 0, done.stderr
    status, answer, name, parents_name, models, rest = json.loads(done.stdout.splitlines()[-1])
    assert (status, models, rest) == (0, 2, 8), done.stderr
    assert name != parents_name  # the process is part of it
    return answer


@pytest.mark.parametrize("calls", ["sync", "async"])
@pytest.mark.parametrize("before", ["unused", "locked"])
def test_a_client_that_was_not_used_before(server: Running, before: str, calls: str):
    assert forked(server, before, calls) == 2


@pytest.mark.parametrize("calls", ["sync", "async"])
@pytest.mark.parametrize("before", ["used", "other used"])
def test_a_client_that_was_used_refuses_instead_of_hanging(
    server: Running, before: str, calls: str
):
    code, message = forked(server, before, calls)
    assert code == "FAILED_PRECONDITION"
    assert "it was forked from one that had used it" in message
    assert "GRPC_ENABLE_FORK_SUPPORT=1" in message


@pytest.mark.parametrize("calls", ["sync", "async"])
def test_a_client_that_was_used_under_fork_support(server: Running, calls: str):
    assert forked(server, "used", calls, support=True) == 2


def test_a_client_of_asyncio_that_was_used(server: Running):
    assert forked(server, "async used", "sync", support=True) == 2
    code, message = forked(server, "async used", "async", support=True)
    assert code == "FAILED_PRECONDITION"
    assert "GRPC_ENABLE_FORK_SUPPORT" not in message  # it would not help


def test_an_iterator_is_the_parents(server: Running, service: Scripted, pictures, tmp_path):
    _, message = forked(server, "many", "many", str(tmp_path / "cat.png"), support=True)
    assert "those of the parent process" in message
    assert len(service.requests(EXPLAIN)) == 9  # nothing was sent twice
