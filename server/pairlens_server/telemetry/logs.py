"""Log lines to stderr, for people or for machines, that nobody ever waits for.

Lines go through a bounded queue to a thread that writes them. When nobody takes them any more (a
full disk, a pipe whose reader stopped or went away) they are dropped and counted, and calls go on.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from itertools import accumulate, islice
from typing import Any, TextIO

from pairlens_server.telemetry.record import current_call

CALL_LOGGER = "pairlens.calls"
"""Name of the logger that has a line for each call."""

MOST_LINES = 2048
"""Lines that may wait to be written."""

_MAX_TEXT = 16 * 1024  # characters of a message or of a traceback
_LAST_LINES_S = 1.0
_GATHERED_S = 0.05
_SOON_S = 0.005
_AT_ONCE = 64  # lines of one write
_NOTHING = (None, None, None)
_GRPC = "grpc._cython.cygrpc"
# Attributes of log records.
_MESSAGE = "message"
_REQUEST_ID = "request_id"
_FIELDS = "fields"


def with_fields(make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a log line says beside its message, to be given as `extra`; made when it is written."""
    return {_FIELDS: make}


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, and what else there is.

    That is the request id of a line that belongs to a call, the fields of the call's own line, and
    a traceback.
    """

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        line: dict[str, Any] = {
            "time": _time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        if getattr(record, _REQUEST_ID, ""):
            line[_REQUEST_ID] = getattr(record, _REQUEST_ID)
        line.update(_fields(record))
        if record.exc_text or record.exc_info:
            line["traceback"] = _traceback(self, record)
        # A lone surrogate, which no UTF-8 has, stays an escape.
        text = json.dumps(line, ensure_ascii=False, default=str)
        return text.encode("utf-8", "backslashreplace").decode()


class TextFormatter(logging.Formatter):
    """A line for people: the same, fields as `name=value` behind the message."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        created = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        request_id = getattr(record, _REQUEST_ID, "")
        of_call = f" [{request_id}]" if request_id else ""
        text = f"{created},{record.msecs:03.0f} {record.levelname:<7} {record.name}{of_call}: "
        text += _message(record)
        for name, value in _fields(record).items():
            text += f" {name}={json.dumps(value, ensure_ascii=False, default=str)}"
        if record.exc_text or record.exc_info:
            text += f"\n{_traceback(self, record)}"
        return text


def _time(created_s: float) -> str:
    # Of one length, also at a whole second.
    return datetime.fromtimestamp(created_s, timezone.utc).isoformat(timespec="microseconds")


def _message(record: logging.LogRecord) -> str:
    return getattr(record, _MESSAGE, "") or record.getMessage()


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    make: Callable[[], dict[str, Any]] = getattr(record, _FIELDS, dict)
    return make()


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return record.exc_text or formatter.formatException(record.exc_info or _NOTHING)


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "…"


class BackgroundHandler(logging.Handler):
    """Has lines written to a file descriptor by a thread; what finds no room is dropped.

    The thread wakes some times a second and takes all that there is: woken for each line, it
    would contend with the event loop for the interpreter (100 us for each call, measured).
    Warnings and errors do not wait for their turn.

    Args:
        descriptor: Where to.
        most: Lines that may wait.
    """

    def __init__(self, descriptor: int, most: int = MOST_LINES):
        super().__init__()
        self._descriptor = descriptor
        self._most = most
        self._lines: deque[logging.LogRecord] = deque()
        # Counts of lines: each is written by one thread, the first under the handler's lock.
        self._accepted = self._refused = 0
        self._done = self._failed = self._told = 0
        self._is_cut = False  # whether the last byte that was written is within a line
        self._some = threading.Event()
        self._hurry = threading.Event()
        self._closed = False
        # A daemon, since one that is stuck in a full pipe must not keep the process.
        self._thread = threading.Thread(target=self._write_on, name="log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines that were dropped so far."""
        return self._refused + self._failed

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`; takes microseconds, and never raises."""
        try:
            settled = _settled(record)
        # A message that does not fit its arguments is a line that is lost, and no more.
        except Exception:
            self._refused += 1
            return
        if len(self._lines) >= self._most:
            self._refused += 1
            return
        self._lines.append(settled)
        self._accepted += 1
        if record.levelno >= logging.WARNING:
            self._hurry.set()
        if not self._some.is_set():
            self._some.set()

    def flush(self) -> None:
        """Wait until all is written, for about a second at most."""
        accepted, end_s = self._accepted, time.monotonic() + _LAST_LINES_S
        self._hurry.set()
        self._some.set()
        while self._done < accepted and time.monotonic() < end_s:
            time.sleep(_SOON_S)

    def close(self) -> None:
        """Write what is left, for about a second at most."""
        self.flush()
        self._closed = True
        self._some.set()
        super().close()

    def _write_on(self) -> None:
        while not self._closed:
            self._some.wait()
            self._hurry.wait(_GATHERED_S)
            self._hurry.clear()
            self._some.clear()
            self._write_all()

    def _write_all(self) -> None:
        while self._lines:
            count = min(len(self._lines), _AT_ONCE)
            written = self._wrote([self._lines.popleft() for _ in range(count)])
            self._failed += count - written
            self._done += count
        dropped = self.dropped
        if dropped > self._told:
            text = f"{dropped - self._told} lines of this log were dropped: nobody took them"
            record = logging.LogRecord(__name__, logging.WARNING, "", 0, text, None, None)
            if self._wrote([record]):
                self._told = dropped

    def _wrote(self, records: Sequence[logging.LogRecord]) -> int:
        """How many of some lines were written."""
        lines = [line for record in records if (line := self._line(record))]
        # What was cut off stays by itself: no other line is joined to it.
        data = b"\n" * self._is_cut + b"".join(lines)
        ends = accumulate(map(len, lines), initial=int(self._is_cut))
        done = 0
        with suppress(OSError):
            while done < len(data):
                done += self._write(data[done:])
        if done:
            self._is_cut = data[done - 1 : done] != b"\n"
        return sum(end <= done for end in islice(ends, 1, None))

    def _line(self, record: logging.LogRecord) -> bytes:
        try:
            return f"{self.format(record)}\n".encode("utf-8", "backslashreplace")
        # A line that cannot be made takes no other with it.
        except Exception:
            return b""

    def _write(self, data: bytes) -> int:
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            # Whoever made the pipe so; this thread has time.
            time.sleep(_GATHERED_S)
            return 0


def _settled(record: logging.LogRecord) -> logging.LogRecord:
    """A record with what it says now, since its arguments may change, and its request id."""
    if record.exc_info:
        # As text, so that no frame is kept alive; other handlers want the original.
        text = record.exc_text or logging.Formatter().formatException(record.exc_info)
        record = copy.copy(record)
        record.exc_text, record.exc_info = _cut(text), None
    setattr(record, _MESSAGE, _cut(record.getMessage()))
    call = current_call()
    if call is not None and not call.is_over:
        setattr(record, _REQUEST_ID, call.request_id)
    return record


_handler: BackgroundHandler | None = None


def set_up_logging(level: str, *, as_json: bool, stream: TextIO | None = None) -> None:
    """Send the log of the process to stderr, in the background.

    Args:
        level: Least severe level, in lower case.
        as_json: One JSON object per line instead of plain text.
        stream: Instead of stderr; needs a file descriptor.
    """
    global _handler
    handler = BackgroundHandler((stream or sys.stderr).fileno())
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    _handler = handler
    # Pillow warns of every odd tag in a stranger's picture, through both doors.
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.ERROR)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    logging.getLogger(_GRPC).addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether to write a line of gRPC's; what is none becomes a short one of level DEBUG."""
    error = record.exc_info[1] if record.exc_info else None
    # An answer that could not be sent, with a traceback: the client had left at that very moment,
    # which gRPC says nothing of a moment later. Named, since this layer does not know gRPC.
    if type(error).__name__ != "ExecuteBatchError":
        return True
    record.levelno, record.levelname = logging.DEBUG, logging.getLevelName(logging.DEBUG)
    record.exc_info = record.exc_text = None
    return logging.getLogger(record.name).isEnabledFor(record.levelno)


def dropped_lines() -> int:
    """Lines of the process' log that were dropped so far."""
    return 0 if _handler is None else _handler.dropped
