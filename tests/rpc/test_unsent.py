"""Bytes that the kernel has not sent yet."""

from __future__ import annotations

import socket
import sys
import threading

import pytest

from pairlens_server.rpc.unsent import unsent_bytes
from tests.faults.calls import until

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")

FAMILIES = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
BYTES = 30_000_000  # more than the kernel takes on both sides


@pytest.mark.parametrize("family", FAMILIES)
def test_what_nobody_reads_is_unsent_until_it_is_read(family):
    with socket.create_server((FAMILIES[family], 0), family=family) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(listener.getsockname()[:2]) as reader:
            writer, _ = listener.accept()
            with writer:
                assert unsent_bytes(port) == 0
                writing = threading.Thread(target=writer.sendall, args=(bytes(BYTES),))
                writing.start()
                until(lambda: unsent_bytes(port) > 100_000, "it waits")
                # That of others is none of ours.
                assert unsent_bytes(port - 1) == 0
                left = BYTES
                while left:
                    left -= len(reader.recv(2**20))
                writing.join()
                until(lambda: unsent_bytes(port) == 0, "all is read")


def test_little_is_left_out():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as reader:
            # A reader that has said that it is full.
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            writer, _ = listener.accept()
            with writer:
                writer.setblocking(False)
                writer.send(bytes(10_000))
                assert unsent_bytes(port) == 0
