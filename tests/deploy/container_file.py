"""Reads a Containerfile, and does here what its build stage would do in an image."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PATH = ROOT / "deploy" / "container" / "Containerfile"
ENVIRONMENT = "/opt/pairlens"


@dataclass(frozen=True)
class Instruction:
    """One of a Containerfile; lines that go on are one, and comments are left out."""

    stage: str
    keyword: str
    text: str


def instructions(path: Path = PATH) -> list[Instruction]:
    """All of a file, in order; `stage` is "" before the first FROM."""
    lines = [line for line in path.read_text("utf-8").splitlines() if not line.startswith("#")]
    found, stage = [], ""
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        keyword, _, text = line.strip().partition(" ")
        if keyword == "FROM":
            stage = text.partition(" AS ")[2] or text
        if keyword:
            found.append(Instruction(stage, keyword, " ".join(text.split())))
    return found


def arguments() -> dict[str, str]:
    """Build arguments with their defaults."""
    pairs = (i.text.partition("=") for i in instructions() if i.keyword == "ARG")
    return {name: default for name, _, default in pairs}


def variables() -> dict[str, str]:
    """What the image sets in its environment."""
    texts = [i.text for i in instructions() if (i.stage, i.keyword) == ("server", "ENV")]
    return {k: v for text in texts for k, _, v in (word.partition("=") for word in text.split())}


def context(folder: Path) -> Path:
    """A copy of what .dockerignore lets into the build."""
    patterns = [
        line
        for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    assert patterns[0] == "*"
    for pattern in patterns[1:]:
        if not pattern.startswith("!"):
            continue
        for path in _files(ROOT / pattern[1:]):
            name = path.relative_to(ROOT).as_posix()
            if not _ignored(name, patterns):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, folder / name)
    return folder


def _files(path: Path) -> Iterator[Path]:
    return iter([path]) if path.is_file() else (p for p in path.rglob("*") if p.is_file())


def _ignored(name: str, patterns: Iterable[str]) -> bool:
    """The last pattern that matches the path or a folder above it decides."""
    ignored = False
    above = [str(p) for p in (PurePosixPath(name), *PurePosixPath(name).parents)]
    for pattern in patterns:
        plain = pattern.removeprefix("!")
        names = [PurePosixPath(p).name for p in above] if plain.startswith("**/") else above
        if any(fnmatch.fnmatchcase(n, plain.removeprefix("**/")) for n in names):
            ignored = not pattern.startswith("!")
    return ignored


def build(folder: Path) -> Path:
    """Run the build stage below a folder; the environment that the image would have.

    Torch and all other distributions are those that run the tests, linked into the new virtual
    environments, so that nothing is downloaded; pip looks at each and would refuse another version.
    """
    source = context(folder / "context")
    replaced = {"/build": folder / "build", ENVIRONMENT: folder / ENVIRONMENT[1:]}
    for place in replaced.values():
        place.mkdir(parents=True)
    project = folder / "requirements"
    _environment(replaced[ENVIRONMENT], _required(source / "pyproject.toml"), project)
    tools = [Requirement(name) for name in ("cyclonedx-bom", "pip", "setuptools")]
    _environment(replaced["/build"] / "tools", tools, folder / "tools")
    for instruction in instructions():
        if (instruction.stage, instruction.keyword) == ("build", "COPY"):
            *names, target = instruction.text.split()
            _copy(source, names, replaced["/build"], target)
        elif (instruction.stage, instruction.keyword) == ("build", "RUN"):
            run(instruction.text, replaced)
    return replaced[ENVIRONMENT]


def run(command: str, replaced: dict[str, Path]) -> None:
    """Run a RUN in the folder that stands for /build."""
    for place, path in replaced.items():
        command = re.sub(rf"(?<![\w/]){place}\b", str(path), command)
    # As in an image, but for the index: what is missing must not come from elsewhere unnoticed.
    values = arguments() | {"PIP_NO_INDEX": "1", "PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    result = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=replaced["/build"],
        env=values,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def _copy(source: Path, names: list[str], build: Path, target: str) -> None:
    for name in names:
        found = sorted(source.glob(name))
        assert found, f"{name} is not in the build context"
        for path in found:
            if path.is_dir():
                shutil.copytree(path, build / target, dirs_exist_ok=True)
            else:
                (build / target).mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, build / target)


def _environment(folder: Path, required: list[Requirement], links: Path) -> None:
    """A virtual environment that finds, of all that is installed here, what is required."""
    command = [sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)]
    subprocess.run(command, check=True)
    links.mkdir()
    for name in _closure(required):
        found = metadata.distribution(name)
        tops = {Path(str(file)).parts[0] for file in found.files or ()}
        for top in tops - {"..", "__pycache__"}:
            target = Path(str(found.locate_file(top)))
            if target.exists() and not (links / top).exists():
                (links / top).symlink_to(target)
    scheme = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", "venv" if os.name != "nt" else "nt_venv", scheme))
    (site / "linked.pth").write_text(f"{links}\n", encoding="utf-8")


def _required(pyproject: Path) -> list[Requirement]:
    script = ROOT / "deploy" / "container" / "requirements.py"
    command = [sys.executable, str(script), str(pyproject), "server", "otel"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [Requirement(line) for line in [*lines.splitlines(), "torchvision"]]


def _closure(required: Iterable[Requirement]) -> set[str]:
    """Names of all distributions that requirements bring with them."""
    seen: dict[str, set[str]] = {}
    left = list(required)
    while left:
        wanted = left.pop()
        extras = seen.get(wanted.name, set())
        if wanted.name in seen and wanted.extras <= extras:
            continue
        seen[wanted.name] = extras | wanted.extras
        for line in metadata.requires(wanted.name) or ():
            below = Requirement(line)
            contexts = [{"extra": extra} for extra in ("", *seen[wanted.name])]
            if below.marker is None or any(below.marker.evaluate(c) for c in contexts):
                left.append(below)
    return set(seen)
