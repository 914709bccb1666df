"""`pairlens server`: how a server is, its models anew, and its end."""

from __future__ import annotations

import io
import json

import pytest
from grpc_health.v1 import health_pb2

from pairlens.v1 import admin_service_pb2
from tests.client.conftest import Run
from tests.client.held import Held
from tests.client.scripted import Running, Scripted, fails, status

FAILED = admin_service_pb2.MODEL_CHANGE_KIND_FAILED


@pytest.mark.parametrize("command", [[], ["status"], ["reload"], ["drain"]])
def test_help(run: Run, command: list[str]):
    code, out, err = run("server", *command, "--help")
    assert (code, err) == (0, "")
    assert "examples:\n" in out


def test_status(run: Run, server: Running):
    code, out, err = run("server", "status")
    assert (code, err) == (0, "")
    assert server.target in out
    assert "serves" in out
    assert " ms" in out
    assert "vit_tiny_patch16_224" in out
    assert "1,048,576 bytes" in out


def test_status_json(run: Run, server: Running):
    code, out, _ = run("server", "status", "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["server"], found["ready"]) == (server.target, True)
    assert 0 < found["latency_s"] < 10
    assert [model["name"] for model in found["models"]] == ["vit", "cnn"]
    assert found["limits"]["max_candidates"] == 4


def test_status_of_a_server_without_models(run: Run, service: Scripted):
    service.models.clear()
    code, out, _ = run("server", "status", "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["models"], found["limits"]) == ([], None)
    assert run("server", "status")[0] == 0


def test_status_of_a_server_that_loads(run: Run, service: Scripted):
    service.script.extend([fails("NOT_READY", "the models are loading", request_id="r-9")] * 9)
    code, out, err = run("server", "status")
    assert (code, out) == (1, "")
    assert err == "pairlens: the models are loading (request r-9)\n"
    code, out, err = run("server", "status", "--json")
    found = json.loads(out)
    assert (code, err, found["ready"]) == (1, "", False)
    assert found["error"]["reason"] == "NOT_READY"
    assert found["error"]["request_id"] == "r-9"


def test_status_where_nobody_is(run: Run):
    code, out, err = run("server", "status", "--server", "127.0.0.1:1")
    assert (code, out) == (1, "")
    assert "no pairlens server can be reached at 127.0.0.1:1" in err
    assert run("server", "status", "--server", "127.0.0.1:1", "--json")[0] == 1


@pytest.mark.parametrize("how", ["--timeout", "--wait"])
def test_status_of_a_server_that_hangs(run: Run, service: Scripted, how: str):
    held = Held()
    service.script.append(held)
    code, out, err = run("server", "status", "--json", how, 0.3)
    held.release.set()
    found = json.loads(out)
    assert (code, err, found["ready"]) == (1, "", False)
    assert found["error"]["code"] == "DEADLINE_EXCEEDED"


def test_status_of_a_server_that_says_it_does_not_serve(run: Run, server: Running):
    server.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    code, _, err = run("server", "status")
    assert code == 1
    assert "it says that it does not serve now" in err


def test_status_waits(run: Run, service: Scripted):
    service.script.extend([fails("NOT_READY", retry_after=0.05)] * 5)  # gRPC's four, one more
    assert run("server", "status", "--wait", 20)[0] == 0
    service.script.extend([fails("NOT_READY", "still loading", retry_after=0.05)] * 1000)
    code, _, err = run("server", "status", "--wait", 2)
    assert code == 1
    assert "still loading" in err


def test_reload(run: Run, service: Scripted):
    code, out, err = run("server", "reload")
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    assert ["vit", "replaced", "f00d"] in rows
    assert ["cnn", "removed"] in rows
    assert len(service.requests(admin_service_pb2.ReloadModelsRequest)) == 1
    # Models take minutes to load.
    assert service.deadlines[-1] > 500
    assert run("server", "reload", "--timeout", 5)[0] == 0
    assert service.deadlines[-1] < 5


def test_reload_of_which_some_failed(run: Run, service: Scripted):
    error = status("CONFIGURATION_INVALID", "no such file: x.safetensors")
    service.changes.append(admin_service_pb2.ModelChange(model="new", change=FAILED, error=error))
    code, out, err = run("server", "reload")
    assert code == 3
    assert err == "pairlens: new: no such file: x.safetensors\n"
    assert "failed" in out
    code, out, _ = run("server", "reload", "--json")
    changes = json.loads(out)["changes"]
    assert code == 3
    assert [change["change"] for change in changes] == ["replaced", "removed", "failed"]
    assert changes[2]["error"]["reason"] == "CONFIGURATION_INVALID"
    assert changes[0]["error"] is None


@pytest.mark.parametrize(
    ("reason", "expected"),
    # A file of the server is no mistake of this command line; who calls is.
    [("CONFIGURATION_INVALID", 1), ("PERMISSION_DENIED", 2)],
)
def test_reload_that_is_refused(run: Run, service: Scripted, reason: str, expected: int):
    service.script.append(fails(reason, "what", request_id="r-1"))
    code, out, err = run("server", "reload")
    assert (code, out, err) == (expected, "", "pairlens: what (request r-1)\n")


def test_drain(run: Run, server: Running):
    code, out, err = run("server", "drain", "--yes")
    assert (code, err) == (0, "")
    assert out == f"{server.target} drains; 3 calls under way\n"
    server.service.under_way = 1
    assert "; 1 call under way" in run("server", "drain", "--yes")[1]
    assert json.loads(run("server", "drain", "--yes", "--json")[1]) == {
        "server": server.target,
        "calls_under_way": 1,
    }


def test_drain_needs_somebody_to_be_sure(run: Run, service: Scripted, monkeypatch):
    code, out, err = run("server", "drain")
    assert (code, out) == (2, "")
    assert "needs --yes" in err

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for answer, expected in (("n\n", 2), ("y\n", 0)):
        monkeypatch.setattr("sys.stdin", Terminal(answer))
        code, _, err = run("server", "drain")
        assert code == expected
        assert err.startswith("Drain 127.0.0.1:")
    assert len(service.requests(admin_service_pb2.DrainRequest)) == 1
