"""The SDK for asyncio, and its calls about many pictures, against the real server."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import numpy as np
import pytest

from pairlens import AsyncClient, Client, ItemFailure, ItemResult, PairMatch, SimilarTo, errors
from tests.client.held import until_async
from tests.contract.support import noise, noise_png, png, unseen
from tests.server_process import ServerProcess, server_process, write_models

VIT, CLS, CNN = "tiny-vit", "tiny-vit-cls", "tiny-resnet"
SLOW = {"model": CNN, "method": "grad_cam", "metrics": "deletion(steps=200)", "cache": "bypass"}
"""A call of hundreds of forward passes."""


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that tells how many calls it has under way."""
    folder = tmp_path_factory.mktemp("async")
    models = write_models(folder, [VIT, CLS, CNN])
    flags = ("--metrics-listen", "127.0.0.1:0")
    with server_process(models, folder / "log.txt", *flags) as server:
        server.listening()
        server.metrics_address()
        server.serving()
        yield server
        assert "internal error" not in server.read_log(), server.read_log()


@pytest.fixture
async def client(process: ServerProcess) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(process.target) as made:
        yield made


@pytest.fixture
def blocking(process: ServerProcess) -> Iterator[Client]:
    with Client(process.target) as made:
        yield made


def under_way(process: ServerProcess) -> float:
    return process.scrape().value("pairlens_rpcs_in_flight")


CALLS = {
    "rollout": lambda c: c.explain(png(1), model=CLS, method="rollout", start_block=1),
    "target": lambda c: c.explain(noise(1), model=CNN, method="grad_cam", target="dog"),
    "similar": lambda c: c.explain(png(1), model=VIT, target=SimilarTo([png(2), png(3)])),
    "class": lambda c: c.class_similarity(png(1), [png(2), png(3)], model=VIT),
    "heads": lambda c: c.explain(png(1), model=CLS, method="raw_attention", each="head"),
    "large": lambda c: c.explain(noise_png(7, 220, 220), model=VIT),
}


@pytest.mark.parametrize("name", CALLS)
async def test_maps_are_those_of_the_blocking_client(client, blocking, name):
    mine = await CALLS[name](client)
    other = await asyncio.to_thread(CALLS[name], blocking)
    np.testing.assert_array_equal(mine.heatmap, other.heatmap)
    assert (mine.target, mine.method, mine.provenance) == (
        other.target,
        other.method,
        other.provenance,
    )
    assert mine.timing.request_id
    assert mine.timing.request_id != other.timing.request_id


async def test_other_answers_are_those_of_the_blocking_client(client, blocking):
    assert await client.list_models() == await asyncio.to_thread(blocking.list_models)
    assert await client.get_model(VIT) == await asyncio.to_thread(blocking.get_model, VIT)
    pictures = [png(seed) for seed in range(3)]
    mine = await client.pair_similarity(pictures[0], [pictures[1], b"broken"], model=VIT)
    other = await asyncio.to_thread(
        blocking.pair_similarity, pictures[0], [pictures[1], b"broken"], model=VIT
    )
    assert mine[0].similarity == other[0].similarity
    np.testing.assert_array_equal(mine[0].candidate.heatmap, other[0].candidate.heatmap)
    assert str(mine[1].error) == str(other[1].error)
    embedded = await client.embed(pictures, model=VIT)
    np.testing.assert_array_equal(
        embedded.vectors, (await asyncio.to_thread(blocking.embed, pictures, model=VIT)).vectors
    )
    how = {"model": CNN, "method": "grad_cam", "metrics": "deletion(steps=4)"}
    mine = await client.score_saliency(pictures[0], **how)
    other = await asyncio.to_thread(blocking.score_saliency, pictures[0], **how)
    assert mine["deletion"].value == other["deletion"].value
    await client.warm(pictures, model=VIT)
    assert blocking.warm(pictures, model=VIT).cached == (True,) * 3
    assert (await client.cache_stats()).memory[0].entries > 0
    with pytest.raises(errors.ModelNotFoundError) as caught:
        await client.explain(png(1), model="nobody")
    assert caught.value.field == "model"
    assert caught.value.request_id


async def test_the_request_id_is_that_of_the_servers_log(client, process: ServerProcess):
    answer = await client.explain(unseen(), model=VIT)
    await until_async(lambda: answer.timing.request_id in process.read_log())


async def test_many_tasks_get_the_answers_to_their_own_questions(client, blocking):
    expected = [blocking.embed(png(seed), model=VIT).vectors[0] for seed in range(100)]

    async def embed(seed: int) -> np.ndarray:
        return (await client.embed(png(seed), model=VIT, cache="bypass")).vectors[0]

    found = await asyncio.gather(*map(embed, range(100)))
    np.testing.assert_allclose(found, expected, atol=1e-5)


async def test_explain_many_with_failures(client, blocking, tmp_path: Path):
    paths = []
    for seed in range(30):
        paths.append(tmp_path / f"{seed}.png")
        paths[-1].write_bytes(b"broken" if seed == 7 else png(seed))
    paths.insert(11, tmp_path / "none.png")
    how = {"model": VIT, "concurrency": 5}
    items = {item.index: item async for item in client.explain_many(paths, **how)}
    assert sorted(items) == list(range(31))
    failures = {index: item.error for index, item in items.items() if isinstance(item, ItemFailure)}
    assert {index: type(error) for index, error in failures.items()} == {
        7: errors.ImageUndecodableError,
        11: errors.ImageFileError,
    }
    for item in await asyncio.to_thread(list, blocking.explain_many(paths, ordered=True, **how)):
        assert item.name == items[item.index].name == str(paths[item.index])
        if isinstance(item, ItemResult):
            ours = items[item.index].result.heatmap
            np.testing.assert_allclose(item.result.heatmap, ours, atol=1e-6)


async def test_pair_many(client, blocking):
    pairs = [(png(seed), [png(seed + 1), png(seed + 2)]) for seed in range(12)]
    items = [item async for item in client.pair_many(pairs, model=VIT, ordered=True)]
    assert [item.index for item in items] == list(range(12))
    for item, (query, candidates) in zip(items, pairs, strict=True):
        single = blocking.pair_similarity(query, candidates, model=VIT)
        for ours, theirs in zip(item.result, single, strict=True):
            assert isinstance(ours, PairMatch)
            assert ours.similarity == pytest.approx(theirs.similarity, abs=1e-6)


async def test_a_slow_consumer_keeps_the_server_waiting_and_not_the_memory_full(client):
    read = []

    def endless() -> Iterator[bytes]:
        for number in itertools.count():
            read.append(number)
            yield png(number % 50)

    items = client.explain_many(endless(), model=VIT, concurrency=4)
    async with aclosing(items):
        for count in range(1, 30):
            await anext(items)
            await asyncio.sleep(0.01)
            assert len(read) <= count + 7


async def test_cancelled_calls_leave_the_server(client, process: ServerProcess):
    tasks = [asyncio.create_task(client.score_saliency(unseen(), **SLOW)) for _ in range(12)]
    await until_async(lambda: under_way(process) == 12)
    for task in tasks:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(error) for error in ended} == {asyncio.CancelledError}
    await until_async(lambda: under_way(process) == 0)
    cancelled = process.scrape().value(
        "pairlens_rpc_handled_total", rpc="ScoreSaliency", code="CANCELLED"
    )
    assert cancelled == 12
    assert (await client.explain(unseen(), model=VIT)).heatmap.shape == (4, 6)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_leaving_early_leaves_nothing_under_way(
    client, blocking, process: ServerProcess, asynchronous: bool
):
    pictures = (noise_png(seed, 100, 100) for seed in range(1000, 1100))
    how = {
        "model": CNN,
        "method": "integrated_gradients",
        "steps": 20,
        "concurrency": 6,
        "cache": "bypass",
    }
    answered = process.scrape().value("pairlens_rpc_handled_total", rpc="Explain", code="OK")
    if asynchronous:
        async with aclosing(client.explain_many(pictures, **how)) as items:
            assert isinstance(await anext(items), ItemResult)
        assert asyncio.all_tasks() == {asyncio.current_task()}
    else:
        items = blocking.explain_many(pictures, **how)
        assert isinstance(await asyncio.to_thread(next, items), ItemResult)
        await asyncio.to_thread(items.close)
    await until_async(lambda: under_way(process) == 0)
    done = process.scrape().value("pairlens_rpc_handled_total", rpc="Explain", code="OK")
    assert 1 <= done - answered <= 12  # at most what was read
