"""What a client that is told nothing does."""

from pairlens import AsyncClient, Client
from tests.client.scripted import Running, Scripted, png
from tests.client.uploading import EXPLAIN


def deadline_of_explain(service: Scripted) -> float:
    """Seconds that the server was given for the only one."""
    (found,) = (
        seconds
        for call, seconds in zip(service.calls, service.deadlines, strict=True)
        if isinstance(call, EXPLAIN)
    )
    return found


def test_a_call_has_half_a_minute(server: Running, service: Scripted):
    with Client(server.target) as client:
        client.explain(png())
    # Of which what is asked before the call takes its part.
    assert 25 < deadline_of_explain(service) <= 30


async def test_an_awaited_one_as_well(server: Running, service: Scripted):
    async with AsyncClient(server.target) as client:
        await client.explain(png())
    assert 25 < deadline_of_explain(service) <= 30
