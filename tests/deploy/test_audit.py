"""The audit of the pinned packages, against a database of our own: pip-audit is the real one."""

from __future__ import annotations

import importlib.util
import json
import re
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
    """Answers as osv.dev does; knows of a hole in grpcio below 2, and of those in an old pillow."""

    asked: list[dict[str, Any]]
    is_empty: bool

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).asked.append(question)
        affected = {
            "package": {"name": "grpcio", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.0"}]}],
        }
        hole = {"id": "PYSEC-2030-1", "summary": "a hole", "affected": [affected]}
        known = (question["package"]["name"], question["version"])
        is_known = known == ("pillow", "9.0.0") or known[0] == "grpcio"
        body = json.dumps({"vulns": [hole]} if is_known and not self.is_empty else {}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def database() -> Iterator[str]:
    Database.asked, Database.is_empty = [], False
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
    constraints = (ROOT / "deploy" / "constraints.txt").read_text(encoding="utf-8")
    pinned = set(re.findall(r"^(grpcio|torch|pillow|redis)==([^\s;]+)", constraints, re.MULTILINE))
    assert {name for name, _ in pinned} == {"grpcio", "torch", "pillow", "redis"}
    assert pinned <= asked


def test_nothing_known(database, tmp_path):
    path = tmp_path / "constraints.txt"
    path.write_text("pillow==11.0.0\nredis==8.0.0\n")
    done = audit("--osv-url", database, "--constraints", str(path))
    assert done.returncode == 0, done
    assert done.stdout == "2 of 2 versions looked up, known holes: 0\n"


def test_versions_for_another_python_are_looked_up_too(database, tmp_path):
    path = tmp_path / "constraints.txt"
    path.write_text(
        'redis==7.0.0; python_version < "3.11"\n'
        'redis==8.0.0; python_version >= "3.11"  # a comment\n'
        'GRPCio==1.5; python_version < "3"\n'
    )
    done = audit("--osv-url", database, "--constraints", str(path))
    assert done.returncode == 1, done
    assert done.stdout.endswith("3 of 3 versions looked up, known holes: 1\n")
    asked = {(question["package"]["name"], question["version"]) for question in Database.asked}
    assert asked == {
        ("pillow", "9.0.0"),
        ("redis", "7.0.0"),
        ("redis", "8.0.0"),
        ("grpcio", "1.5"),
    }


def test_a_database_that_knows_nothing_is_no_all_clear(database):
    Database.is_empty = True
    done = audit("--osv-url", database)
    assert done.returncode == 2, done
    assert done.stdout.startswith("NOT AUDITED: the database knows of no hole in pillow==9.0.0")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("# nothing\n", "pins nothing"),
        ("redis==8.0.0\n-r more.txt\n", "line 2 is no pinned version"),
        ("redis @ https://example.org/redis.whl\n", "not pinned"),
    ],
)
def test_what_cannot_be_looked_up_is_no_all_clear(database, tmp_path, content, words):
    path = tmp_path / "constraints.txt"
    path.write_text(content)
    done = audit("--osv-url", database, "--constraints", str(path))
    assert done.returncode == 2, done
    assert done.stdout.startswith("NOT AUDITED: ")
    assert words in done.stdout


def test_a_database_out_of_reach_is_no_all_clear(tmp_path):
    path = tmp_path / "constraints.txt"
    path.write_text("pillow==11.0.0\n")
    url = f"http://127.0.0.1:{free_port()}/v1/query"
    done = audit("--osv-url", url, "--constraints", str(path), "--timeout", "2")
    assert done.returncode == 2, done
    assert done.stdout.startswith("NOT AUDITED: ")
    assert "Connection" in done.stdout
