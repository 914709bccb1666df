"""Replicas whose addresses change, as those of pods do, while clients find them by DNS alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from deploy.local.ports import Ports
from tests.dns_server import DnsServer, dns_server
from tests.faults.sdk_load import sdk_load
from tests.server_process import ServerProcess, server_process, write_models

HOSTS = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
AGE_S = 2.0
# The server, but for connections that end sooner: every minute is too long for a test.
YOUNGER = f"""
import sys
from pairlens_server.rpc import server
options = dict(server._OPTIONS)
assert "grpc.max_connection_age_ms" in options
options["grpc.max_connection_age_ms"] = {AGE_S * 1000:.0f}
server._OPTIONS = list(options.items())
sys.argv[1:] = sys.argv[4:]
from pairlens_server.app import main
sys.exit(main())
"""


pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere this machine has no address but 127.0.0.1 by itself"
)


@pytest.fixture(scope="module")
def port() -> int:
    (found,) = Ports().take(0, 1)
    return found


@pytest.fixture(scope="module")
def servers(port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ServerProcess]]:
    """One at each address, all of them ready."""
    folder = tmp_path_factory.mktemp("servers")
    models = write_models(folder, ["tiny-vit", "tiny-resnet"])
    with ExitStack() as stack:
        found = [
            stack.enter_context(
                server_process(
                    models,
                    folder / f"{host}.txt",
                    *("--listen", f"{host}:{port}", "--drain-delay-s", "0.5"),
                    prefix=[sys.executable, "-c", YOUNGER],
                )
            )
            for host in HOSTS
        ]
        for server in found:
            server.listening()
            server.serving()
        yield found


def replaced(server: ServerProcess, dns: DnsServer, left: tuple[str, ...]) -> None:
    """As a pod ends: its address goes, and then it is told to."""
    dns.addresses = left
    time.sleep(0.5)  # preStop
    assert server.stop() == 0


def test_a_rollout_without_a_server_to_spare_fails_no_call(servers: list[ServerProcess], port: int):
    """Two replicas, of which one ends before its successor starts, and then the other."""
    first, second, successor = HOSTS
    with dns_server() as dns:
        dns.addresses = (first, second)
        with sdk_load([dns.target(port)]) as (report,):
            report.await_more(20)
            replaced(servers[0], dns, (second,))
            # Clients have asked when it went, and know one replica alone.
            report.await_more(20)
            dns.addresses = (second, successor)
            # minReadySeconds: until every connection has ended once since.
            time.sleep(1.1 * AGE_S + 0.5)
            replaced(servers[1], dns, (successor,))
            report.await_more(20)
        assert not report.failures, report.failures
        assert len(report.calls) > 60
