"""What is done when a call has ended: it is counted, and it gets its line in the log."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, Literal

from pairlens_server.telemetry import catalogue
from pairlens_server.telemetry.instruments import Instruments
from pairlens_server.telemetry.labels import NONE
from pairlens_server.telemetry.logs import CALL_LOGGER, with_fields
from pairlens_server.telemetry.record import CallRecord, Stage

LogCalls = Literal["all", "failed", "none"]
"""Which calls get a line in the log."""

_OK = "OK"
_BUG = "INTERNAL"

_log = logging.getLogger(CALL_LOGGER)


def count_call(
    instruments: Instruments,
    record: CallRecord,
    code: str,
    seconds: float,
    stages: dict[Stage, float],
) -> None:
    """Count a call that ended.

    Args:
        instruments: Where.
        record: Of the call.
        code: Name of its status code.
        seconds: That it took.
        stages: Seconds of each stage that occurred.
    """
    rpc = record.rpc.rpartition("/")[2]
    model, method = record.model or NONE, record.method or NONE
    instruments.count(catalogue.RPC_HANDLED, rpc, code)
    instruments.observe(catalogue.RPC_DURATION, seconds, rpc, model)
    for stage, spent in stages.items():
        instruments.observe(catalogue.STAGE_DURATION, spent, stage.value, method, model)
    if record.reason:
        instruments.count(catalogue.REJECTED, record.reason)


def log_call(
    which: LogCalls,
    record: CallRecord,
    code: str,
    seconds: float,
    stages: dict[Stage, float],
    trace_id: str = "",
) -> None:
    """Write a call's line: who asked what, how it went and where the time went.

    Nothing of the request but the names of its model and method, and no token.

    Args:
        which: Calls that get one.
        record: Of the call.
        code: Name of its status code.
        seconds: That it took.
        stages: Seconds of each stage that occurred.
        trace_id: Hex id of its trace; "" without.
    """
    level = logging.WARNING if code == _BUG else logging.INFO
    if which == "none" or (which == "failed" and code == _OK) or not _log.isEnabledFor(level):
        return
    line = partial(_fields, record, code, seconds, stages, trace_id)
    _log.log(level, "%s %s", record.rpc.rpartition("/")[2], code, extra=with_fields(line))


def _fields(
    record: CallRecord, code: str, seconds: float, stages: dict[Stage, float], trace_id: str
) -> dict[str, Any]:
    told = {
        "rpc": record.rpc.rpartition("/")[2],
        "code": code,
        "reason": record.reason,
        "seconds": round(seconds, 6),
        "client": record.caller,
        "peer": record.peer,
        "model": record.model,
        "method": record.method,
        "stages": {stage.value: round(spent, 6) for stage, spent in stages.items()},
        "trace_id": trace_id,
    }
    return {name: value for name, value in told.items() if value not in ("", {})}
