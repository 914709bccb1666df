"""How the package hangs together; `contract/test_lifecycle.py` runs the process."""

import ast
from pathlib import Path

from pairlens_server import app


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
