"""Which part of the server may know of gRPC, and which of Redis."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pairlens_server

SERVER = Path(pairlens_server.__file__).parent
CONTRACT = {"grpc", "google", "grpc_health", "grpc_reflection", "grpc_status", "pairlens.v1"}
# Whoever else needs something of these asks the part that has it.
MAY = {"rpc": CONTRACT, "cache": {"redis"}}


def imported(path: Path) -> Iterator[str]:
    """What a module imports, wherever in it: top packages, and stubs of the contract."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{name.name}" for name in node.names]
        for name in names:
            stubs = name.startswith("pairlens.v1")
            yield "pairlens.v1" if stubs else name.partition(".")[0]


def test_grpc_is_at_the_edge_and_redis_in_the_cache():
    guarded, found = CONTRACT | {"redis"}, set()
    for path in SERVER.rglob("*.py"):
        part = path.relative_to(SERVER).parts[0]
        for name in guarded & set(imported(path)):
            assert name in MAY.get(part, ()), f"{path.relative_to(SERVER)} imports {name}"
            found.add(name)
    assert {"grpc", "redis", "pairlens.v1"} <= found  # else nothing was looked at


def test_the_sdk_knows_nothing_of_the_server():
    import pairlens

    for path in Path(pairlens.__file__).parent.rglob("*.py"):
        assert not {"pairlens_server", "torch", "redis"} & set(imported(path)), path
