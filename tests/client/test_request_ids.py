import asyncio
from collections import Counter

import pytest

import pairlens
from pairlens import AsyncClient, Client, InvalidParameterError, PairlensError
from tests.client.scripted import Running, Scripted, fails, png


def sent(service: Scripted) -> list[object]:
    return [metadata.get("x-request-id") for metadata in service.metadata]


def test_calls_carry_it_within_the_block(client: Client, service: Scripted):
    with pairlens.request_id("search-81f3"):
        client.explain(png())
        with pairlens.request_id("inner"):
            client.list_models()
        client.list_models()
    client.list_models()
    *explained, inner, outer, none = sent(service)
    assert set(explained) == {"search-81f3"}
    assert (inner, outer, none) == ("inner", "search-81f3", None)


def test_it_ends_with_an_error(client: Client, service: Scripted):
    service.script.append(fails("INTERNAL"))
    with pytest.raises(PairlensError), pairlens.request_id("x"):
        client.list_models()
    client.list_models()
    assert sent(service) == ["x", None]


def test_many_calls_in_threads_carry_it(client: Client, service: Scripted):
    with pairlens.request_id("many"):
        assert len(list(client.explain_many([png()] * 5, concurrency=3))) == 5
    assert set(sent(service)) == {"many"}


async def test_each_task_has_its_own(server: Running, service: Scripted):
    async def ask(client: AsyncClient, name: str) -> None:
        with pairlens.request_id(name):
            await asyncio.sleep(0)  # so that the tasks take turns
            await client.list_models()
            async for _ in client.explain_many([png()] * 2):
                pass

    async with AsyncClient(server.target, timeout=10) as client:
        await client.explain(png())
        service.metadata.clear()
        await asyncio.gather(*(ask(client, name) for name in ("a", "b", "c")))
    found = Counter(sent(service))
    assert set(found) == {"a", "b", "c"}
    assert min(found.values()) >= 3  # the list, and two pictures


@pytest.mark.parametrize("bad", ["", " x", "x\n", "x" * 65, "ä", None, 7])
def test_what_is_no_id(bad: object):
    with pytest.raises(InvalidParameterError, match="1 to 64") as caught, pairlens.request_id(bad):
        raise AssertionError
    assert caught.value.field == "request_id"
