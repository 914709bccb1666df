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
    def __init__(self, healthy: bool):
        self.healthy = healthy


async def test_a_signal_ends_the_wait():
    stop = asyncio.Event()
    stop.set()
    assert await app._until_stopped(stop, Engine(healthy=True)) == 0


async def test_a_dead_engine_ends_the_process(monkeypatch):
    monkeypatch.setattr(app, "_ENGINE_CHECK_S", 0.01)
    engine = Engine(healthy=True)
    waiting = asyncio.create_task(app._until_stopped(asyncio.Event(), engine))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    engine.healthy = False
    assert await asyncio.wait_for(waiting, 5) == 1


async def test_a_model_too_large_for_its_methods_is_told():
    class Small(Engine):
        async def warm_up(self) -> None:
            raise OutOfMemoryError("one picture alone does not fit on the device")

    with pytest.raises(ConfigurationError, match="a model cannot run: one picture alone"):
        await app._warm_up(Small(healthy=True))


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
