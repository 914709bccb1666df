"""What signals ask for; the whole process is asked in `faults/test_draining.py`."""

import asyncio
import os
import signal

import pytest

from pairlens_server.signals import Orders

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.fixture
async def orders():
    made = Orders()
    made.listen()
    yield made
    for number in SIGNALS:
        asyncio.get_running_loop().remove_signal_handler(number)


async def send(*numbers: int) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)
        # The loop learns of it through a pipe.
        await asyncio.sleep(0.02)


def asked(orders: Orders) -> tuple[bool, bool, bool]:
    return orders.stop.is_set(), orders.hurry.is_set(), orders.at_once.is_set()


@pytest.mark.parametrize(
    ("signals", "expected"),
    [
        ([signal.SIGTERM], (True, False, False)),
        ([signal.SIGINT], (True, True, False)),
        ([signal.SIGTERM, signal.SIGTERM], (True, False, True)),
        ([signal.SIGTERM, signal.SIGINT], (True, True, True)),
        ([signal.SIGHUP], (False, False, False)),
    ],
)
async def test_signals(orders, signals, expected):
    orders.ready(lambda: None)
    await send(*signals)
    assert asked(orders) == expected


async def test_a_signal_after_a_drain_is_no_second_one(orders):
    orders.ready(lambda: None)
    orders.drain()
    await send(signal.SIGTERM)
    assert asked(orders) == (True, False, False)
    await send(signal.SIGTERM)
    assert asked(orders) == (True, False, True)


async def test_a_reload_that_was_asked_for_while_loading_is_made_up_for_once(orders):
    reloads: list[int] = []
    await send(signal.SIGHUP, signal.SIGHUP)
    assert not reloads
    orders.ready(lambda: reloads.append(1))
    assert reloads == [1]
    await send(signal.SIGHUP)
    assert reloads == [1, 1]
