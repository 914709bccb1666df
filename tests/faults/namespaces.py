"""Network namespaces: parts of a network on one machine, which can be cut off."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

_NUMBERS = itertools.count()

# Packets vanish without a word, as behind a dead switch: no reset, no refusal, and the interfaces
# stay up.
_CUT = """
table inet cut {
    chain arriving { type filter hook input priority 0; policy drop; iif lo accept; }
    chain leaving { type filter hook output priority 0; policy drop; oif lo accept; }
}
"""


@dataclass(frozen=True)
class Namespace:
    """A namespace with one wire to this one.

    Attributes:
        name: Of the namespace.
        host: Its own address, reachable from here while it is not cut off.
    """

    name: str
    host: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """Runs a command in it, as the same process."""
        return ("ip", "netns", "exec", self.name)

    def cut(self) -> None:
        """Drop all that comes in and goes out."""
        _run(*self.prefix, "nft", "-f", "-", text=_CUT)

    def heal(self) -> None:
        """Undo that."""
        _run(*self.prefix, "nft", "delete", "table", "inet", "cut")


@contextmanager
def namespace() -> Iterator[Namespace]:
    """Make a namespace; skips the test where that cannot be done."""
    for tool in ("ip", "nft"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    number = next(_NUMBERS)
    name = f"pairlens-{os.getpid()}-{number}"
    # 198.18.0.0/15 is for tests of networks (RFC 2544), and nobody's.
    net = f"198.18.{os.getpid() % 256}.{4 * number}"
    stem = net.rpartition(".")[0]
    here, there = f"{stem}.{4 * number + 1}", f"{stem}.{4 * number + 2}"
    wire = f"pl{os.getpid() % 10**7}-{number}"
    try:
        _run("ip", "netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespace can be made: {error.stderr.strip()}")
    try:
        _run("ip", "link", "add", wire, "type", "veth", "peer", "name", "wire", "netns", name)
        _run("ip", "address", "add", f"{here}/30", "dev", wire)
        _run("ip", "link", "set", wire, "up")
        _run("ip", "-n", name, "address", "add", f"{there}/30", "dev", "wire")
        for link in ("wire", "lo"):
            _run("ip", "-n", name, "link", "set", link, "up")
        yield Namespace(name, there)
    finally:
        _run("ip", "netns", "delete", name)


def _run(*command: str, text: str | None = None) -> None:
    subprocess.run(command, input=text, check=True, capture_output=True, text=True, timeout=20)
