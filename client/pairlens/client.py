"""The blocking client."""

from __future__ import annotations

from collections.abc import Callable, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from pairlens._base import ClientBase, adopted
from pairlens._blocking import BlockingDriver
from pairlens._blocking_many import items
from pairlens._calls import Calls
from pairlens._many import Many
from pairlens._steps import Steps
from pairlens.items import Item

if TYPE_CHECKING:
    from typing_extensions import Self

_T = TypeVar("_T")
_P = ParamSpec("_P")


def _blocking(
    method: Callable[Concatenate[Calls, _P], Steps[_T]],
) -> Callable[Concatenate[Client, _P], _T]:
    """The method that runs the logic to its end."""

    def call(client: Client, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return client._driver.run(method(client._calls, *args, **kwargs))

    return adopted(call, method, "Client", "{}")


def _blocking_many(
    method: Callable[Concatenate[Calls, _P], Many[_T]],
) -> Callable[Concatenate[Client, _P], Generator[Item[_T], None, None]]:
    """The method that runs the logic for each input."""

    def call(
        client: Client, /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Generator[Item[_T], None, None]:
        return items(client._driver, method(client._calls, *args, **kwargs))

    return adopted(call, method, "Client", "Generator[Item[{}], None, None]")


class Client(ClientBase):
    """A connection to one pairlens server, or to several behind one name.

    Safe to share between threads. Use it as a context manager, or `close()` it.
    Calls that found no server, whose connection broke, or that the server's full queue refused,
    are made again within their timeout. A picture is sent once: large ones, and those that are
    sent again, travel as the hash of their file where the server keeps pictures, and are
    brought again when it has lost them.

    In a process that is forked, while no call is under way, the client begins anew; where gRPC
    was used before the fork, which it cannot bear, calls raise an error that says what to do.

    Example:
        >>> with Client("localhost:50051") as client:
        ...     client.explain("cat.jpg", method="rollout").save("cat-map.png")
        ...     results = client.pair_similarity("cat.jpg", ["a.jpg", "b.jpg"])
        ...     print([match.similarity for match in results.matches])
        ...     for item in client.explain_many(Path("gallery").glob("*.jpg")):
        ...         if isinstance(item, ItemFailure):
        ...             print(item.name, item.error)
        ...         else:
        ...             item.result.save(f"map-{item.index}.png")
    """

    _driver: BlockingDriver

    wait_ready = _blocking(Calls.wait_ready)
    list_models = _blocking(Calls.list_models)
    get_model = _blocking(Calls.get_model)
    explain = _blocking(Calls.explain)
    class_similarity = _blocking(Calls.class_similarity)
    pair_similarity = _blocking(Calls.pair_similarity)
    explain_many = _blocking_many(Calls.explain_many)
    pair_many = _blocking_many(Calls.pair_many)
    score_saliency = _blocking(Calls.score_saliency)
    embed = _blocking(Calls.embed)
    warm = _blocking(Calls.warm)
    cache_stats = _blocking(Calls.cache_stats)
    clear_cache = _blocking(Calls.clear_cache)
    reload_models = _blocking(Calls.reload_models)
    drain = _blocking(Calls.drain)

    def close(self) -> None:
        """Close the connection; calls under way end with code "CANCELLED"."""
        self._driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self) -> None:
        super()._start()
        self._driver = BlockingDriver(self._settings, self._metadata())
