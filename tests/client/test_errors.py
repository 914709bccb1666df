import pickle

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from pairlens import Client, Rendering, _failures, errors
from pairlens.v1 import explanation_service_pb2, model_service_pb2, model_service_pb2_grpc
from tests.client.scripted import CODES, Scripted, fails, png, status

CLASSES = {
    "UNAUTHENTICATED": errors.UnauthenticatedError,
    "PERMISSION_DENIED": errors.PermissionDeniedError,
    "INVALID_PARAMETER": errors.InvalidParameterError,
    "IMAGE_UNDECODABLE": errors.ImageUndecodableError,
    "IMAGE_TOO_LARGE": errors.ImageTooLargeError,
    "MODEL_NOT_FOUND": errors.ModelNotFoundError,
    "CONFIGURATION_INVALID": errors.ConfigurationInvalidError,
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
    made = _failures.from_status(status(reason, "what", field="candidates[3]", retry_after=1.25))
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
        (grpc.StatusCode.UNAUTHENTICATED, errors.UnauthenticatedError),
        (grpc.StatusCode.PERMISSION_DENIED, errors.PermissionDeniedError),
        (grpc.StatusCode.ABORTED, errors.PairlensError),
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
    made = _failures.from_status(foreign)
    assert type(made) is errors.InvalidParameterError
    assert made.reason == ""


def test_a_broken_detail_leaves_the_others():
    broken = status("QUEUE_FULL", retry_after=0.5)
    broken.details.add(type_url="type.googleapis.com/google.rpc.BadRequest", value=b"\xff")
    made = _failures.from_status(broken)
    assert (type(made), made.retry_after, made.field) == (errors.QueueFullError, 0.5, "")


def test_unknown_reason_and_code_still_make_an_error():
    newer = status_pb2.Status(code=77)
    newer.details.add().Pack(error_details_pb2.ErrorInfo(reason="NEWER", domain="pairlens"))
    made = _failures.from_status(newer)
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


def test_request_id_of_an_error_of_the_server(client: Client, service: Scripted):
    service.script.append(fails("METHOD_UNSUPPORTED", "what", request_id="r-1"))
    with pytest.raises(errors.MethodUnsupportedError, match=r"^what$") as caught:
        client.list_models()
    assert caught.value.request_id == "r-1"


@pytest.mark.parametrize("detailed", [True, False])
def test_request_id_of_what_says_it_only_behind_the_answer(
    client: Client, service: Scripted, detailed: bool
):
    def act(context: grpc.ServicerContext) -> None:
        context.set_trailing_metadata((("other", "x"), ("x-request-id", "r-2")))
        context.abort(grpc.StatusCode.NOT_FOUND, "by a proxy")

    def act_with_details(context: grpc.ServicerContext) -> None:
        details = status("MODEL_NOT_FOUND", "gone").SerializeToString()
        context.set_trailing_metadata(
            (("x-request-id", "r-2"), ("grpc-status-details-bin", details))
        )
        context.abort(grpc.StatusCode.NOT_FOUND, "gone")

    service.script.append(act_with_details if detailed else act)
    with pytest.raises(errors.PairlensError) as caught:
        client.list_models()
    assert caught.value.request_id == "r-2"
    assert "r-2" not in caught.value.message
    assert isinstance(caught.value, errors.ModelNotFoundError) == detailed


def test_request_id_is_empty_where_no_server_answered():
    with (
        Client("127.0.0.1:1", timeout=10) as client,
        pytest.raises(errors.UnavailableError) as caught,
    ):
        client.list_models()
    assert caught.value.request_id == ""


async def test_errors_of_asyncio_are_the_same(server, service: Scripted):
    service.script.append(
        fails("QUEUE_FULL", "full", field="image", retry_after=1.5, request_id="r-3")
    )
    async with grpc.aio.insecure_channel(server.target) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ListModels(model_service_pb2.ListModelsRequest(), timeout=10)
    made = _failures.from_rpc(caught.value, target=server.target, timeout=10)
    assert type(made) is errors.QueueFullError
    assert (made.message, made.code, made.reason) == ("full", "RESOURCE_EXHAUSTED", "QUEUE_FULL")
    assert (made.field, made.retry_after, made.request_id) == ("image", 1.5, "r-3")


def test_errors_survive_pickling():
    error = errors.QueueFullError("full", reason="QUEUE_FULL", retry_after=0.5, request_id="r-4")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is errors.QueueFullError
    assert (copy.message, copy.reason, copy.retry_after) == ("full", "QUEUE_FULL", 0.5)
    assert copy.request_id == "r-4"
