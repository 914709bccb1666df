from collections.abc import Iterator

import pytest

from pairlens import Client
from tests.client.scripted import Running, Scripted


@pytest.fixture
def server() -> Iterator[Running]:
    running = Running()
    yield running
    running.stop()


@pytest.fixture
def service(server: Running) -> Scripted:
    return server.service


@pytest.fixture
def client(server: Running) -> Iterator[Client]:
    with Client(server.target, timeout=10) as client:
        yield client
