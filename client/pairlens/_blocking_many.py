"""Calls about many inputs, in threads."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import Any, TypeVar

from pairlens._blocking import BlockingDriver, Stoppable
from pairlens._many import Many
from pairlens.errors import InvalidParameterError, PairlensError
from pairlens.items import Item, ItemFailure

_T = TypeVar("_T")


def items(driver: BlockingDriver, many: Many[_T]) -> Generator[Item[_T], None, None]:
    """Make the calls, and yield what becomes of them.

    Raises:
        InvalidParameterError: The inputs are asynchronous.
        PairlensError: The client was closed.
    """
    if isinstance(many.inputs, AsyncIterable):
        raise InvalidParameterError("asynchronous iterables are for AsyncClient")
    return _items(driver, many, enumerate(many.inputs))


def _items(
    driver: BlockingDriver, many: Many[_T], inputs: Iterator[tuple[int, Any]]
) -> Generator[Item[_T], None, None]:
    process = os.getpid()
    hands = Stoppable()
    executor = ThreadPoolExecutor(many.concurrency, thread_name_prefix="pairlens-many")
    pending: list[Future[Item[_T]]] = []
    more = True
    try:
        while True:
            if more and len(pending) < many.room:
                given = next(inputs, None)
                if given is None:
                    more = False
                else:
                    # In threads, the caller's context (an active span) would be gone.
                    run = copy_context().run
                    pending.append(executor.submit(run, driver.run, many.attempt(*given), hands))
            if not pending:
                return
            done = _next_done(pending, ordered=many.ordered)
            if done is None:
                if more and len(pending) < many.room:
                    continue
                wait(pending[:1] if many.ordered else pending, return_when=FIRST_COMPLETED)
            else:
                pending.remove(done)
                yield _answer(driver, done)
                if os.getpid() != process:
                    raise PairlensError("this iterator's calls are those of the parent process")
    finally:
        if os.getpid() == process:  # its threads, and those of its calls
            hands.stop()
            executor.shutdown(cancel_futures=True)


def _next_done(pending: list[Future[Item[_T]]], *, ordered: bool) -> Future[Item[_T]] | None:
    candidates = pending[:1] if ordered else pending
    return next((future for future in candidates if future.done()), None)


def _answer(driver: BlockingDriver, done: Future[Item[_T]]) -> Item[_T]:
    item = done.result()
    if isinstance(item, ItemFailure) and driver.closed:
        raise item.error  # all others would fail, too
    return item
