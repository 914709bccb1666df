"""What tests of several folders share: the real server, once for the whole session."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.server_process import ServerProcess, server_process, write_models

# A suite that runs in the background has interrupts ignored, and so would the programs that tests
# start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

MAX_IMAGE_BYTES = 2_000_000
MAX_IMAGE_PIXELS = 4_000_000
MAX_REQUEST_BYTES = 8_000_000


@pytest.fixture(scope="session")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """`pairlens-server` with all small models, stopped with SIGTERM at the end."""
    folder = tmp_path_factory.mktemp("server")
    flags = (
        *("--max-image-bytes", str(MAX_IMAGE_BYTES)),
        *("--max-image-pixels", str(MAX_IMAGE_PIXELS)),
        *("--max-request-bytes", str(MAX_REQUEST_BYTES)),
    )
    with server_process(write_models(folder), folder / "log.txt", *flags) as server:
        server.listening()
        server.serving()
        yield server
        assert server.stop() == 0, server.read_log()
        assert "internal error" not in server.read_log(), server.read_log()


@pytest.fixture(scope="session")
def server_target(real_server: ServerProcess) -> str:
    """HOST:PORT of the real server."""
    return real_server.target
