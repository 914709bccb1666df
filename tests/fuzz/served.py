"""The server that is fuzzed: small models, small limits, tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from tests.fuzz.cases import ADMIN_TOKEN, DATA_TOKEN, MAX_REQUEST_BYTES
from tests.fuzz.messages import MODELS
from tests.server_process import ServerProcess, server_process, write_models

# What is over a limit is as good as what is far over it, and sooner made.
_FLAGS = (
    *("--max-image-bytes", "200000"),
    *("--max-image-pixels", "1000000"),
    *("--max-request-bytes", str(MAX_REQUEST_BYTES)),
    *("--max-rendered-pixels", "1000000"),
    *("--max-bytes-under-way", str(MAX_REQUEST_BYTES)),
    *("--max-candidates", "16"),
    *("--max-copies", "64"),
    *("--max-queued", "40"),
    *("--cache-bytes", "8000000"),
    *("--image-cache-bytes", "2000000"),
    *("--log-calls", "none"),
    *("--log-format", "json"),
)


@contextmanager
def fuzzed_server(folder: Path) -> Iterator[ServerProcess]:
    """Start it; its files are in a folder that is there."""
    tokens = [
        {"name": "fuzz", "token": DATA_TOKEN},
        {"name": "fuzz-admin", "token": ADMIN_TOKEN, "admin": True},
    ]
    (folder / "tokens.yaml").write_text(yaml.safe_dump(tokens), encoding="utf-8")
    flags = (*_FLAGS, "--tokens-file", str(folder / "tokens.yaml"))
    with server_process(write_models(folder, MODELS), folder / "log.txt", *flags) as server:
        server.listening()
        server.serving()
        yield server
