"""Generate the Python stubs of the contract: `make protos`.

Runs with any Python; `--python` names one that has grpcio-tools and mypy-protobuf.
"""

from __future__ import annotations

import argparse
import os
import subprocess
from pathlib import Path

PROTOS = Path(__file__).resolve().parent
PACKAGE = PROTOS / "pairlens" / "v1"


def run_protoc(python: Path, out: Path) -> None:
    """Write `_pb2.py`, `_pb2_grpc.py` and their `.pyi` below `out`.

    Args:
        python: Interpreter of the environment with the generators.
        out: Folder that will hold `pairlens/v1/`.
    """
    # Only absolute(): resolving the link would leave the virtual environment.
    python = python.absolute()
    include = subprocess.run(
        [
            python,
            "-c",
            "import google.rpc, pathlib; print(pathlib.Path(google.rpc.__path__[0]).parents[1])",
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    # protoc finds the mypy plugins beside the interpreter.
    environment = {**os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
    command = [str(python), "-m", "grpc_tools.protoc", f"-I{PROTOS}", f"-I{include}"]
    messages = sorted(PACKAGE.glob("*.proto"))
    services = sorted(PACKAGE.glob("*_service.proto"))
    for plugins, files in (
        ([f"--python_out={out}", f"--mypy_out=quiet:{out}"], messages),
        ([f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}"], services),
    ):
        subprocess.run([*command, *plugins, *map(str, files)], check=True, env=environment)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    run_protoc(arguments.python, arguments.out.resolve())


if __name__ == "__main__":
    main()
