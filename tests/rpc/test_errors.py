import logging
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2

from pairlens_server import errors
from pairlens_server.rpc.errors import bug_status, to_status
from pairlens_server.telemetry.record import CURRENT, CallRecord

ROOT = Path(__file__).resolve().parents[2]
# Every row of the contract's list (explanation_service.proto).
ROWS = [
    (errors.InvalidParameterError, "INVALID_ARGUMENT", "INVALID_PARAMETER"),
    (errors.ImageUndecodableError, "INVALID_ARGUMENT", "IMAGE_UNDECODABLE"),
    (errors.ImageTooLargeError, "INVALID_ARGUMENT", "IMAGE_TOO_LARGE"),
    (errors.ModelNotFoundError, "NOT_FOUND", "MODEL_NOT_FOUND"),
    (errors.MethodUnsupportedError, "FAILED_PRECONDITION", "METHOD_UNSUPPORTED"),
    (errors.NotFiniteError, "FAILED_PRECONDITION", "NOT_FINITE"),
    (errors.ImageMissingError, "FAILED_PRECONDITION", "IMAGE_MISSING"),
    (errors.ImagesNotKeptError, "FAILED_PRECONDITION", "IMAGES_NOT_KEPT"),
    (errors.QueueFullError, "RESOURCE_EXHAUSTED", "QUEUE_FULL"),
    (errors.OutOfMemoryError, "RESOURCE_EXHAUSTED", "OUT_OF_MEMORY"),
    (errors.DeadlineUnreachableError, "DEADLINE_EXCEEDED", "DEADLINE_UNREACHABLE"),
    (errors.NotReadyError, "UNAVAILABLE", "NOT_READY"),
    (errors.DrainingError, "UNAVAILABLE", "DRAINING"),
    (errors.UnauthenticatedError, "UNAUTHENTICATED", "UNAUTHENTICATED"),
    (errors.PermissionDeniedError, "PERMISSION_DENIED", "PERMISSION_DENIED"),
    (errors.ConfigurationInvalidError, "FAILED_PRECONDITION", "CONFIGURATION_INVALID"),
    (errors.PairlensError, "INTERNAL", "INTERNAL"),
]


@pytest.fixture
def call():
    """A call with the longest id."""
    made = CallRecord("/pairlens.v1.ExplanationService/Explain", "i" * 64)
    reset = CURRENT.set(made)
    yield made
    CURRENT.reset(reset)


def unpacked(status, kind):
    found = []
    for detail in status.details:
        message = kind()
        if detail.Unpack(message):
            found.append(message)
    return found


def made(kind, text, field=""):
    if kind is errors.ImageMissingError:
        return kind([errors.MissingImage(field, text, 1)])
    return kind(text, field=field)


@pytest.mark.parametrize(("kind", "code", "reason"), ROWS)
def test_every_error_has_its_row(kind, code, reason):
    status = to_status(made(kind, "what is wrong"))
    assert status.code == getattr(grpc.StatusCode, code).value[0]
    assert "what is wrong" in status.message
    (info,) = unpacked(status, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain, dict(info.metadata)) == (reason, "pairlens", {})
    assert not unpacked(status, error_details_pb2.BadRequest)
    assert not unpacked(status, error_details_pb2.RetryInfo)


def test_no_error_is_without_a_row():
    subclasses, found = [errors.PairlensError], set()
    while subclasses:
        kind = subclasses.pop()
        found.add(kind)
        subclasses += kind.__subclasses__()
    own = {kind for kind in found if kind.__module__ == errors.__name__}
    assert own == {kind for kind, _, _ in ROWS}


def test_the_contract_lists_every_row():
    text = (ROOT / "protos/pairlens/v1/explanation_service.proto").read_text()
    head = text[: text.index("syntax")]
    for _, code, reason in ROWS:
        assert code in head
        assert reason in head


def test_a_class_without_a_row_has_that_of_its_base():
    class Special(errors.ImageTooLargeError):
        pass

    assert to_status(Special("x")).code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


@pytest.mark.parametrize("kind", [kind for kind, _, _ in ROWS])
def test_the_field_at_fault_is_named(kind):
    status = to_status(made(kind, "too many", "candidates[3]"))
    (bad,) = unpacked(status, error_details_pb2.BadRequest)
    (violation,) = bad.field_violations
    assert violation.field == "candidates[3]"
    assert "too many" in violation.description
    (info,) = unpacked(status, error_details_pb2.ErrorInfo)
    assert dict(info.metadata) == {"field": "candidates[3]"}


def test_within_a_call_its_id_is_told(call):
    error = errors.QueueFullError("no", field="image")
    (info,) = unpacked(to_status(error), error_details_pb2.ErrorInfo)
    assert dict(info.metadata) == {"field": "image", "request_id": call.request_id}


@pytest.mark.parametrize(
    "kind", [errors.QueueFullError, errors.OutOfMemoryError, errors.NotReadyError]
)
def test_when_to_come_back(kind):
    status = to_status(kind("not now", retry_after_s=0.5))
    (retry,) = unpacked(status, error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToMilliseconds() == 500


def test_the_model_that_is_not_there():
    status = to_status(errors.ModelNotFoundError("no model 'x'"), model="x")
    (resource,) = unpacked(status, error_details_pb2.ResourceInfo)
    assert resource.resource_name == "x"
    assert resource.resource_type == "pairlens.v1.ModelInfo"


@pytest.mark.parametrize("character", ["x", "%", "ä", "猫", "🐈"])
def test_the_longest_texts_fit_into_the_metadata_of_grpc(character):
    error = errors.ModelNotFoundError(character * 20_000, field="model")
    status = to_status(error, model=character * 20_000)
    (resource,) = unpacked(status, error_details_pb2.ResourceInfo)
    (bad,) = unpacked(status, error_details_pb2.BadRequest)
    assert len(resource.resource_name.encode()) <= 100
    texts = (status.message, resource.description, bad.field_violations[0].description)
    for text in texts:
        assert 990 <= len(text.encode()) <= 1000
        assert set(text) == {character, "…"}
    percent_encoded, base64 = 3 * len(status.message.encode()), status.ByteSize() * 4 / 3
    assert percent_encoded + base64 < 8000


SHA256 = "0123456789abcdef" * 4


def test_missing_pictures_are_the_violations():
    found = [errors.MissingImage(f"candidates[{i}]", SHA256, 10 + i) for i in range(2)]
    status = to_status(errors.ImageMissingError(found))
    assert status.message == (
        f"candidates[0]: the picture {SHA256} is not here (and 1 more); upload it, or send it "
        "inline"
    )
    (info,) = unpacked(status, error_details_pb2.ErrorInfo)
    assert dict(info.metadata) == {"field": "candidates[0]"}
    (failure,) = unpacked(status, error_details_pb2.PreconditionFailure)
    assert [(v.type, v.subject, v.description) for v in failure.violations] == [
        ("MISSING", f"images/{SHA256}/10", "candidates[0]"),
        ("MISSING", f"images/{SHA256}/11", "candidates[1]"),
    ]


@pytest.mark.parametrize("character", ["x", "%", "猫", "🐈"])
def test_any_number_of_missing_pictures_fits_into_the_metadata_of_grpc(character, call):
    missing = [errors.MissingImage(character * 1000, SHA256, 2**63) for _ in range(65)]
    status = to_status(errors.ImageMissingError(missing))
    (failure,) = unpacked(status, error_details_pb2.PreconditionFailure)
    assert len(failure.violations) == 16
    assert {v.subject for v in failure.violations} == {f"images/{SHA256}/{2**63}"}
    (bad,) = unpacked(status, error_details_pb2.BadRequest)
    assert 97 <= len(bad.field_violations[0].field.encode()) <= 100
    percent_encoded, base64 = 3 * len(status.message.encode()), status.ByteSize() * 4 / 3
    assert percent_encoded + base64 < 8000


def test_the_longest_field_of_an_error_fits_too(call):
    error = errors.ModelNotFoundError("猫" * 20_000, field="f" * 5000, retry_after_s=1e6)
    status = to_status(error, model="猫" * 20_000)
    assert 3 * len(status.message.encode()) + status.ByteSize() * 4 / 3 < 8000


def test_texts_up_to_the_limit_stay_whole():
    assert to_status(errors.PairlensError("ä" * 500)).message == "ä" * 500
    assert to_status(errors.PairlensError("ä" * 501)).message == "ä" * 498 + "…"


def test_a_bug_tells_the_caller_an_id_and_the_log_everything(caplog):
    with caplog.at_level(logging.ERROR):
        try:
            raise ValueError("a secret path")
        except ValueError as error:
            status = bug_status(error, "/pairlens.v1.ExplanationService/Explain")
    assert status.code == grpc.StatusCode.INTERNAL.value[0]
    (info,) = unpacked(status, error_details_pb2.ErrorInfo)
    assert info.reason == "INTERNAL"
    assert info.metadata["request_id"] in status.message
    assert "secret" not in str(status)
    assert info.metadata["request_id"] in caplog.text
    assert "a secret path" in caplog.text
    assert "ExplanationService/Explain" in caplog.text


def test_a_bug_within_a_call_is_known_by_its_id(call, caplog):
    status = bug_status(ValueError(), call.rpc)
    (info,) = unpacked(status, error_details_pb2.ErrorInfo)
    assert dict(info.metadata) == {"request_id": call.request_id}
    assert call.request_id in status.message
    assert call.request_id in caplog.text


def test_ids_differ():
    first, second = (bug_status(ValueError(), "m").message for _ in range(2))
    assert first != second
