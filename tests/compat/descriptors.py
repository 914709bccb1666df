"""The contract as descriptors: today's, released ones, and those of the history."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor

import pairlens.v1

ROOT = Path(__file__).resolve().parents[2]
FROZEN = Path(__file__).resolve().parent / "contracts"
PROTOC_PYTHON = ROOT / ".venv-protoc" / "bin" / "python"
PROTOS = "protos/pairlens/v1"
PACKAGE = "pairlens.v1"

FileSet = descriptor_pb2.FileDescriptorSet


class NotHere(Exception):  # noqa: N818
    """What is asked for is not on this machine; the message says why."""


def today() -> FileSet:
    """Of the stubs that are in use, imported files first."""
    files: dict[str, FileDescriptor] = {}

    def add(file: FileDescriptor) -> None:
        for needed in file.dependencies:
            add(needed)
        files.setdefault(file.name, file)

    for module in sorted(info.name for info in pkgutil.iter_modules(pairlens.v1.__path__)):
        if module.endswith("_pb2"):
            add(importlib.import_module(f"pairlens.v1.{module}").DESCRIPTOR)
    result = FileSet()
    for file in files.values():
        file.CopyToProto(result.file.add())
    return result


def frozen() -> list[Path]:
    """Files of the released contracts, oldest first."""
    return sorted(FROZEN.glob("*.binpb"))


def read(path: Path) -> FileSet:
    """One of them."""
    return FileSet.FromString(path.read_bytes())


def revisions(path: str = PROTOS) -> list[str]:
    """The last two commits that changed a path, newest first; [] where git knows none."""
    return _git("log", "-2", "--format=%H", "--", path).split()


def of_revision(revision: str, folder: Path) -> FileSet:
    """Compile the protos of a commit.

    Args:
        revision: Of git.
        folder: Empty; takes what is compiled.

    Raises:
        NotHere: There is no such commit, or no compiler.
    """
    if not PROTOC_PYTHON.exists():
        raise NotHere("no protoc; `make test` installs it")
    listed = _git("ls-tree", "--name-only", revision, f"{PROTOS}/").split()
    protos = [name for name in listed if name.endswith(".proto")]
    if not protos:
        raise NotHere(f"git knows no protos of {revision}")
    for name in protos:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_git("show", f"{revision}:{name}"), encoding="utf-8")
    return compiled(folder / "protos", folder / "set.binpb")


def compiled(protos: Path, out: Path) -> FileSet:
    """What protoc makes of a folder with `pairlens/v1/*.proto`, imported files first."""
    files = sorted(str(path) for path in protos.glob("pairlens/v1/*.proto"))
    include = subprocess.run(
        [
            PROTOC_PYTHON,
            "-c",
            "import google.rpc, pathlib; print(pathlib.Path(google.rpc.__path__[0]).parents[1])",
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    command = [str(PROTOC_PYTHON), "-m", "grpc_tools.protoc", f"-I{protos}", f"-I{include}"]
    command += ["--include_imports", f"--descriptor_set_out={out}", *files]
    subprocess.run(command, check=True)
    return read(out)


def own_files(files: FileSet) -> Iterable[descriptor_pb2.FileDescriptorProto]:
    """Those of this project."""
    return [file for file in files.file if file.package == PACKAGE]


def _git(*words: str) -> str:
    """Output of git; "" where there is none, or no repository."""
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout if done.returncode == 0 else ""
