"""Lines that are written beside the event loop, or dropped."""

import json
import logging
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from grpc._cython import cygrpc

from pairlens_server.telemetry.logs import (
    BackgroundHandler,
    JsonFormatter,
    TextFormatter,
    dropped_lines,
    set_up_logging,
    with_fields,
)
from pairlens_server.telemetry.record import CURRENT, CallRecord

LIMIT_S = 10


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for end in ends:
        with suppress(OSError):
            os.close(end)


@pytest.fixture
def handlers():
    made: list[BackgroundHandler] = []

    def make(descriptor: int, formatter: logging.Formatter, most: int = 100) -> BackgroundHandler:
        handler = BackgroundHandler(descriptor, most)
        handler.setFormatter(formatter)
        made.append(handler)
        return handler

    yield make
    for handler in made:
        handler.close()


def line(text: str, *arguments: object, level: int = logging.INFO, **extra) -> logging.LogRecord:
    made = logging.LogRecord("some.logger", level, "", 0, text, arguments, None)
    vars(made).update(extra)
    return made


def until(condition) -> None:
    end_s = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def written(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY)
    yield path, descriptor
    os.close(descriptor)


def test_json_lines(file, handlers):
    path, descriptor = file
    handler = handlers(descriptor, JsonFormatter())
    handler.handle(line("a %s b\nc", "€"))
    handler.handle(line("x", **with_fields(lambda: {"rpc": "Explain", "stages": {"queue": 0.5}})))
    handler.flush()
    first, second = (json.loads(text) for text in written(path))
    assert first["message"] == "a € b\nc"
    assert (first["level"], first["logger"]) == ("info", "some.logger")
    assert "request_id" not in first
    assert (second["rpc"], second["stages"]) == ("Explain", {"queue": 0.5})


def test_lines_of_a_call_have_its_id_in_either_format(file, handlers):
    path, descriptor = file
    reset = CURRENT.set(CallRecord("r", "abc-1"))
    try:
        for formatter in (JsonFormatter(), TextFormatter()):
            handler = handlers(descriptor, formatter)
            handler.handle(line("hello", **with_fields(lambda: {"code": "OK"})))
            handler.flush()
    finally:
        CURRENT.reset(reset)
    as_json, as_text = written(path)
    assert json.loads(as_json)["request_id"] == "abc-1"
    assert as_text.endswith(' INFO    some.logger [abc-1]: hello code="OK"')


def test_a_call_that_has_ended_has_no_lines(file, handlers):
    path, descriptor = file
    call = CallRecord("r", "abc-1")
    reset = CURRENT.set(call)
    try:
        call.is_over = True
        handler = handlers(descriptor, JsonFormatter())
        handler.handle(line("hours later"))
        handler.flush()
    finally:
        CURRENT.reset(reset)
    assert "request_id" not in json.loads(written(path)[0])


def test_tracebacks(file, handlers):
    path, descriptor = file
    try:
        raise KeyError("gone")
    except KeyError:
        failed = logging.LogRecord("l", logging.ERROR, "", 0, "failed", None, sys.exc_info())
    handler = handlers(descriptor, JsonFormatter())
    handler.handle(failed)
    handler.flush()
    (text,) = written(path)
    assert "KeyError: 'gone'" in json.loads(text)["traceback"]
    # Other handlers still find what went wrong.
    assert failed.exc_info is not None


def test_what_arguments_become_later_is_not_written(file, handlers):
    path, descriptor = file
    handler = handlers(descriptor, TextFormatter())
    values = [1]
    handler.handle(line("%s", values))
    values.append(2)
    handler.flush()
    assert written(path)[0].endswith(": [1]")


def test_what_no_utf8_has_is_escaped(file, handlers):
    path, descriptor = file
    for formatter in (JsonFormatter(), TextFormatter()):
        handler = handlers(descriptor, formatter)
        handler.handle(line("lone \udc80"))
        handler.flush()
    as_json, as_text = written(path)
    assert json.loads(as_json)["message"] == "lone \udc80"
    assert as_text.endswith("lone \\udc80")


def test_a_pipe_that_nobody_reads_holds_up_nobody(pipe, handlers):
    reader, writer = pipe
    handler = handlers(writer, TextFormatter(), most=50)
    slowest_s = 0.0
    for _ in range(2000):
        began_s = time.perf_counter()
        handler.handle(line("x" * 1000))
        slowest_s = max(slowest_s, time.perf_counter() - began_s)
        if handler.dropped:
            break
        time.sleep(0.0005)
    assert handler.dropped
    assert slowest_s < 1.0
    dropped = handler.dropped
    # Once somebody reads again, it goes on, and says what is missing.
    os.set_blocking(reader, False)
    received = b""

    def told() -> bool:
        nonlocal received
        with suppress(BlockingIOError):
            received += os.read(reader, 1 << 20)
        return b"lines of this log were dropped" in received

    until(told)
    assert f"{dropped} lines of this log were dropped".encode() in received


def test_a_pipe_whose_reader_is_gone_costs_lines_alone(pipe, handlers):
    reader, writer = pipe
    os.close(reader)
    handler = handlers(writer, TextFormatter())
    for _ in range(5):
        handler.handle(line("x"))
    handler.flush()
    assert handler.dropped == 5


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is not there")
def test_a_full_disk_costs_lines_alone(handlers):
    descriptor = os.open("/dev/full", os.O_WRONLY)
    handler = handlers(descriptor, JsonFormatter())
    for _ in range(7):
        handler.handle(line("x"))
    handler.flush()
    assert handler.dropped == 7
    os.close(descriptor)


_FULL_FOR_A_WHILE = """
import logging, os, resource, sys
from pairlens_server.telemetry.logs import BackgroundHandler, JsonFormatter
handler = BackgroundHandler(os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY))
handler.setFormatter(JsonFormatter())
def log(number):
    for _ in range(number):
        handler.handle(logging.LogRecord("l", logging.INFO, "", 0, "x" * 100, None, None))
    handler.flush()
most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, most))
log(20)
dropped = handler.dropped
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
log(3)
print(dropped, handler.dropped)
"""


def test_a_line_that_is_cut_off_spoils_no_other(tmp_path):
    # In a process of its own, none of whose files may grow any more for a while.
    path = tmp_path / "log"
    command = [sys.executable, "-c", _FULL_FOR_A_WHILE, str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    dropped, in_the_end = map(int, ran.stdout.split())
    assert dropped == in_the_end
    lines = written(path)
    whole = [text for text in lines if text.endswith("}")]
    assert len(lines) == len(whole) + 1
    messages = [json.loads(text)["message"] for text in whole]
    told = f"{dropped} lines of this log were dropped: nobody took them"
    assert sorted(messages) == [told, *["x" * 100] * (23 - dropped)]


def test_a_line_that_cannot_be_made_takes_no_other_with_it(file, handlers):
    def broken() -> dict[str, object]:
        raise KeyError("gone")

    path, descriptor = file
    handler = handlers(descriptor, JsonFormatter())
    for extra in ({}, with_fields(broken), {}):
        handler.handle(line("x", **extra))
    until(lambda: handler.dropped)
    handler.flush()
    assert handler.dropped == 1
    assert [json.loads(text)["message"] for text in written(path)][:2] == ["x", "x"]


def test_times_have_one_length(file, handlers):
    path, descriptor = file
    handler = handlers(descriptor, JsonFormatter())
    for created in (1_700_000_000.0, 1_700_000_000.25):
        handler.handle(line("x", created=created))
    handler.flush()
    assert [json.loads(text)["time"] for text in written(path)] == [
        "2023-11-14T22:13:20.000000+00:00",
        "2023-11-14T22:13:20.250000+00:00",
    ]


def test_a_pipe_that_does_not_block_gets_every_line(pipe, handlers):
    reader, writer = pipe
    os.set_blocking(writer, False)
    handler = handlers(writer, TextFormatter(), most=2000)
    for number in range(1000):
        handler.handle(line(f"{number} " + "x" * 500))
    received = b""
    end_s = time.monotonic() + LIMIT_S
    while received.count(b"\n") < 1000 and time.monotonic() < end_s:
        received += os.read(reader, 65536)
    numbers = [int(text.split(": ")[1].split()[0]) for text in received.decode().splitlines()]
    assert numbers == list(range(1000))
    assert handler.dropped == 0


def test_a_message_that_does_not_fit_its_arguments_is_dropped(file, handlers):
    path, descriptor = file
    handler = handlers(descriptor, TextFormatter())
    handler.handle(line("%d", "no number"))
    handler.handle(line("next"))
    handler.flush()
    assert handler.dropped == 1
    assert written(path)[0].endswith("next")


def test_long_texts_are_cut(file, handlers):
    path, descriptor = file
    handler = handlers(descriptor, TextFormatter())
    handler.handle(line("y" * 1_000_000))
    handler.flush()
    assert len(written(path)[0]) < 20_000


def test_warnings_do_not_wait(file, handlers):
    path, descriptor = file
    handler = handlers(descriptor, TextFormatter())
    handler.handle(line("now", level=logging.WARNING))
    until(lambda: written(path))


@pytest.fixture
def restored():
    """Logging of this process as it was before."""
    root, grpcs = logging.getLogger(), logging.getLogger(cygrpc.__name__)
    handlers, level, filters = root.handlers[:], root.level, grpcs.filters[:]
    yield
    grpcs.filters[:] = filters
    for handler in root.handlers:
        if isinstance(handler, BackgroundHandler):
            handler.close()
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)


@pytest.mark.parametrize(("said", "expected"), [(None, "NONE"), ("DEBUG", "DEBUG")])
def test_the_core_of_grpc_is_silent_unless_asked(said, expected):
    # In a process of its own: gRPC reads it once, when it is imported.
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    if said is not None:
        environment["GRPC_VERBOSITY"] = said
    look = "import os, sys, pairlens_server; print(os.getenv(sys.argv[1]), 'grpc' in sys.modules)"
    command = [sys.executable, "-c", look, "GRPC_VERBOSITY"]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.split() == [expected, "False"]


def test_lines_below_the_level_and_of_pillow_are_left_out(restored, tmp_path):
    with (tmp_path / "log").open("w") as stream:
        set_up_logging("info", as_json=True, stream=stream)
        logging.getLogger("a").info("said")
        logging.getLogger("a").debug("not said")
        logging.getLogger("PIL").warning("nor this")
        for handler in logging.getLogger().handlers:
            handler.flush()
    (line_,) = written(tmp_path / "log")
    assert json.loads(line_)["message"] == "said"
    assert dropped_lines() == 0


@pytest.mark.parametrize("level", ["debug", "info"])
def test_a_client_that_leaves_while_it_is_answered_is_no_error(restored, tmp_path, level):
    grpcs = logging.getLogger(cygrpc.__name__)
    with (tmp_path / "log").open("w") as stream:
        set_up_logging(level, as_json=True, stream=stream)
        # As its `_handle_exceptions` tells of them.
        for text, error in (
            ("ExecuteBatchError raised in core", cygrpc.ExecuteBatchError("a", "b")),
            ("Unexpected [KeyError] raised", KeyError("x")),
        ):
            grpcs.error("%s by servicer method [/a]", text, exc_info=error)
        for handler in logging.getLogger().handlers:
            handler.flush()
    lines = [json.loads(text) for text in written(tmp_path / "log")]
    told = [(line["level"], line["message"].split()[0], "traceback" in line) for line in lines]
    assert ("error", "Unexpected", True) in told
    left = [("debug", "ExecuteBatchError", False)] if level == "debug" else []
    assert [words for words in told if words[1] == "ExecuteBatchError"] == left
    assert len(told) >= 1 + len(left)
