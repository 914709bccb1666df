"""A DNS server that knows one name, whose addresses change as those of a headless Service do."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

NAME = "pairlens.test"
_HOST = "127.0.0.1"
_HEADER = struct.Struct("!6H")
_ANSWER, _NO_SUCH_NAME = 0x8580, 0x8583
_A, _IN = 1, 1


class DnsServer:
    """Answers over UDP, on this machine.

    Attributes:
        addresses: IPv4 addresses of `NAME`, in no order; may be replaced at any time.
    """

    def __init__(self, listening: socket.socket):
        self.addresses: Sequence[str] = ()
        self._socket = listening

    def target(self, port: int) -> str:
        """What a client dials that is to ask here, for servers on a port."""
        return f"dns://{_HOST}:{self._socket.getsockname()[1]}/{NAME}:{port}"

    def serve(self) -> None:
        """Answer until the socket is shut."""
        while True:
            try:
                query, peer = self._socket.recvfrom(512)
            except OSError:
                return
            if not query:
                return
            self._socket.sendto(self._answer(query), peer)

    def _answer(self, query: bytes) -> bytes:
        number, *_ = _HEADER.unpack_from(query)
        name, end = _name(query, _HEADER.size)
        question = query[_HEADER.size : end + 4]
        kind, _ = struct.unpack("!2H", question[-4:])
        if name.rstrip(".").lower() != NAME:
            return _HEADER.pack(number, _NO_SUCH_NAME, 1, 0, 0, 0) + question
        found = list(self.addresses) if kind == _A else []
        records = [
            # The name as above, for no second longer.
            struct.pack("!3HIH", 0xC000 | _HEADER.size, _A, _IN, 0, 4) + socket.inet_aton(address)
            for address in found
        ]
        head = _HEADER.pack(number, _ANSWER, 1, len(records), 0, 0)
        return head + question + b"".join(records)


def _name(message: bytes, start: int) -> tuple[str, int]:
    """A name that is written out, and where what follows begins."""
    labels = []
    while length := message[start]:
        labels.append(message[start + 1 : start + 1 + length].decode("ascii"))
        start += 1 + length
    return ".".join(labels), start + 1


@contextmanager
def dns_server() -> Iterator[DnsServer]:
    """Run one on a free port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind((_HOST, 0))
        server = DnsServer(listening)
        thread = threading.Thread(target=server.serve, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            listening.sendto(b"", listening.getsockname())
            thread.join()
