"""The audit of the pinned packages, against a database of our own: pip-audit is the real one."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.redis_server import free_port

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pip_audit") is None, reason="pip-audit is not installed"
)


class Database(BaseHTTPRequestHandler):
    """Answers as osv.dev does; knows of a hole in grpcio below 2."""

    asked: list[dict[str, Any]]

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).asked.append(question)
        affected = {
            "package": {"name": "grpcio", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.0"}]}],
        }
        hole = {"id": "PYSEC-2030-1", "summary": "a hole", "affected": [affected]}
        is_grpcio = question["package"]["name"] == "grpcio"
        body = json.dumps({"vulns": [hole]} if is_grpcio else {}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def database() -> Iterator[str]:
    Database.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Database)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/query"
    server.shutdown()
    thread.join()
    server.server_close()


def audit(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "deploy" / "audit.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_a_hole_is_told_with_the_version_that_mends_it(database):
    done = audit("--osv-url", database)
    assert done.returncode == 1, done
    assert "PYSEC-2030-1, fixed in 2.0" in done.stdout
    assert "known holes: 1" in done.stdout
    asked = {(question["package"]["name"], question["version"]) for question in Database.asked}
    pinned = dict(asked)
    assert {"grpcio", "torch", "pillow", "cryptography", "pydantic", "redis"} <= pinned.keys()
    assert f"pillow=={pinned['pillow']}" in (ROOT / "deploy" / "constraints.txt").read_text()


def test_nothing_known(database, tmp_path):
    path = tmp_path / "constraints.txt"
    path.write_text("pillow==11.0.0\nredis==8.0.0\n")
    done = audit("--osv-url", database, "--constraints", str(path))
    assert done.returncode == 0, done
    assert done.stdout == "2 of 2 packages looked up, known holes: 0\n"


def test_a_database_out_of_reach_is_no_all_clear(tmp_path):
    path = tmp_path / "constraints.txt"
    path.write_text("pillow==11.0.0\n")
    url = f"http://127.0.0.1:{free_port()}/v1/query"
    done = audit("--osv-url", url, "--constraints", str(path), "--timeout", "2")
    assert done.returncode == 2, done
    assert done.stdout.startswith("NOT AUDITED: ")
    assert "Connection" in done.stdout
