"""The page of the SDK: its examples run, and its table is that of the code."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

import pairlens
from pairlens import Client, PairlensError, TlsFiles, _channel, _failures, errors
from pairlens._connection import DEFAULT_TIMEOUT_S
from pairlens._transport import MAX_QUEUE_ATTEMPTS
from tests.client.certificates import Authority
from tests.contract.support import png
from tests.server_process import server_process, write_models

TEXT = (Path(__file__).parents[2] / "docs" / "sdk.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```(python|sh)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
SECURED = "pairlens.example.org:50051"
TOKEN = "token-of-the-page-of-the-sdk"
START_S = 120


@dataclass(frozen=True)
class Place:
    """Where examples run, and what their names stand for there."""

    folder: Path
    names: dict[str, str]

    def local(self, text: str) -> str:
        for name, here in self.names.items():
            text = text.replace(name, here)
        return text


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Address of a server with mutual TLS and tokens, and the folder of a client's files."""
    folder = tmp_path_factory.mktemp("secured")
    authority = Authority(folder)
    cert, key = authority.issue("localhost", "127.0.0.1")
    own_cert, own_key = authority.issue("indexer")
    authority.ca_file.rename(folder / "ca.crt")
    own_cert.rename(folder / "client.crt")
    own_key.rename(folder / "client.key")
    (folder / "token").write_text(TOKEN + "\n")
    tokens = folder / "tokens.yaml"
    tokens.write_text(yaml.safe_dump([{"name": "ops", "token": TOKEN, "admin": True}]))
    flags = {
        "--tls-cert-file": cert,
        "--tls-key-file": key,
        "--tls-client-ca-file": folder / "ca.crt",
        "--tokens-file": tokens,
    }
    words = [str(word) for pair in flags.items() for word in pair]
    models = write_models(folder, ["tiny-vit"])
    with server_process(models, folder / "log.txt", *words) as server:
        target = server.listening().replace("127.0.0.1", "localhost")
        files = TlsFiles(
            ca_file=folder / "ca.crt",
            cert_file=folder / "client.crt",
            key_file=folder / "client.key",
        )
        with Client(target, tls=files, token=TOKEN) as client:
            client.wait_ready(START_S)
        yield target, folder


@pytest.fixture(scope="module")
def place(
    server_target: str, secured: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Place:
    folder = tmp_path_factory.mktemp("examples")
    for number, name in enumerate(("cat.jpg", "query.jpg", "a.jpg", "b.jpg")):
        (folder / name).write_bytes(png(number))
    (folder / "notes.txt").write_text("hello")
    (folder / "gallery").mkdir()
    for number in range(3):
        (folder / "gallery" / f"{number}.png").write_bytes(png(10 + number))
    (folder / "gallery" / "notes.txt").write_text("hello")
    target, files = secured
    return Place(
        folder,
        {
            "localhost:50051": server_target,
            SECURED: target,
            "/etc/pairlens/": f"{files}/",
            "/run/secrets/pairlens/": f"{files}/",
        },
    )


def run(command: list[str], place: Place, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command,
        cwd=place.folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done


PYTHON = [code for language, code in EXAMPLES if language == "python"]
SHELL = [code for language, code in EXAMPLES if language == "sh"]
# What the example that a word is a sign of prints, among other things.
PRINTED = {
    "wait_ready": "tiny-vit",
    "TlsFiles": "tiny-vit",
    "PairFailure": "(4, 6)",
    "asyncio.gather": "(4, 6)",
    "explain_many": "notes.txt IMAGE_UNDECODABLE",
    "pair_many": "1 [",
    "ImageUndecodableError": "no picture: ",
    "pairlens.request_id": "search-81f3",
    "TracerProvider": "",
    "multiprocessing": ", ",
}


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_examples(place: Place, code: str):
    program = place.folder / "example.py"
    program.write_text(place.local(code), encoding="utf-8")
    expected = next(text for sign, text in PRINTED.items() if sign in code)
    assert expected in run([sys.executable, str(program)], place).stdout


@pytest.mark.parametrize("code", SHELL, ids=range(len(SHELL)))
def test_commands(place: Place, code: str, server_target: str):
    script = place.folder / "example.sh"
    script.write_text(f"set -eu\npairlens() {{ '{sys.executable}' -m pairlens \"$@\"; }}\n")
    with script.open("a", encoding="utf-8") as file:
        file.write(place.local(code))
    out = run(["bash", str(script)], place, PAIRLENS_SERVER=server_target).stdout
    assert "tiny-vit" in out


def test_the_table_of_errors():
    rows = {
        row[0].strip("`"): (row[1], row[2])
        for row in (
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in TEXT.splitlines()
            if line.startswith("| `")
        )
    }
    reasons = {kind: reason for reason, kind in _failures._REASONS.items()}
    kinds = {
        name: kind
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, PairlensError) and kind is not PairlensError
    }
    assert rows == {
        name: (kind.default_code, reasons.get(kind, "")) for name, kind in kinds.items()
    }
    assert set(kinds) <= set(pairlens.__all__)


def test_numbers_of_the_page():
    options = dict(_channel._OPTIONS)
    hung_s = (options["grpc.keepalive_time_ms"] + options["grpc.http2.ping_timeout_ms"]) / 1000
    assert f"given up after {hung_s:g} s" in TEXT
    assert f"a deadline: {DEFAULT_TIMEOUT_S:g} s" in TEXT
    retry = _channel._SERVICE_CONFIG["methodConfig"][0]["retryPolicy"]
    assert (retry["maxAttempts"], MAX_QUEUE_ATTEMPTS) == (4, 8)
    assert "four times in all" in TEXT
    assert "eight times in all" in TEXT
