"""What the composition root decides; `contract/test_lifecycle.py` runs the process."""

import ast
import asyncio
import json
import logging
import sys
from pathlib import Path

import pytest

from pairlens_server import app
from pairlens_server.errors import ConfigurationError, OutOfMemoryError
from pairlens_server.logs import JsonFormatter


class Engine:
    def __init__(self) -> None:
        self.broken = asyncio.Event()


async def test_a_signal_ends_the_wait():
    stop = asyncio.Event()
    stop.set()
    assert await app._until_stopped(stop, Engine()) == 0


async def test_a_dead_engine_ends_the_process_at_once():
    engine = Engine()
    waiting = asyncio.create_task(app._until_stopped(asyncio.Event(), engine))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    engine.broken.set()
    for _ in range(10):  # turns of the loop, without any time
        await asyncio.sleep(0)
    assert waiting.done()
    assert waiting.result() == 1


class Calls:
    """A server whose calls are too short to be seen under way."""

    calls_under_way = 0
    calls_admitted = 0


async def test_memory_is_given_back_in_a_rest_and_not_between_short_calls(monkeypatch):
    given_back = []
    monkeypatch.setattr(app, "_SAMPLED_S", 0.02)
    monkeypatch.setattr(app, "_REST_S", 0.1)
    monkeypatch.setattr(app, "give_back_freed_memory", lambda: given_back.append(None))
    server = Calls()
    resting = asyncio.create_task(app._give_back_when_idle(server))
    for _ in range(200):
        await asyncio.sleep(0.002)
        server.calls_admitted += 1
    assert not given_back
    server.calls_under_way = 1
    await asyncio.sleep(0.3)
    assert not given_back
    server.calls_under_way = 0
    await asyncio.sleep(0.5)
    assert len(given_back) == 1  # once in a rest
    resting.cancel()


async def test_a_model_too_large_for_its_methods_is_told():
    class Small(Engine):
        async def warm_up(self) -> None:
            raise OutOfMemoryError("one picture alone does not fit on the device")

    with pytest.raises(ConfigurationError, match="a model cannot run: one picture alone"):
        await app._warm_up(Small())


def test_a_json_line_holds_the_traceback():
    try:
        raise ValueError("broken\nline")
    except ValueError:
        record = logging.LogRecord("a.b", logging.ERROR, "", 0, "in %s", ("x",), sys.exc_info())
    (line,) = JsonFormatter().format(record).splitlines()
    entry = json.loads(line)
    assert (entry["level"], entry["logger"], entry["message"]) == ("error", "a.b", "in x")
    assert "ValueError: broken" in entry["traceback"]


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def test_nothing_but_rpc_imports_the_transport():
    package = Path(app.__file__).parent
    for path in package.rglob("*.py"):
        if package / "rpc" not in path.parents:
            transport = {"grpc", "google", "grpc_health", "grpc_reflection", "grpc_status"}
            roots = {name.partition(".")[0] for name in imported(path)}
            assert not roots & transport, path
            assert not any(name.startswith("pairlens.v1") for name in imported(path)), path
