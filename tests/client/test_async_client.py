"""`AsyncClient`: the same logic, in tasks."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future

import grpc
import numpy as np
import pytest

from pairlens import AsyncClient, Client, SimilarTo, errors
from pairlens._steps import Deadline, wait
from tests.client.held import Held, until_async
from tests.client.scripted import Running, Scripted, fails, png
from tests.client.uploading import DETAILS, EXPLAIN, LIST, UPLOAD, kinds, large


@pytest.fixture
async def client(server: Running) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.target, timeout=10) as client:
        yield client


CALLS = {
    "list_models": lambda c: c.list_models(),
    "get_model": lambda c: c.get_model("cnn"),
    "explain": lambda c: c.explain(png(), method="grad_cam", target="goldfish"),
    "uploaded": lambda c: c.explain(large(), model="vit", start_block=2, cache="refresh"),
    "class_similarity": lambda c: c.class_similarity(png(), [png(9), large()], model="cnn"),
    "pair_similarity": lambda c: c.pair_similarity(png(), [png(20), b"broken"], match_matrix=True),
    "score_saliency": lambda c: c.score_saliency(
        png(), method="grad_cam", target=SimilarTo(large())
    ),
    "embed": lambda c: c.embed([png(9 + number) for number in range(9)], model="vit"),
    "warm": lambda c: c.warm([png(9), b"broken", large()], methods="rollout"),
    "cache_stats": lambda c: c.cache_stats(),
    "clear_cache": lambda c: c.clear_cache("vit"),
    "reload_models": lambda c: c.reload_models(),
    "drain": lambda c: c.drain(),
    "wait_ready": lambda c: c.wait_ready(),
}


def numbers(value: object) -> object:
    """A result as what can be compared."""
    if isinstance(value, errors.PairlensError):
        return type(value), value.message, value.field
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (tuple, list)):
        return [numbers(item) for item in value]
    if hasattr(value, "items"):
        return {key: numbers(item) for key, item in value.items()}
    return numbers(vars(value)) if hasattr(value, "__dataclass_fields__") else value


@pytest.mark.parametrize("name", CALLS)
async def test_calls_send_and_answer_what_the_blocking_ones_do(client, service: Scripted, name):
    other = Running()
    try:
        with Client(other.target, timeout=10) as blocking:
            expected = await asyncio.to_thread(CALLS[name], blocking)
    finally:
        other.stop()
    answer = await CALLS[name](client)
    assert numbers(answer) == numbers(expected)
    assert service.calls == other.service.calls
    assert set(service.names) == {client.name}


async def test_failures_are_the_same(client: AsyncClient, service: Scripted):
    with pytest.raises(errors.InvalidParameterError, match="unknown parameter 'head'; rollout"):
        await client.explain(png(), method="rollout", head=2)
    with pytest.raises(errors.ImageFileError, match=r"cannot read .*nowhere\.png"):
        await client.explain("/nowhere.png")
    service.script.append(fails("METHOD_UNSUPPORTED", "why", field="method", request_id="r-9"))
    with pytest.raises(errors.MethodUnsupportedError, match="why") as caught:
        await client.explain(png(), model="vit")
    assert (caught.value.field, caught.value.request_id) == ("method", "r-9")
    assert isinstance(caught.value.__cause__, grpc.RpcError)
    with pytest.raises(errors.ModelNotFoundError):
        await client.get_model("bert")


async def test_no_server():
    async with AsyncClient("127.0.0.1:1", timeout=10) as client:
        with pytest.raises(errors.UnavailableError, match=r"reached at 127\.0\.0\.1:1"):
            await client.list_models()
        with pytest.raises(errors.DeadlineExceededError, match=r"within 0\.2 s"):
            await client.wait_ready(0.2)


async def test_a_full_queue_is_tried_again_while_other_tasks_go_on(client, service: Scripted):
    await client.list_models()
    service.script.extend([fails("QUEUE_FULL", retry_after=0.2)] * 2)
    refused = asyncio.create_task(client.explain(png(), model="vit"))
    await until_async(lambda: len(service.calls) == 2)
    await client.get_model("cnn")  # takes the script's second refusal, too
    await refused
    assert len(service.requests(EXPLAIN)) == 2


async def test_many_tasks_ask_once_and_bring_each_picture_once(client, roomy: Scripted):
    pictures = [large(number) for number in range(8)]

    async def explain(number: int) -> int:
        return (await client.explain(pictures[number % 8])).geometry.image_width

    widths = await asyncio.gather(*map(explain, range(200)))
    assert widths == [110 + number % 8 for number in range(200)]
    assert len(roomy.requests(LIST)) == len(roomy.requests(DETAILS)) == 1
    uploaded = [len(upload.data) for call in roomy.requests(UPLOAD) for upload in call.images]
    assert sorted(uploaded) == sorted(map(len, pictures))


async def test_tasks_that_wait_for_a_failed_question_ask_themselves(client, service: Scripted):
    held = Held()

    def fail(context: grpc.ServicerContext) -> None:
        held(context)
        fails("INTERNAL", "a bug")(context)

    service.script.append(fail)
    first = asyncio.create_task(client.explain(png()))
    await until_async(lambda: held.under_way == 1)
    others = [asyncio.create_task(client.explain(png(9 + number))) for number in range(5)]
    await asyncio.sleep(0)
    held.release.set()
    with pytest.raises(errors.InternalError):
        await first
    assert len(await asyncio.gather(*others)) == 5


async def test_a_cancelled_call_is_cancelled_at_the_server(client, service: Scripted):
    held = Held()
    service.script.append(held)
    task = asyncio.create_task(client.explain(png(), model="vit"))
    await until_async(lambda: held.under_way == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until_async(lambda: held.given_up == 1)
    await client.explain(png(), model="vit")


async def test_a_cancelled_upload_is_left_to_the_others(client, service: Scripted):
    await client.get_model("vit")
    held = Held()
    service.script.append(held)
    first = asyncio.create_task(client.explain(large(), model="vit"))
    await until_async(lambda: held.under_way == 1)
    second = asyncio.create_task(client.explain(large(), model="vit"))
    await asyncio.sleep(0.05)
    assert kinds(service) == ["find"]  # the second waits for the first
    first.cancel()
    assert (await second).geometry.image_width == 110
    assert kinds(service) == ["find", "find", "upload", "call"]


async def test_waiting_for_anothers_upload_has_a_deadline(client, service: Scripted):
    await client.get_model("vit")
    held = Held()
    service.script.append(held)
    first = asyncio.create_task(client.explain(large(), model="vit"))
    await until_async(lambda: held.under_way == 1)
    with pytest.raises(errors.DeadlineExceededError, match=r"within 0\.2 s"):
        await client.explain(large(), model="vit", timeout=0.2)
    held.release.set()
    assert (await first).geometry.image_width == 110  # whose upload was not cancelled


async def test_a_task_cancelled_as_what_it_waits_for_is_done_is_cancelled(client: AsyncClient):
    for turns in range(5):  # of the event loop, between the two
        other: Future[None] = Future()
        waiting = asyncio.create_task(client._driver.run(wait(other, Deadline(10))))
        await asyncio.sleep(0)
        other.set_result(None)
        for _ in range(turns):
            await asyncio.sleep(0)
        if waiting.done():
            assert turns > 1
            return
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    raise AssertionError("it waits for ever")


class Elsewhere(os.PathLike):
    """A path that notes by which thread it is read."""

    def __init__(self, path: str) -> None:
        self.path, self.threads = path, set()

    def __fspath__(self) -> str:
        self.threads.add(threading.get_ident())
        return self.path


@pytest.mark.parametrize(
    "call",
    [
        lambda c, p: c.explain(p),
        lambda c, p: c.class_similarity(png(), [p], model="cnn"),
        lambda c, p: c.pair_similarity(png(), [png(), p], model="cnn"),
        lambda c, p: c.pair_similarity(p, png(), model="cnn"),
        lambda c, p: c.score_saliency(p, model="vit"),
        lambda c, p: c.embed([png(), p]),
        lambda c, p: c.warm(p),
    ],
)
async def test_files_are_read_away_from_the_loop(client, tmp_path, pictures, call):
    path = Elsewhere(str(tmp_path / "cat.png"))
    await call(client, path)
    assert path.threads
    assert threading.get_ident() not in path.threads


async def test_a_token_is_asked_for_each_call(server: Running):
    tokens = iter(["one-token", "two-token"])
    async with AsyncClient(server.target, timeout=10, token=lambda: next(tokens)) as client:
        await client.list_models()
        await client.list_models()
    sent = [metadata["authorization"] for metadata in server.service.metadata]
    assert sent == ["Bearer one-token", "Bearer two-token"]


async def test_a_token_may_have_to_be_awaited(server: Running):
    async def token() -> str:
        await asyncio.sleep(0)
        return "a-token"

    async def broken() -> str:
        raise OSError("the vault says a-secret")

    async with AsyncClient(server.target, timeout=10, token=token) as client:
        await client.list_models()
    assert server.service.metadata[-1]["authorization"] == "Bearer a-token"
    async with AsyncClient(server.target, timeout=10, token=broken) as client:
        with pytest.raises(errors.UnauthenticatedError, match=r"token failed: OSError$"):
            await client.list_models()


async def test_a_token_that_is_slow_is_waited_for_until_the_deadline(server: Running):
    released = threading.Event()

    def slow() -> str:
        released.wait(10)
        return "a-token"

    async with AsyncClient(server.target, timeout=10, token=slow) as client:
        with pytest.raises(errors.DeadlineExceededError, match=r"token said nothing within 0\.2 s"):
            await client.list_models(timeout=0.2)
        assert not released.is_set()
        assert not server.service.calls
        waiting = asyncio.create_task(client.list_models())
        released.set()
        assert len(await waiting) == 2


async def test_a_closed_client(server: Running):
    client = AsyncClient(server.target)
    await client.list_models()
    await client.close()
    await client.close()
    for call in (client.list_models, client.wait_ready):
        with pytest.raises(errors.PairlensError, match="closed") as caught:
            await call()
        assert caught.value.code == "CANCELLED"
    unused = AsyncClient(server.target)
    await unused.close()
    with pytest.raises(errors.PairlensError, match="closed"):
        await unused.list_models()


async def test_closing_ends_calls_under_way_with_an_error(server: Running, service: Scripted):
    held = Held()
    service.script.append(held)
    client = AsyncClient(server.target, timeout=10)
    task = asyncio.create_task(client.explain(png(), model="vit"))
    await until_async(lambda: held.under_way == 1)
    await client.close()
    with pytest.raises(errors.PairlensError) as caught:
        await task
    assert caught.value.code == "CANCELLED"
    await until_async(lambda: held.given_up == 1)


def test_a_client_belongs_to_the_loop_of_its_first_call(server: Running):
    client = AsyncClient(server.target, timeout=10)  # made outside of any

    async def twice() -> int:
        return len(await client.list_models()) + len(await client.list_models())

    assert asyncio.run(twice()) == 4
    for call in (client.list_models, client.close):
        with pytest.raises(errors.PairlensError, match="another event loop: make one for each"):
            asyncio.run(call())
