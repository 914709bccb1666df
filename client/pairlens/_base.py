"""What `Client` and `AsyncClient` are made of, and how the logic becomes their methods."""

from __future__ import annotations

import inspect
import os
import re
import socket
from collections.abc import Callable
from functools import update_wrapper
from typing import Any, NoReturn, TypeVar

from pairlens import _fork, _security
from pairlens._calls import Calls
from pairlens._channel import DEFAULT_MAX_MESSAGE_BYTES, ChannelSettings
from pairlens._connection import DEFAULT_TARGET, DEFAULT_TIMEOUT_S
from pairlens._security import TlsFiles, Token
from pairlens.errors import InvalidParameterError
from pairlens.options import CachePolicy

_NAME_KEY, _LONGEST_NAME = "pairlens-client", 100

_Function = TypeVar("_Function", bound=Callable[..., object])


class ClientBase:
    """A connection to one pairlens server, or to several behind one name."""

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        name: str | None = None,
        cache: CachePolicy = "default",
        tls: bool | TlsFiles = False,
        token: Token | None = None,
        token_over_plaintext: bool = False,
    ) -> None:
        """Prepare a connection, made on the first call.

        Args:
            target: The server as gRPC names it: "host:port", "unix:/path". A name with
                several addresses ("dns:///pairlens:50051") spreads calls over them.
            timeout: Seconds that a call may take, unless it says otherwise.
            max_message_bytes: Largest request to send and answer to take.
            name: Who calls: a busy server gives each name its share. At most 100 characters
                of ASCII. None: this host and process.
            cache: How calls use the server's cache, unless they say otherwise.
            tls: Encrypt the connection. True: the server's certificate is signed by a public
                authority; `TlsFiles` names files for others, and for mutual TLS.
            token: Says who calls, to servers that ask for it; a function is asked for each
                call, that of an `AsyncClient` awaited where it has to be. Refused where it
                would travel unencrypted over a network.
            token_over_plaintext: Send it unencrypted all the same.

        Raises:
            InvalidParameterError: A number that is not positive, no such name or policy, a
                file that cannot be used, or a token that others could read on its way.
        """
        self._settings = ChannelSettings(
            target=target,
            max_message_bytes=max_message_bytes,
            tls=tls,
            token=token,
            token_over_plaintext=token_over_plaintext,
        )
        if tls:  # the channel is opened later, and this is when to say that it cannot be
            _security.credentials(tls if isinstance(tls, TlsFiles) else TlsFiles())
        self._named = None if name is None else _checked(name)
        self._timeout, self._cache = timeout, cache
        self._start()
        _fork.register(self)

    @property
    def target(self) -> str:
        """The server, as it was given."""
        return self._settings.target

    @property
    def name(self) -> str:
        """Who calls."""
        return self._named or _own_name()

    def __reduce__(self) -> NoReturn:
        # Its connection is this process's, and its token is for nobody's files.
        raise TypeError(
            f"{type(self).__name__} can be neither copied nor pickled: make one where it is needed"
        )

    def _start(self) -> None:
        """Begin without knowing anything of the server, and without a channel."""
        self._calls = Calls(
            self._settings.target,
            timeout=self._timeout,
            max_message_bytes=self._settings.max_message_bytes,
            cache=self._cache,
        )

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return ((_NAME_KEY, self.name),)

    def _forked(self) -> None:
        # Other threads of the parent may have held any lock; and the channel is the parent's.
        self._start()


def adopted(
    function: _Function, method: Callable[..., object], owner: str, returns: str
) -> _Function:
    """A client's method with the name, signature and docstring of one of `Calls`.

    Args:
        function: What it does.
        method: Of `Calls`.
        owner: Name of the client's class.
        returns: What it returns, with "{}" for what the logic does.
    """
    update_wrapper(function, method)
    function.__qualname__ = f"{owner}.{method.__name__}"
    inner = re.fullmatch(r"\w+\[(.*)\]", str(method.__annotations__["return"]))
    assert inner is not None  # Steps[...] or Many[...]
    annotation = returns.format(inner[1])
    signature = inspect.signature(method).replace(return_annotation=annotation)
    made: Any = function
    made.__signature__ = signature
    made.__annotations__ = {**method.__annotations__, "return": annotation}
    return function


def _own_name() -> str:
    """This host and process."""
    host = "".join(c for c in socket.gethostname() if c.isascii() and c.isprintable())
    return f"{host[: _LONGEST_NAME // 2] or 'unnamed'}:{os.getpid()}"


def _checked(name: str) -> str:
    """The name, as the contract takes it.

    Raises:
        InvalidParameterError: It is none.
    """
    if not name or len(name) > _LONGEST_NAME or not (name.isascii() and name.isprintable()):
        raise InvalidParameterError(
            f"name is 1 to {_LONGEST_NAME} printable characters of ASCII, not {name!r}",
            field="name",
        )
    return name
