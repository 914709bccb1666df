from collections.abc import Iterator

import pytest

from tests.contract.support import Stubs


@pytest.fixture(scope="session")
def server(server_target: str) -> Iterator[Stubs]:
    """The real server with all small models."""
    stubs = Stubs(server_target)
    yield stubs
    stubs.channel.close()
