"""The interceptor before servicers that a test decides, on a real connection."""

import asyncio
import json
import re
import sys
import time
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
    PairlensError,
    PermissionDeniedError,
    QueueFullError,
    UnauthenticatedError,
)
from pairlens_server.rpc.auth import Authorizer
from pairlens_server.rpc.gate import Gate
from pairlens_server.rpc.server import SERVICES, RpcServer, Servicers
from pairlens_server.telemetry.record import CallRecord, Stage, current_call, name_call


class Scripted(model_service_pb2_grpc.ModelServiceServicer):
    """Does what the test says, once it says so."""

    def __init__(self) -> None:
        self.act: Callable[[], object] = lambda: None
        self.entered = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.cancelled = asyncio.Event()
        self.answer: object = model_service_pb2.GetModelResponse()

    async def GetModel(self, request, context):  # noqa: N802
        self.entered.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        self.act()
        return self.answer


class Decided(Authorizer):
    """Says what the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.name = ""
        self.error: PairlensError | None = None
        self.forget_after = sys.maxsize
        self.asked: list[str] = []

    def check(self, method, metadata, auth_context):
        self.asked.append(method)
        if self.error is not None and len(self.asked) <= self.forget_after:
            raise self.error
        return self.name


class Bench:
    def __init__(self) -> None:
        self.servicer = Scripted()
        self.calls: list[tuple[CallRecord, str, float]] = []
        self.told = lambda *call: self.calls.append(call)
        self.authorizer = Decided()
        self.server = RpcServer(
            1_000_000,
            authorizer=self.authorizer,
            call_ended=lambda *call: self.told(*call),
        )
        self.target = self.server.bind("127.0.0.1:0")
        self.channel = grpc.aio.insecure_channel(self.target)
        self.models = model_service_pb2_grpc.ModelServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    async def ended(self, expected: list[tuple[str, str]]) -> None:
        """Wait until calls have ended with these codes and reasons."""
        end_s = time.monotonic() + 5
        while len(self.calls) < len(expected) and time.monotonic() < end_s:
            await asyncio.sleep(0.01)
        assert [(code, record.reason) for record, code, _ in self.calls] == expected

    def get(self, model: str = "m", timeout: float | None = 5) -> grpc.aio.UnaryUnaryCall:
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
    await bench.server.close()


@pytest.fixture
async def bench(loading: Bench) -> Bench:
    loading.server.open()
    return loading


async def test_refused_until_the_server_is_open(loading):
    code, reason, details = await loading.failure()
    assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_READY")
    assert details[1].Is(error_details_pb2.RetryInfo.DESCRIPTOR)
    for name in ("", *SERVICES):
        assert await loading.health_of(name) == health_pb2.HealthCheckResponse.NOT_SERVING
    loading.server.open()
    await loading.get()
    for name in ("", *SERVICES):
        assert await loading.health_of(name) == health_pb2.HealthCheckResponse.SERVING


async def test_retries_of_grpc_itself_wait_for_as_long_as_they_are_told(bench):
    policy = {
        "maxAttempts": 3,
        # Without the server's word, the first retry would come far too late.
        "initialBackoff": "1000s",
        "maxBackoff": "1000s",
        "backoffMultiplier": 1,
        "retryableStatusCodes": ["RESOURCE_EXHAUSTED"],
    }
    config = {"methodConfig": [{"name": [{}], "retryPolicy": policy}]}
    tries: list[float] = []

    def refuse_once() -> None:
        tries.append(time.monotonic())
        if len(tries) == 1:
            raise QueueFullError("full", retry_after_s=0.3)

    bench.servicer.act = refuse_once
    options = [("grpc.service_config", json.dumps(config))]
    async with grpc.aio.insecure_channel(bench.target, options=options) as channel:
        request = model_service_pb2.GetModelRequest(model="m")
        await model_service_pb2_grpc.ModelServiceStub(channel).GetModel(request, timeout=20)
    first, second = tries
    assert second - first > 0.29


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
    await bench.server.close()
    with pytest.raises(grpc.aio.AioRpcError):
        await under_way


async def test_a_taken_port_is_told(bench):
    with pytest.raises(ConfigurationError, match="Address already in use"):
        RpcServer(1000).bind(bench.target)


async def test_a_host_that_is_not_there_is_told():
    with pytest.raises(ConfigurationError, match=r"cannot listen on no\.such\.host\.invalid:1: "):
        RpcServer(1000).bind("no.such.host.invalid:1")


async def test_the_gate_counts():
    gate = Gate(1000)
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


async def test_an_answer_that_cannot_be_serialised_is_a_bug(bench, caplog):
    # gRPC would end the call itself, with another code and without an id.
    bench.servicer.answer = "no message"
    assert (await bench.failure())[:2] == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "internal error" in caplog.text
    await bench.ended([("INTERNAL", "INTERNAL")])


async def test_a_request_that_cannot_be_parsed_is_told(bench):
    call = bench.channel.unary_unary("/pairlens.v1.ModelService/GetModel")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"\xff\xff", timeout=5)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    await bench.ended([("INVALID_ARGUMENT", "INVALID_PARAMETER")])


async def test_every_call_is_told_with_the_code_that_it_ended_with(bench):
    def refuse() -> None:
        raise InvalidParameterError("no", field="model")

    def fail() -> None:
        raise KeyError

    await bench.get()
    for act in (refuse, fail):
        bench.servicer.act = act
        await bench.failure()
    bench.server.gate.close()
    await bench.failure()
    await bench.ended(
        [
            ("OK", ""),
            ("INVALID_ARGUMENT", "INVALID_PARAMETER"),
            ("INTERNAL", "INTERNAL"),
            ("UNAVAILABLE", "DRAINING"),
        ]
    )
    for record, _, seconds in bench.calls:
        assert record.rpc == "/pairlens.v1.ModelService/GetModel"
        assert record.peer == "127.0.0.1"
        assert 0 < seconds < 5


async def test_a_call_that_is_given_up_is_told_as_cancelled(bench):
    bench.servicer.go_on.clear()
    for timeout in (None, 60):
        call = bench.get(timeout=timeout)
        await asyncio.wait_for(bench.servicer.entered.wait(), 5)
        bench.servicer.entered.clear()
        call.cancel()
    await bench.ended([("CANCELLED", "")] * 2)


@pytest.mark.parametrize("timeout", [0.1, 0.333, 1.2345])
async def test_a_call_whose_deadline_passes_is_told_so(bench, timeout):
    bench.servicer.go_on.clear()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await bench.get(timeout=timeout)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await bench.ended([("DEADLINE_EXCEEDED", "")])


async def test_whoever_is_told_of_calls_fails_none(bench, caplog):
    def broken(record: CallRecord, code: str, seconds: float) -> None:
        raise ValueError("no disk")

    bench.told = broken
    await bench.get()
    assert "no disk" in caplog.text


async def test_what_a_request_names_is_unknown_until_it_is_known(bench):
    await bench.get("some-model")
    bench.servicer.act = lambda: name_call(model="real")
    await bench.get("some-model")
    bench.servicer.act = lambda: None
    await bench.get("")
    assert [record.model for record, _, _ in bench.calls] == ["unknown", "real", ""]


async def test_the_stage_of_serialising_is_told(bench):
    await bench.get()
    ((record, _, _),) = bench.calls
    assert [interval.stage for interval in record.intervals] == [Stage.ENCODE]


async def request_ids(bench: Bench, *sent: tuple[str, str | bytes]) -> tuple[str, str]:
    """Of the trailing metadata and of the record, of a call with some metadata."""
    call = bench.models.GetModel(
        model_service_pb2.GetModelRequest(model="m"), timeout=5, metadata=sent
    )
    await call
    trailing = dict(await call.trailing_metadata())
    return trailing["x-request-id"], bench.calls[-1][0].request_id


@pytest.mark.parametrize("sent", ["a", "01HZ/abc-_:.", "x" * 64, "with a space"])
async def test_a_request_id_is_kept(bench, sent):
    assert await request_ids(bench, ("x-request-id", sent)) == (sent, sent)


@pytest.mark.parametrize(
    "sent",
    [
        (),
        (("x-request-id", ""),),
        (("x-request-id", "x" * 65),),
        (("x-request-id", "x" * 4000),),
        (("x-request-id-bin", b"\n\x00"),),
        (("x_request_id", "a"),),
    ],
)
async def test_a_request_id_that_is_none_is_made(bench, sent):
    first, second = await request_ids(bench, *sent), await request_ids(bench, *sent)
    assert first[0] == first[1] != second[0]
    assert re.fullmatch("[0-9a-f]{16}", first[0])


async def test_the_first_of_several_request_ids_counts(bench):
    ids = await request_ids(bench, ("x-request-id", "one"), ("x-request-id", "two"))
    assert ids == ("one", "one")


@pytest.mark.parametrize("error", [InvalidParameterError("no"), KeyError("bug")])
async def test_a_failure_tells_its_request_id_everywhere(bench, error):
    def fail() -> None:
        raise error

    bench.servicer.act = fail
    call = bench.models.GetModel(
        model_service_pb2.GetModelRequest(), timeout=5, metadata=(("x-request-id", "abc-1"),)
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert dict(caught.value.trailing_metadata())["x-request-id"] == "abc-1"
    status = await asyncio.to_thread(rpc_status.from_call, caught.value)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.metadata["request_id"] == "abc-1"
    if isinstance(error, KeyError):
        assert "abc-1" in status.message


async def test_calls_side_by_side_have_records_of_their_own(bench):
    def look() -> None:
        assert not current_call().is_over
        seen.append(current_call().request_id)

    bench.servicer.act = look
    seen: list[str] = []
    names = [f"call-{number}" for number in range(20)]
    await asyncio.gather(
        *(
            bench.models.GetModel(
                model_service_pb2.GetModelRequest(),
                timeout=5,
                metadata=(("x-request-id", name),),
            )
            for name in names
        )
    )
    assert sorted(seen) == sorted(names)
    assert current_call() is None
    assert all(record.is_over for record, _, _ in bench.calls)


async def test_who_calls_is_told(bench):
    bench.authorizer.name = ""
    await request_ids(bench, ("pairlens-client", "claims"))
    bench.authorizer.name = "proven"
    await request_ids(bench, ("pairlens-client", "claims"))
    told = [(record.client, record.caller) for record, _, _ in bench.calls]
    assert told == [("", "claims"), ("proven", "proven")]


async def test_whose_token_is_no_administrators_is_told(bench):
    bench.authorizer.error = PermissionDeniedError("no", caller="search")
    assert (await bench.failure())[1] == "PERMISSION_DENIED"
    await bench.ended([("PERMISSION_DENIED", "PERMISSION_DENIED")])
    ((record, _, _),) = bench.calls
    assert (record.client, record.caller) == ("search", "search")


async def test_whoever_may_not_call_is_refused_before_the_request_is_read(bench):
    bench.authorizer.error = UnauthenticatedError("who is it?")
    bench.server.gate.close()  # which is not reached either
    call = bench.channel.unary_unary("/pairlens.v1.ModelService/GetModel")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"\xff\xff", timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    # Once before its message is read, and once to refuse it.
    assert bench.authorizer.asked == ["/pairlens.v1.ModelService/GetModel"] * 2
    await bench.ended([("UNAUTHENTICATED", "UNAUTHENTICATED")])


async def test_a_token_that_is_known_a_moment_later_is_not_taken_for_an_empty_request(bench):
    """Which an administrator's ClearCache of one model would be for all."""
    bench.authorizer.error = UnauthenticatedError("who is it?")
    bench.authorizer.forget_after = 1
    call = bench.channel.unary_unary("/pairlens.v1.ModelService/GetModel")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"", timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert not bench.servicer.entered.is_set()
    await call(b"", timeout=5)
    assert bench.servicer.entered.is_set()


async def test_health_asks_nobody(bench):
    bench.authorizer.error = UnauthenticatedError("who is it?")
    assert await bench.health_of("") == health_pb2.HealthCheckResponse.SERVING
    assert bench.calls == []
