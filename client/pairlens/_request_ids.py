"""The caller's own name for a piece of work, under which the server's log tells of its calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from pairlens._failures import REQUEST_ID_KEY
from pairlens.errors import InvalidParameterError

_LONGEST = 64
_current: ContextVar[str] = ContextVar("pairlens.request_id", default="")

Metadata = tuple[tuple[str, str], ...]


@contextmanager
def request_id(name: str) -> Iterator[None]:
    """Have all calls within the block carry a request id; without it the server makes one.

    It holds for the thread or the task of the block, and for what they start with their context
    (`explain_many`, tasks, `asyncio.to_thread`). The server writes it into its log and its
    traces, and hands it back in `Timing.request_id` and in errors.

    Args:
        name: 1 to 64 printable characters of ASCII.

    Raises:
        InvalidParameterError: It is none.

    Example:
        >>> with pairlens.request_id("search-81f3"):
        ...     client.pair_similarity("query.jpg", ["a.jpg", "b.jpg"])
    """
    plain = isinstance(name, str) and name.isascii() and name.isprintable()
    if not (plain and 1 <= len(name) <= _LONGEST and name == name.strip()):
        raise InvalidParameterError(
            f"a request id is 1 to {_LONGEST} printable characters of ASCII, without spaces "
            f"around them, not {name!r}",
            field="request_id",
        )
    before = _current.set(name)
    try:
        yield
    finally:
        _current.reset(before)


def metadata() -> Metadata:
    """What a call sends along; () outside of such a block."""
    name = _current.get()
    return ((REQUEST_ID_KEY, name),) if name else ()
