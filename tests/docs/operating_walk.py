"""Whoever follows docs/operating.md on one machine: runs its commands, on ports that are free."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.deploy.running import ROOT, RunningSet
from tests.docs.pages import Block, blocks
from tests.server_process import START_TIMEOUT_S, STOP_TIMEOUT_S

PAGE = ROOT / "docs" / "operating.md"
TEXT = PAGE.read_text(encoding="utf-8")
HERE = tuple(
    block
    for block in blocks(TEXT)
    if block.heading in ("On one machine", "Day two") and "kubectl" not in block.code
)
"""What needs no cluster."""

FREE_PORTS = ("--port", "0", "--metrics-port", "0", "--prometheus-port", "0")
_COMMAND_TIMEOUT_S = 120
_START, _LOOK = "python -m deploy.local", "export PAIRLENS_SERVER=$(jq"


def block(sign: str) -> Block:
    """The only block that has a text, of those that need no cluster."""
    found = [block for block in HERE if sign in block.code]
    assert len(found) == 1, (sign, found)
    return found[0]


class Walk:
    """Someone's two terminals.

    Args:
        folder: In the place of the top of the repository.

    Attributes:
        done: Blocks that were run.
        running: The set.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.done: set[Block] = set()
        self.running: RunningSet
        for name in ("deploy", "server", "docs"):
            (folder / name).symlink_to(ROOT / name)
        (folder / ".venv").symlink_to(sys.prefix)
        self._here: dict[str, str] = {}
        self._prefix = ""

    def write(self, sign: str) -> None:
        """Write the file that a block's first line names."""
        found = block(sign)
        path = self.folder / found.code.splitlines()[0].removeprefix("# ")
        path.parent.mkdir(exist_ok=True)
        path.write_text(found.code, encoding="utf-8")

    def do(self, sign: str, first: str = "") -> str:
        """Run a block; what it prints, on either stream.

        Args:
            sign: What stands in this block alone.
            first: Commands that the page does not have.
        """
        done = self._run(block(sign), first)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def fail(self, sign: str, first: str = "") -> str:
        """As `do`, but the last command may fail; then what it says, else nothing."""
        done = self._run(block(sign), first)
        return done.stdout if done.returncode else ""

    def _run(self, found: Block, first: str) -> subprocess.CompletedProcess[str]:
        self.done.add(found)
        return subprocess.run(
            ["bash", "-c", f"set -e\n{self._prefix}\n{first}\n{self.here(found.code)}"],
            cwd=self.folder,
            env=_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_COMMAND_TIMEOUT_S,
            check=False,
        )

    def here(self, code: str) -> str:
        """The addresses of this set in the place of the page's."""
        for page, here in self._here.items():
            code = code.replace(page, here)
        return code

    @contextmanager
    def start(self) -> Iterator[None]:
        """Start the set by its block; nothing of it is left at the end."""
        found = block(_START)
        self.done.add(found)
        words = shlex.split(found.code)
        place = words.index("deploy.local") + 1
        command = [sys.executable, *words[1:place], *FREE_PORTS, *words[place:]]
        folder = self.folder / words[words.index("--folder") + 1]
        folder.mkdir()
        with (folder / "output.txt").open("w", encoding="utf-8") as output:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=_environment(),
                stdout=output,
                stderr=output,
                text=True,
            )
        self.running = RunningSet(process, folder)
        try:
            self.running.until(lambda state: True, START_TIMEOUT_S)
            self._look()
            yield
        finally:
            _end(process, self.running)

    def _look(self) -> None:
        """What the second terminal is told about the set."""
        state = self.running.state
        self._here = {
            "127.0.0.1:9464": state["replicas"][0]["metrics"],
            "http://127.0.0.1:9090": state["prometheus"],
        }
        found = block(_LOOK)
        self.done.add(found)
        self._prefix = found.code

    @contextmanager
    def beside(self, sign: str, here: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
        """Run a block that does not end, in a terminal of its own."""
        self._here |= here
        found = block(sign)
        self.done.add(found)
        process = subprocess.Popen(
            ["bash", "-c", f"set -e\n{self._prefix}\n{self.here(found.code)}"],
            cwd=self.folder,
            env=_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _environment() -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("PAIRLENS_")}
    return {**own, "OMP_NUM_THREADS": "1"}


def _end(process: subprocess.Popen[str], running: RunningSet) -> None:
    if process.poll() is not None:
        return
    children: Sequence[psutil.Process] = running.children()
    process.kill()
    process.wait()
    for child in children:
        child.kill()
    psutil.wait_procs(children, STOP_TIMEOUT_S)


def missing_programs() -> list[str]:
    """What the page has people install, and is not here."""
    install = block("apt-get install").code.splitlines()[0]
    packages = install.partition("install ")[2].split()
    # redis-server comes with the tests; pkill and prometheus' tools are called by their own names.
    wanted = {*packages, "promtool", "pkill"} - {"redis-server"}
    return sorted(name for name in wanted if shutil.which(name) is None)


def alerts_in(text: str) -> set[tuple[str, ...]]:
    """Name, severity and state of each line of the page's command for alerts."""
    return {tuple(line.split("\t")[:3]) for line in text.splitlines() if re.match("Pairlens", line)}
