"""The interceptor before servicers that a test decides, on a real connection."""

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from pairlens.v1 import model_service_pb2, model_service_pb2_grpc
from pairlens.v1.admin_service_pb2_grpc import AdminServiceServicer
from pairlens.v1.explanation_service_pb2_grpc import ExplanationServiceServicer
from pairlens.v1.image_service_pb2_grpc import ImageServiceServicer
from pairlens_server.errors import (
    ConfigurationError,
    DrainingError,
    ImageMissingError,
    InvalidParameterError,
    MissingImage,
    ModelNotFoundError,
    NotReadyError,
)
from pairlens_server.rpc.interceptor import CallInterceptor, Gate
from pairlens_server.rpc.server import SERVICES, RpcServer, Servicers


class Scripted(model_service_pb2_grpc.ModelServiceServicer):
    """Does what the test says, once it says so."""

    def __init__(self) -> None:
        self.act: Callable[[], object] = lambda: None
        self.entered = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.cancelled = asyncio.Event()

    async def GetModel(self, request, context):  # noqa: N802
        self.entered.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        self.act()
        return model_service_pb2.GetModelResponse()


class Bench:
    def __init__(self) -> None:
        self.servicer = Scripted()
        self.server = RpcServer(1_000_000)
        self.target = self.server.bind("127.0.0.1:0")
        self.channel = grpc.aio.insecure_channel(self.target)
        self.models = model_service_pb2_grpc.ModelServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    def get(self, model: str = "m", timeout: float = 5) -> grpc.aio.UnaryUnaryCall:
        return self.models.GetModel(model_service_pb2.GetModelRequest(model=model), timeout=timeout)

    async def failure(self, model: str = "m") -> tuple[grpc.StatusCode, str, list]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.get(model)
        error = caught.value
        status = await asyncio.get_running_loop().run_in_executor(None, rpc_status.from_call, error)
        info = error_details_pb2.ErrorInfo()
        assert status.details[0].Unpack(info)
        return error.code(), info.reason, list(status.details)

    async def health_of(self, service: str) -> int:
        request = health_pb2.HealthCheckRequest(service=service)
        return (await self.health.Check(request, timeout=5)).status


@pytest.fixture
async def loading() -> AsyncIterator[Bench]:
    bench = Bench()
    await bench.server.start(
        Servicers(
            ExplanationServiceServicer(),
            bench.servicer,
            ImageServiceServicer(),
            AdminServiceServicer(),
        )
    )
    yield bench
    bench.servicer.go_on.set()
    await bench.channel.close()
    await bench.server.drain(0)


@pytest.fixture
async def bench(loading: Bench) -> Bench:
    await loading.server.open()
    return loading


async def test_refused_until_the_server_is_open(loading):
    code, reason, details = await loading.failure()
    assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_READY")
    assert details[1].Is(error_details_pb2.RetryInfo.DESCRIPTOR)
    for name in ("", *SERVICES):
        assert await loading.health_of(name) == health_pb2.HealthCheckResponse.NOT_SERVING
    await loading.server.open()
    await loading.get()
    for name in ("", *SERVICES):
        assert await loading.health_of(name) == health_pb2.HealthCheckResponse.SERVING


async def test_errors_of_callers_reach_them(bench):
    def refuse() -> None:
        raise InvalidParameterError("no", field="model")

    bench.servicer.act = refuse
    assert (await bench.failure())[:2] == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_PARAMETER",
    )


async def test_the_missing_model_is_the_resource(bench):
    def refuse() -> None:
        raise ModelNotFoundError("no")

    bench.servicer.act = refuse
    _, _, details = await bench.failure("other")
    resource = error_details_pb2.ResourceInfo()
    assert details[-1].Unpack(resource)
    assert resource.resource_name == "other"


async def test_any_number_of_missing_pictures_reaches_the_caller(bench):
    found = [MissingImage("猫" * 1000, "0f" * 32, 2**63) for _ in range(65)]

    def refuse() -> None:
        raise ImageMissingError(found)

    bench.servicer.act = refuse
    code, reason, details = await bench.failure()
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "IMAGE_MISSING")
    failure = error_details_pb2.PreconditionFailure()
    assert details[-1].Unpack(failure)
    assert len(failure.violations) == 16


async def test_a_bug_hides_its_text_and_the_next_call_works(bench, caplog):
    def fail() -> None:
        raise KeyError("secret")

    bench.servicer.act = fail
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await bench.get()
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in caught.value.details()
    assert "KeyError: 'secret'" in caplog.text
    bench.servicer.act = lambda: None
    await bench.get()


async def test_an_unknown_method_stays_unimplemented(bench):
    call = bench.channel.unary_unary("/pairlens.v1.ModelService/Nothing")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"", timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_caller_who_gives_up_cancels_the_work(bench):
    bench.servicer.go_on.clear()
    call = bench.get()
    await asyncio.wait_for(bench.servicer.entered.wait(), 5)
    call.cancel()
    await asyncio.wait_for(bench.servicer.cancelled.wait(), 5)
    await asyncio.wait_for(bench.server.drain(60), 5)  # it is no longer counted


async def test_a_deadline_cancels_the_work(bench):
    bench.servicer.go_on.clear()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await bench.get(timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(bench.servicer.cancelled.wait(), 5)


async def test_draining_refuses_new_calls_and_finishes_those_under_way(bench):
    bench.servicer.go_on.clear()
    under_way = bench.get()
    await asyncio.wait_for(bench.servicer.entered.wait(), 5)
    draining = asyncio.create_task(bench.server.drain(10))
    await asyncio.sleep(0.05)
    assert (await bench.failure())[:2] == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    assert await bench.health_of("") == health_pb2.HealthCheckResponse.NOT_SERVING
    assert not draining.done()
    bench.servicer.go_on.set()
    assert await under_way == model_service_pb2.GetModelResponse()
    await asyncio.wait_for(draining, 5)


async def test_draining_ends_although_somebody_watches_health(bench):
    watch = bench.health.Watch(health_pb2.HealthCheckRequest())
    await watch.read()
    await asyncio.wait_for(bench.server.drain(10), 5)


async def test_draining_cuts_off_what_takes_too_long(bench):
    bench.servicer.go_on.clear()
    under_way = bench.get()
    await asyncio.wait_for(bench.servicer.entered.wait(), 5)
    await asyncio.wait_for(bench.server.drain(0.05), 5)
    with pytest.raises(grpc.aio.AioRpcError):
        await under_way


async def test_a_taken_port_is_told(bench):
    with pytest.raises(ConfigurationError, match="Address already in use"):
        RpcServer(1000).bind(bench.target)


async def test_a_host_that_is_not_there_is_told():
    with pytest.raises(ConfigurationError, match=r"cannot listen on no\.such\.host\.invalid:1: "):
        RpcServer(1000).bind("no.such.host.invalid:1")


async def test_the_gate_counts():
    gate = Gate()
    with pytest.raises(NotReadyError), gate.admitted():
        pass
    gate.open()
    with gate.admitted(), gate.admitted():
        assert gate.under_way == gate.let_in == 2
        assert not await gate.wait_idle(0.01)
    assert await gate.wait_idle(0.01)
    with pytest.raises(ValueError, match="x"), gate.admitted():
        raise ValueError("x")
    assert gate.under_way == 0
    gate.close()
    with pytest.raises(DrainingError), gate.admitted():
        pass
    assert gate.let_in == 3


async def test_an_answer_that_cannot_be_serialised_is_a_bug(caplog):
    # gRPC would end the call itself, with another code and without an id.
    async def wrong(request, context):
        return "no message"

    gate = Gate()
    gate.open()
    statuses = []

    class Context:
        async def abort(self, code, details, metadata):
            statuses.append(code)
            raise grpc.aio.AbortError

    async def continuation(_details):
        serialize = model_service_pb2.GetModelResponse.SerializeToString
        return grpc.unary_unary_rpc_method_handler(wrong, bytes.decode, serialize)

    class Details:
        method = "/pairlens.v1.ModelService/GetModel"

    handler = await CallInterceptor(gate).intercept_service(continuation, Details())
    with pytest.raises(grpc.aio.AbortError):
        await handler.unary_unary(b"", Context())
    assert statuses == [grpc.StatusCode.INTERNAL]
    assert "internal error" in caplog.text
