"""Tasks that nobody has to wait for."""

from __future__ import annotations

import asyncio
import logging

import pytest

from pairlens_server.errors import DrainingError
from pairlens_server.service.background import BackgroundTasks


@pytest.mark.parametrize(
    ("error", "is_logged"), [(KeyError("a bug"), True), (DrainingError("told to others"), False)]
)
async def test_a_bug_is_logged_though_nobody_waits(
    caplog: pytest.LogCaptureFixture, error: Exception, is_logged: bool
) -> None:
    async def fail() -> None:
        raise error

    tasks = BackgroundTasks()
    task = asyncio.create_task(fail(), name="reload")
    tasks.keep(task)
    await asyncio.wait({task})
    await asyncio.sleep(0)
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * is_logged
    assert ("task reload" in caplog.text) == ("a bug" in caplog.text) == is_logged


async def test_what_is_under_way_is_given_up() -> None:
    tasks = BackgroundTasks()
    task = asyncio.create_task(asyncio.sleep(3600))
    tasks.keep(task)
    await asyncio.wait_for(tasks.cancel(), 10)
    assert task.cancelled()
