from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

import pytest
import torch

from pairlens_server.cache.memory import ENTRY_BYTES
from pairlens_server.cache.packing import Packed, Value
from pairlens_server.cache.writer import BATCH_BYTES, Writer

KIB = 1024 + ENTRY_BYTES


class Sink:
    """Takes batches when it is let; keeps what it was told."""

    def __init__(self, max_bytes: int = 100 * KIB):
        self.batches: list[Mapping[str, Value]] = []
        self.dropped: list[str] = []
        self.open = asyncio.Event()
        self.open.set()
        self.error: Exception | None = None
        self.writer = Writer(max_bytes, self.write, self.dropped.append)

    async def write(self, values: Mapping[str, Value]) -> None:
        self.batches.append(values)
        await self.open.wait()
        if self.error:
            raise self.error


def kib(value: float = 0) -> Packed:
    return Packed(torch.full((256,), float(value)))


async def ticks() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_values_are_written_together_and_in_order():
    sink = Sink()
    sink.writer.put({"a": kib(1), "b": b"file"})
    sink.writer.put({"c": kib(2)})
    assert sink.writer.nbytes == 2 * KIB + ENTRY_BYTES + 4
    await sink.writer.settle(10)
    assert [list(batch) for batch in sink.batches] == [["a", "b", "c"]]
    assert sink.writer.nbytes == 0
    assert sink.dropped == []


async def test_what_comes_while_a_batch_is_written_is_the_next_batch():
    sink = Sink()
    sink.open.clear()
    sink.writer.put({"a": kib(1)})
    await ticks()
    sink.writer.put({"b": kib(2)})
    sink.writer.put({"c": kib(3)})
    assert sink.writer.nbytes == 3 * KIB  # what is being written counts
    sink.open.set()
    await sink.writer.settle(10)
    assert [list(batch) for batch in sink.batches] == [["a"], ["b", "c"]]


async def test_batches_are_bounded_by_bytes_and_a_large_value_goes_alone():
    sink = Sink(10 * BATCH_BYTES)
    third = bytes(BATCH_BYTES // 3)
    sink.writer.put({"a": third, "b": third, "c": third, "d": bytes(2 * BATCH_BYTES), "e": third})
    await sink.writer.settle(10)
    assert [list(batch) for batch in sink.batches] == [["a", "b"], ["c"], ["d"], ["e"]]


async def test_the_queue_is_bounded_and_what_finds_no_room_is_dropped():
    sink = Sink(3 * KIB)
    sink.open.clear()
    sink.writer.put({"a": kib()})
    await ticks()
    sink.writer.put({"b": kib(), "c": kib(), "d": kib(), "e": kib()})
    assert sink.dropped == ["d", "e"]
    assert sink.writer.nbytes == 3 * KIB
    sink.open.set()
    await sink.writer.settle(10)
    sink.writer.put({"f": kib()})
    await sink.writer.settle(10)
    assert [list(batch) for batch in sink.batches] == [["a"], ["b", "c"], ["f"]]


async def test_a_value_that_waits_is_replaced_by_a_newer_one_of_its_key():
    sink = Sink(2 * KIB)
    newer = kib(2)
    sink.writer.put({"a": kib(1), "b": kib(1)})
    sink.writer.put({"a": newer})
    await sink.writer.settle(10)
    assert sink.dropped == []
    assert sink.batches[0]["a"] is newer
    assert len(sink.batches[0]) == 2


async def test_values_can_be_taken_off_the_queue():
    sink = Sink()
    sink.writer.put({"1:a": kib(), "1:b": kib(), "2:a": kib()})
    sink.writer.forget("1:")
    assert sink.writer.nbytes == KIB
    await sink.writer.settle(10)
    assert [list(batch) for batch in sink.batches] == [["2:a"]]
    assert sink.dropped == []


async def test_a_batch_that_fails_does_not_end_the_writing(caplog: pytest.LogCaptureFixture):
    sink = Sink()
    sink.error = ValueError("a bug")
    with caplog.at_level(logging.ERROR):
        sink.writer.put({"a": kib()})
        await sink.writer.settle(10)
    assert "values could not be written" in caplog.text
    sink.error = None
    sink.writer.put({"b": kib()})
    await sink.writer.settle(10)
    assert [list(batch) for batch in sink.batches] == [["a"], ["b"]]
    assert sink.writer.nbytes == 0


async def test_stopping_writes_what_waits():
    sink = Sink()
    sink.writer.put({"a": kib(), "b": kib()})
    await sink.writer.stop(10)
    assert [list(batch) for batch in sink.batches] == [["a", "b"]]


async def test_stopping_waits_for_no_longer_than_it_is_told_and_drops_the_rest():
    sink = Sink()
    sink.open.clear()
    sink.writer.put({"a": kib()})
    await ticks()
    sink.writer.put({"b": kib()})
    await sink.writer.stop(0.01)
    assert sorted(sink.dropped) == ["a", "b"]
    assert sink.writer.nbytes == 0


async def test_stopping_with_nothing_to_do_does_nothing():
    sink = Sink()
    await sink.writer.stop(10)
    assert sink.batches == []


async def test_what_is_waited_for_goes_first_and_in_batches():
    sink = Sink(100 * BATCH_BYTES)
    sink.open.clear()
    sink.writer.put({"a": kib()})
    await ticks()
    sink.writer.put({"b": kib(), "c": kib(1)})
    half = bytes(BATCH_BYTES // 2 - ENTRY_BYTES)
    writing = asyncio.create_task(
        sink.writer.write(dict.fromkeys(("c", "d", "e", "f", "g"), half), 10)
    )
    await ticks()
    assert not writing.done()
    sink.open.set()
    await writing
    # "b" shares no batch with the last, which another would fill.
    assert [list(batch) for batch in sink.batches[:3]] == [["a"], ["c", "d"], ["e", "f"]]
    assert "g" in sink.batches[3]
    await sink.writer.settle(10)
    assert sink.writer.nbytes == 0
    assert sink.dropped == []


async def test_what_is_waited_for_waits_for_room_and_no_longer_than_it_may():
    sink = Sink(3 * KIB)
    sink.open.clear()
    sink.writer.put({"a": kib()})
    await ticks()
    sink.writer.put({"b": kib()})
    writing = asyncio.create_task(sink.writer.write({"c": kib(), "d": kib(), "e": kib()}, 0.2))
    await ticks()
    assert sink.writer.nbytes == 3 * KIB
    await writing
    assert sink.dropped == ["d", "e"]
    assert sink.writer.nbytes == 3 * KIB
    writing = asyncio.create_task(sink.writer.write({"f": kib()}, 10))
    await ticks()
    sink.open.set()
    await writing
    await sink.writer.settle(10)
    assert [list(batch) for batch in sink.batches] == [["a"], ["c", "b"], ["f"]]
    assert sink.dropped == ["d", "e"]


async def test_stopping_ends_what_is_waited_for():
    sink = Sink(2 * KIB)
    sink.open.clear()
    writing = asyncio.create_task(sink.writer.write({"a": kib(), "b": kib(), "c": kib()}, 0.3))
    await ticks()
    await sink.writer.stop(0.01)
    await writing
    assert sorted(sink.dropped) == ["a", "b", "c"]
    assert sink.writer.nbytes == 0
