"""What may come of a call, and what is a finding."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from pairlens.v1 import common_pb2
from pairlens_server.errors import PairlensError
from pairlens_server.rpc.errors import CODES, DOMAIN
from tests.fuzz.cases import MAX_REQUEST_BYTES, METHODS, Case, answer_type


@dataclass(frozen=True)
class Outcome:
    """What came of a call.

    Attributes:
        code: Its status.
        answer: On OK.
        details: Of the error, for a person.
        status: Of the error, with its details, where the server sent one.
    """

    code: grpc.StatusCode
    answer: bytes = b""
    details: str = ""
    status: bytes | None = None

    @property
    def label(self) -> str:
        """Code and reason, to count by."""
        reason = _reason(self.status)
        return f"{self.code.name} {reason}".strip()


_REASONS = {(code.value[0], error.reason) for error, code in CODES.items()}
_BUG = (grpc.StatusCode.INTERNAL.value[0], PairlensError.reason)
# Of gRPC itself, which tells them without details: a message over the limit or one that cannot be
# unpacked, a deadline, a client that gave up, a method that is not there.
_OF_GRPC = {
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNIMPLEMENTED,
}


def problem_with(case: Case, outcome: Outcome) -> str:
    """What is wrong with the outcome of a call; "" where nothing is."""
    if outcome.code is grpc.StatusCode.OK:
        return _problem_with_answer(case, outcome.answer)
    if outcome.status is None:
        return _problem_without_details(case, outcome)
    status = status_pb2.Status.FromString(outcome.status)
    if status.code != outcome.code.value[0]:
        return f"two codes: {outcome.code.name} and {status.code}"
    return _problem_with_status(status)


def _problem_without_details(case: Case, outcome: Outcome) -> str:
    if outcome.code not in _OF_GRPC:
        return f"{outcome.code.name} without details: {outcome.details}"
    if outcome.code is grpc.StatusCode.RESOURCE_EXHAUSTED and not _is_large(case):
        return f"RESOURCE_EXHAUSTED without details: {outcome.details}"
    if outcome.code is grpc.StatusCode.CANCELLED and not case.cancel_s:
        return f"CANCELLED, though the client did not: {outcome.details}"
    if outcome.code is grpc.StatusCode.UNIMPLEMENTED and case.path in METHODS:
        return f"a method of the contract is UNIMPLEMENTED: {outcome.details}"
    return ""


def _is_large(case: Case) -> bool:
    metadata = sum(len(key) + len(value) for key, value in case.metadata)
    return len(case.data) > MAX_REQUEST_BYTES or metadata > _MAX_METADATA


def _problem_with_status(status: status_pb2.Status) -> str:
    reason = _reason(status.SerializeToString())
    if (status.code, reason) == _BUG:
        return f"a bug of the server: {status.message}"
    if (status.code, reason) not in _REASONS:
        return f"code {status.code} with reason {reason!r} is not in the contract"
    return "" if status.message else f"{reason} without a text"


def _problem_with_answer(case: Case, data: bytes) -> str:
    answer = answer_type(case.path)()
    try:
        answer.ParseFromString(data)
    except DecodeError as error:
        return f"the answer is no {answer.DESCRIPTOR.name}: {error}"
    for message in _messages(answer):
        if isinstance(message, status_pb2.Status):
            problem = _problem_with_status(message)
        elif isinstance(message, common_pb2.Tensor):
            problem = _problem_with_tensor(message)
        else:
            problem = ""
        if problem:
            return problem
    return ""


# Of which gRPC takes 8 KB, its own included.
_MAX_METADATA = 7000
_ITEM_BYTES = {1: 4, 2: 2, 3: 1, 4: 8, 5: 1}


def _problem_with_tensor(tensor: common_pb2.Tensor) -> str:
    # What was not asked for is there, and empty.
    if not tensor.dtype and not tensor.shape and not tensor.data:
        return ""
    length = math.prod(tensor.shape) * _ITEM_BYTES.get(tensor.dtype, 0)
    if length == len(tensor.data):
        return ""
    return f"a tensor {list(tensor.shape)} of dtype {tensor.dtype} with {len(tensor.data)} bytes"


def _messages(message: Message) -> Iterator[Message]:
    yield message
    # Whose details are of any kind.
    if isinstance(message, status_pb2.Status):
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if field.is_repeated else (value,):
                yield from _messages(inner)


def _reason(data: bytes | None) -> str:
    if data is None:
        return ""
    for packed in status_pb2.Status.FromString(data).details:
        info = error_details_pb2.ErrorInfo()
        if packed.Unpack(info):
            return info.reason if info.domain == DOMAIN else f"{info.domain}/{info.reason}"
    return ""
