from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import zoo
from tests.contract.support import Stubs
from tests.server_process import ServerProcess, server_process


@pytest.fixture(scope="session")
def zoo_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server of the whole zoo, which caches nothing: every call runs the model."""
    folder = tmp_path_factory.mktemp("zoo")
    flags = ("--cache-bytes", "0", "--max-wait-ms", "0.5")
    with server_process(zoo.write(folder), folder / "log.txt", *flags) as process:
        process.listening()
        process.serving()
        yield process
        assert process.stop() == 0, process.read_log()
        assert "internal error" not in process.read_log(), process.read_log()


@pytest.fixture(scope="session")
def server(zoo_process: ServerProcess) -> Iterator[Stubs]:
    """The server of the zoo."""
    stubs = Stubs(zoo_process.target)
    yield stubs
    stubs.channel.close()
