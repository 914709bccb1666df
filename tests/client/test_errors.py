import pickle

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from pairlens import Client, Rendering, errors
from pairlens.v1 import explanation_service_pb2
from tests.client.scripted import CODES, Scripted, fails, png, status

CLASSES = {
    "INVALID_PARAMETER": errors.InvalidParameterError,
    "IMAGE_UNDECODABLE": errors.ImageUndecodableError,
    "IMAGE_TOO_LARGE": errors.ImageTooLargeError,
    "MODEL_NOT_FOUND": errors.ModelNotFoundError,
    "METHOD_UNSUPPORTED": errors.MethodUnsupportedError,
    "NOT_FINITE": errors.NotFiniteError,
    "IMAGE_MISSING": errors.ImageMissingError,
    "IMAGES_NOT_KEPT": errors.ImagesNotKeptError,
    "QUEUE_FULL": errors.QueueFullError,
    "OUT_OF_MEMORY": errors.OutOfMemoryError,
    "DEADLINE_UNREACHABLE": errors.DeadlineExceededError,
    "NOT_READY": errors.NotReadyError,
    "DRAINING": errors.DrainingError,
    "INTERNAL": errors.InternalError,
}


def test_every_reason_of_the_contract_has_a_class():
    assert set(CLASSES) == set(CODES)


@pytest.mark.parametrize("reason", CODES)
def test_status_becomes_its_class(reason: str):
    made = errors.from_status(status(reason, "what", field="candidates[3]", retry_after=1.25))
    assert type(made) is CLASSES[reason]
    assert (made.code, made.reason, made.message) == (CODES[reason], reason, "what")
    assert (made.field, made.retry_after) == ("candidates[3]", 1.25)
    assert made.default_code == made.code
    assert str(made) == "what"


@pytest.mark.parametrize("reason", [name for name in CODES if CODES[name] != "UNAVAILABLE"])
def test_call_raises_the_class_and_keeps_the_cause(client: Client, service: Scripted, reason: str):
    # A wait beyond the timeout ends the client's own repetitions at once.
    service.script.append(fails(reason, "what", field="image", retry_after=60.0))
    with pytest.raises(CLASSES[reason], match=r"^what$") as caught:
        client.explain(png(), model="vit")
    assert type(caught.value) is CLASSES[reason]
    assert caught.value.reason == reason
    assert caught.value.field == "image"
    assert isinstance(caught.value.__cause__, grpc.RpcError)


@pytest.mark.parametrize("reason", ["NOT_READY", "DRAINING"])
def test_unavailable_is_repeated_and_then_raised(client: Client, service: Scripted, reason: str):
    service.script.extend([fails(reason)] * 9)
    with pytest.raises(CLASSES[reason]):
        client.explain(png(), model="vit")
    assert len(service.calls) == 4


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, errors.InvalidParameterError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.ResourceExhaustedError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceededError),
        (grpc.StatusCode.UNIMPLEMENTED, errors.UnimplementedError),
        (grpc.StatusCode.INTERNAL, errors.InternalError),
        (grpc.StatusCode.UNAUTHENTICATED, errors.PairlensError),
    ],
)
def test_codes_without_details(client: Client, service: Scripted, code, expected):
    service.script.append(lambda context: context.abort(code, "by a proxy"))
    with pytest.raises(errors.PairlensError) as caught:
        client.explain(png(), model="vit")
    assert type(caught.value) is expected
    assert (caught.value.code, caught.value.reason) == (code.name, "")
    assert client.target in caught.value.message


@pytest.mark.parametrize("details", [b"", b"\xff\xff not a status"])
def test_broken_details_leave_the_code(client: Client, service: Scripted, details: bytes):
    def act(context: grpc.ServicerContext) -> None:
        context.set_trailing_metadata((("grpc-status-details-bin", details),))
        context.abort(grpc.StatusCode.INTERNAL, "boom")

    service.script.append(act)
    with pytest.raises(errors.InternalError, match="boom"):
        client.explain(png(), model="vit")


def test_contradicting_details_leave_the_code(client: Client, service: Scripted):
    def act(context: grpc.ServicerContext) -> None:
        lie = status("MODEL_NOT_FOUND").SerializeToString()
        context.set_trailing_metadata((("grpc-status-details-bin", lie),))
        context.abort(grpc.StatusCode.INTERNAL, "boom")

    service.script.append(act)
    with pytest.raises(errors.InternalError, match="boom"):
        client.explain(png(), model="vit")


def test_reason_of_another_domain_is_not_ours():
    foreign = status_pb2.Status(code=3, message="what")
    info = error_details_pb2.ErrorInfo(reason="MODEL_NOT_FOUND", domain="googleapis.com")
    foreign.details.add().Pack(info)
    made = errors.from_status(foreign)
    assert type(made) is errors.InvalidParameterError
    assert made.reason == ""


def test_a_broken_detail_leaves_the_others():
    broken = status("QUEUE_FULL", retry_after=0.5)
    broken.details.add(type_url="type.googleapis.com/google.rpc.BadRequest", value=b"\xff")
    made = errors.from_status(broken)
    assert (type(made), made.retry_after, made.field) == (errors.QueueFullError, 0.5, "")


def test_unknown_reason_and_code_still_make_an_error():
    newer = status_pb2.Status(code=77)
    newer.details.add().Pack(error_details_pb2.ErrorInfo(reason="NEWER", domain="pairlens"))
    made = errors.from_status(newer)
    assert type(made) is errors.PairlensError
    assert (made.code, made.reason) == ("UNKNOWN", "NEWER")
    assert made.message


def test_request_over_the_servers_limit(client: Client, service: Scripted):
    with pytest.raises(errors.RequestTooLargeError, match="together over the limit") as caught:
        client.explain(bytes(9 * 2**20), model="vit")
    assert caught.value.code == "RESOURCE_EXHAUSTED"
    assert not service.requests(explanation_service_pb2.ExplainRequest)


def test_request_and_answer_over_the_clients_limit(server):
    with Client(server.target, timeout=5, max_message_bytes=1000) as client:
        with pytest.raises(errors.RequestTooLargeError, match=r"vs\. 1000"):
            client.explain(bytes(2000), model="a-model-with-a-name")
        server.service.overlay_png = bytes(2000)
        with pytest.raises(errors.ResponseTooLargeError, match="max_message_bytes"):
            client.explain(png(), model="vit", render=Rendering())


def test_no_server_names_the_target():
    with (
        Client("127.0.0.1:1", timeout=10) as client,
        pytest.raises(errors.UnavailableError, match=r"127\.0\.0\.1:1: .*refused") as caught,
    ):
        client.list_models()
    assert caught.value.code == "UNAVAILABLE"


def test_errors_survive_pickling():
    error = errors.QueueFullError("full", reason="QUEUE_FULL", retry_after=0.5)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is errors.QueueFullError
    assert (copy.message, copy.reason, copy.retry_after) == ("full", "QUEUE_FULL", 0.5)
