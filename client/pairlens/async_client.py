"""The client for asyncio."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from pairlens._awaiting import AwaitingDriver
from pairlens._awaiting_many import items
from pairlens._base import ClientBase, adopted
from pairlens._calls import Calls
from pairlens._many import Many
from pairlens._steps import Steps
from pairlens.items import Item

if TYPE_CHECKING:
    from typing_extensions import Self

_T = TypeVar("_T")
_P = ParamSpec("_P")


def _awaiting(
    method: Callable[Concatenate[Calls, _P], Steps[_T]],
) -> Callable[Concatenate[AsyncClient, _P], Coroutine[Any, Any, _T]]:
    """The coroutine method that runs the logic to its end."""

    async def call(client: AsyncClient, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await client._driver.run(method(client._calls, *args, **kwargs))

    return adopted(call, method, "AsyncClient", "{}")


def _awaiting_many(
    method: Callable[Concatenate[Calls, _P], Many[_T]],
) -> Callable[Concatenate[AsyncClient, _P], AsyncGenerator[Item[_T], None]]:
    """The method that runs the logic for each input."""

    def call(
        client: AsyncClient, /, *args: _P.args, **kwargs: _P.kwargs
    ) -> AsyncGenerator[Item[_T], None]:
        return items(client._driver, method(client._calls, *args, **kwargs))

    return adopted(call, method, "AsyncClient", "AsyncGenerator[Item[{}], None]")


class AsyncClient(ClientBase):
    """`Client` for asyncio: the same methods, to be awaited.

    Safe to share between the tasks of one event loop, the one of its first call. Use it as an
    asynchronous context manager, or `await close()`. A call that is cancelled is cancelled
    at the server, too. Files are read and pictures encoded in threads, so that nothing holds
    up the loop. All else is as in `Client`.

    Example:
        >>> async with AsyncClient("localhost:50051") as client:
        ...     one, other = await asyncio.gather(
        ...         client.explain("cat.jpg"), client.explain("dog.jpg", method="rollout")
        ...     )
        ...     async for item in client.pair_many(pairs, concurrency=32):
        ...         if isinstance(item, ItemFailure):
        ...             print(item.name, item.error)
        ...         else:
        ...             print(item.name, item.result[0].similarity)

        Notebooks await at top level; the client lives as long as the notebook:

        >>> client = AsyncClient("localhost:50051")
        >>> (await client.explain("cat.jpg")).overlay()
    """

    _driver: AwaitingDriver

    wait_ready = _awaiting(Calls.wait_ready)
    list_models = _awaiting(Calls.list_models)
    get_model = _awaiting(Calls.get_model)
    explain = _awaiting(Calls.explain)
    class_similarity = _awaiting(Calls.class_similarity)
    pair_similarity = _awaiting(Calls.pair_similarity)
    explain_many = _awaiting_many(Calls.explain_many)
    pair_many = _awaiting_many(Calls.pair_many)
    score_saliency = _awaiting(Calls.score_saliency)
    embed = _awaiting(Calls.embed)
    warm = _awaiting(Calls.warm)
    cache_stats = _awaiting(Calls.cache_stats)
    clear_cache = _awaiting(Calls.clear_cache)
    reload_models = _awaiting(Calls.reload_models)
    drain = _awaiting(Calls.drain)

    async def close(self) -> None:
        """Close the connection; calls under way end with code "CANCELLED"."""
        await self._driver.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _start(self) -> None:
        super()._start()
        self._driver = AwaitingDriver(self._settings, self._metadata())
