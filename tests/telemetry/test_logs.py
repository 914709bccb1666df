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
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
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
