"""When the certificate of a real server expires, as Prometheus is told."""

from __future__ import annotations

import datetime
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from cryptography import x509

from tests.certificates import TlsFiles, chain, put
from tests.server_process import ServerProcess, server_process, write_models

LIMIT_S = 20
NAME = "pairlens_tls_certificate_not_after_seconds"


def show(tls: TlsFiles, root: trustme.CA, days: int) -> float:
    """Have the server show a certificate that ends in so many days; when that is."""
    end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days)
    leaf = root.issue_cert("localhost", not_after=end.replace(microsecond=0))
    put(tls.key, leaf.private_key_pem.bytes())
    put(tls.cert, chain(leaf))
    return end.replace(microsecond=0).timestamp()


def shown(server: ServerProcess, root: trustme.CA) -> float:
    """When the certificate that a new connection gets ends."""
    context = ssl.create_default_context(cadata=root.cert_pem.bytes().decode())
    context.set_alpn_protocols(["h2"])
    host, _, port = server.target.rpartition(":")
    with (
        socket.create_connection((host, int(port)), LIMIT_S) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        der = connection.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).not_valid_after_utc.timestamp()


def until(holds: Callable[[], bool]) -> None:
    end_s = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.1)


def told(server: ServerProcess) -> list[float]:
    return list(server.scrape().series(NAME).values())


@pytest.mark.parametrize("asked_first", ["metrics", "connection"])
def test_the_end_is_that_of_what_is_served_now(tmp_path: Path, asked_first: str) -> None:
    tls, root = TlsFiles.in_folder(tmp_path), trustme.CA()
    old = show(tls, root, 20)
    flags = (*tls.flags, "--metrics-listen", "127.0.0.1:0")
    models = write_models(tmp_path, ["tiny-vit"])
    with server_process(models, tmp_path / "log.txt", *flags) as server:
        server.listening()
        server.metrics_address()
        assert told(server) == [old]
        assert shown(server, root) == old
        new = show(tls, root, 200)
        if asked_first == "metrics":
            until(lambda: told(server) == [new])
            assert shown(server, root) == new
        else:
            until(lambda: shown(server, root) == new)
            assert told(server) == [new]
        # A certificate without its key is not served, and so is not told of.
        put(tls.cert, chain(root.issue_cert("localhost")))
        until(lambda: told(server) == [new] and "is not the key" in server.read_log())
        assert shown(server, root) == new
