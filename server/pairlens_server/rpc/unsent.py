"""What the kernel has not sent yet: answers that gRPC has done with, and clients have not got."""

from __future__ import annotations

from pathlib import Path

_TABLES = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))
# Of the kernel's include/net/tcp_states.h; in the second the client has said all that it will.
_OPEN = ("01", "08")
# Refusals, which go on, and what is acknowledged only with the next packet.
_LITTLE = 2**14


def unsent_bytes(port: int) -> int:
    """Bytes that wait to be sent, or to be acknowledged, on the connections of a port.

    Connections on which it is little are left out. Where the system does not tell, as any other
    than Linux, 0.
    """
    total = 0
    for table in _TABLES:
        try:
            lines = table.read_text(encoding="ascii").splitlines()[1:]
        except (OSError, UnicodeDecodeError):
            continue
        for line in lines:
            _, local, _, state, queues, *_ = line.split()
            if state in _OPEN and int(local.rpartition(":")[2], 16) == port:
                unsent = int(queues.partition(":")[0], 16)
                total += unsent if unsent > _LITTLE else 0
    return total
