"""Memory goes back to the system in a rest, and not between calls."""

import asyncio

from pairlens_server import idle


class Calls:
    """Calls that are too short to be seen under way."""

    under_way = 0
    let_in = 0


async def test_memory_is_given_back_in_a_rest_and_not_between_short_calls(monkeypatch):
    given_back = []
    monkeypatch.setattr(idle, "_SAMPLED_S", 0.02)
    monkeypatch.setattr(idle, "_REST_S", 0.1)
    monkeypatch.setattr(idle, "give_back_freed_memory", lambda: given_back.append(None))
    calls = Calls()
    resting = asyncio.create_task(idle.give_back_when_idle(calls))
    for _ in range(200):
        await asyncio.sleep(0.002)
        calls.let_in += 1
    assert not given_back
    calls.under_way = 1
    await asyncio.sleep(0.3)
    assert not given_back
    calls.under_way = 0
    await asyncio.sleep(0.5)
    assert len(given_back) == 1  # once in a rest
    resting.cancel()
