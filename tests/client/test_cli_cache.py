import io
import json

import pytest

from pairlens import cli_cache
from pairlens.v1 import admin_service_pb2, common_pb2
from tests.client.conftest import Run
from tests.client.scripted import Scripted

CLEAR = admin_service_pb2.ClearCacheRequest
ACTIVATION, IMAGE = admin_service_pb2.CACHE_KIND_ACTIVATION, admin_service_pb2.CACHE_KIND_IMAGE


@pytest.mark.parametrize(
    "command", [["cache"], ["cache", "stats"], ["cache", "clear"], ["warm"], ["score"]]
)
def test_help(run: Run, command: list[str]):
    code, out, err = run(*command, "--help")
    assert (code, err) == (0, "")
    assert "examples:\n" in out


def test_stats(run: Run):
    code, out, err = run("cache", "stats")
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    memory, image, redis = (
        next(line for line in lines if line[:2] == start)
        for start in (["memory", "activation"], ["memory", "image"], ["Redis", "activation"])
    )
    assert memory[2:] == [
        "8",
        "3.0",
        "MiB",
        "1.0",
        "GiB",
        "30",
        "10",
        "75.0",
        "%",
        "10",
        "2",
        "0",
        "0",
    ]
    assert image[2:] == ["0", "0", "bytes", "256.0", "MiB", "0", "0", "0", "0", "0", "0"]
    assert redis[2:] == ["3", "1", "75.0", "%", "0", "0", "1"]
    assert "up" in out
    assert "100 bytes of 64.0 MiB" in out
    assert "2, of these too slow: 1" in out


def test_stats_without_redis(run: Run, service: Scripted):
    service.redis = admin_service_pb2.RedisStats(state=admin_service_pb2.REDIS_STATE_OFF)
    code, out, _ = run("cache", "stats")
    assert code == 0
    assert "off: the server shares its cache with no other" in out
    assert "round trips" not in out


def test_stats_json(run: Run):
    code, out, err = run("cache", "stats", "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["redis"]["state"] == "up"
    assert document["memory"][0]["hits"] == 30
    assert document["memory"][1]["kind"] == "image"


def test_clear(run: Run, service: Scripted):
    code, out, err = run("cache", "clear", "--model", "vit", "--yes")
    assert (code, err) == (0, "")
    assert out.split()[-2:] == ["8", "20"]
    code, out, _ = run("cache", "clear", "--all", "--images", "--yes", "--json")
    assert code == 0
    assert json.loads(out) == {"memory_entries": 8, "redis_entries": 20, "redis_cleared": True}
    first, second = service.requests(CLEAR)
    assert (first.model, list(first.kinds)) == ("vit", [ACTIVATION])
    assert (second.model, list(second.kinds)) == ("", [ACTIVATION, IMAGE])


def test_redis_that_was_not_emptied_is_named(run: Run, service: Scripted):
    service.redis_cleared = False
    code, out, err = run("cache", "clear", "--all", "--yes")
    assert code == 3
    assert "Redis did not answer and was not emptied" in err
    assert out.split()[-2:] == ["8", "20"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cache",), "the following arguments are required: COMMAND"),
        (("cache", "clear", "--yes"), "one of the arguments --model --all is required"),
        (("cache", "clear", "--all", "--model", "vit"), "not allowed with argument"),
        (("cache", "clear", "--all"), "clearing the cache of all models needs --yes"),
        (("cache", "clear", "--model", "x", "--yes"), "no model 'x'"),
        (
            ("cache", "clear", "--all", "--images"),
            "the cache of all models and all uploaded pictures needs --yes",
        ),
        (("cache", "clear", "--model", "vit", "--images", "--yes"), "--images goes with --all"),
    ],
)
def test_mistakes(run: Run, arguments: tuple[str, ...], message: str):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("answer", "code"), [("y\n", 0), ("Yes\n", 0), ("\n", 2), ("", 2), ("n", 2)]
)
def test_it_asks_on_a_terminal(run: Run, service: Scripted, monkeypatch, answer: str, code: int):
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    found, _, err = run("cache", "clear", "--all")
    assert found == code
    assert err.startswith("Clear the cache of all models at 127.0.0.1:")
    assert len(service.requests(CLEAR)) == (code == 0)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (2**30, "1.0 GiB"),
        (3 * 2**51, "6144.0 TiB"),
    ],
)
def test_sizes(count: int, text: str):
    assert cli_cache.size(count) == text


@pytest.mark.parametrize(
    "command",
    [
        ("explain", "cat.png"),
        ("explain", "cat.png", "--method", "all", "--model", "vit"),
        ("attention", "cat.png"),
        ("pair", "cat.png", "dog.png"),
        ("score", "cat.png"),
    ],
)
def test_commands_say_how_the_cache_is_used(run: Run, service: Scripted, command):
    assert run(*command, "--cache", "bypass")[0] == 0
    policies = [request.cache for request in service.calls if hasattr(request, "cache")]
    assert set(policies) == {common_pb2.CACHE_POLICY_BYPASS}
    code, _, err = run(*command, "--cache", "never")
    assert code == 2
    assert "invalid choice: 'never'" in err
