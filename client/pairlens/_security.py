"""Who the server is, and who calls it: certificates and tokens.

Tokens are secrets: none is shown by any message or representation made here.
"""

from __future__ import annotations

import asyncio
import inspect
import ipaddress
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import unquote

import grpc

from pairlens.errors import InvalidParameterError, PairlensError, UnauthenticatedError

if TYPE_CHECKING:
    from pairlens._channel import ChannelSettings

Token: TypeAlias = "str | Callable[[], str | Awaitable[str]]"
Metadata: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """Files of an encrypted connection, in PEM; they are read when a client is made.

    Attributes:
        ca_file: Certificates, one of which vouches for the server's. None: those that come
            with gRPC, which know the public authorities, or what the environment variable
            GRPC_DEFAULT_SSL_ROOTS_FILE_PATH names.
        cert_file: Certificate chain of this client, for servers that ask for one (mutual
            TLS); goes with `key_file`.
        key_file: Private key of that certificate, without a password.
        server_name: Name that the server's certificate must hold. None: the target's.

    Raises:
        InvalidParameterError: One of `cert_file` and `key_file` is missing.
    """

    ca_file: str | Path | None = None
    cert_file: str | Path | None = None
    key_file: str | Path | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            given, missing = (
                ("key_file", "cert_file")
                if self.cert_file is None
                else (
                    "cert_file",
                    "key_file",
                )
            )
            raise InvalidParameterError(f"{given} is given without {missing}", field=missing)
        if self.server_name == "":
            raise InvalidParameterError("server_name is empty", field="server_name")


def credentials(tls: TlsFiles) -> grpc.ChannelCredentials:
    """Read and check the files of a connection.

    Raises:
        InvalidParameterError: A file cannot be read, holds something else than its name
            says, or the key is another certificate's; `field` names the argument.
    """
    # gRPC says nothing of files that it cannot use: each call would fail for some reason.
    roots = key = chain = None
    if tls.ca_file is not None:
        roots = _certificates("ca_file", tls.ca_file)
    if tls.cert_file is not None and tls.key_file is not None:
        chain, key = _certificates("cert_file", tls.cert_file), _read("key_file", tls.key_file)
        _check_key(tls.cert_file, tls.key_file, key)
    return grpc.ssl_channel_credentials(roots, key, chain)


def check_token(token: Token | None, *, encrypted: bool, target: str, over_plaintext: bool) -> None:
    """Refuse a token that is none, or that others could read on its way.

    Raises:
        InvalidParameterError: Of `token`.
    """
    if token is None:
        return
    if not callable(token):
        _checked(token)
    if not (encrypted or over_plaintext or is_local(target)):
        raise InvalidParameterError(
            f"a token for {target} would travel unencrypted, for anybody on the way to read: "
            "give tls=True or tls=TlsFiles(...), or token_over_plaintext=True where the "
            "network is trusted",
            field="token",
        )


def call_metadata(settings: ChannelSettings) -> Metadata:
    """What one call sends along to say who makes it; asks the token if it is a function.

    Raises:
        UnauthenticatedError: The function failed (the cause says how); errors of this
            package are passed on as they are.
        InvalidParameterError: It returned no token, or one to be awaited.
    """
    if settings.token is None:
        return ()
    token = _asked(settings.token)
    if inspect.iscoroutine(token):
        token.close()  # else Python warns that it was never awaited
    if inspect.isawaitable(token):
        raise InvalidParameterError(
            "a function that is awaited for the token is for AsyncClient", field="token"
        )
    return _authorization(token)


async def aio_call_metadata(settings: ChannelSettings) -> Metadata:
    """The same, asking a function in a thread: it may read a file, or call somebody.

    What it returns is awaited if it has to be.
    """
    if not callable(settings.token):
        return call_metadata(settings)
    token = await asyncio.to_thread(_asked, settings.token)
    if inspect.isawaitable(token):
        with _told():
            token = await token
    return _authorization(token)


def _asked(token: Token) -> object:
    if not callable(token):
        return token
    with _told():
        return token()


@contextmanager
def _told() -> Iterator[None]:
    """What a caller's function raises, as an error of the call."""
    try:
        yield
    except PairlensError:
        raise
    except Exception as error:
        # Its text is left out: it may hold the secret.
        raise UnauthenticatedError(
            f"the function given as token failed: {type(error).__name__}", field="token"
        ) from error


def _authorization(token: object) -> Metadata:
    return (("authorization", f"Bearer {_checked(token)}"),)


def is_local(target: str) -> bool:
    """Whether all that is sent to a target stays on this machine.

    Args:
        target: As gRPC names servers: "host:port", "dns:///name:port", "ipv4:a:1,b:2",
            "ipv6:[::1]:1", "unix:path", "unix-abstract:name".
    """
    scheme, colon, rest = target.partition(":")
    scheme = scheme.lower()
    if colon and scheme in ("unix", "unix-abstract"):
        return True
    if colon and scheme in ("ipv4", "ipv6"):
        addresses = unquote(rest).removeprefix("///").split(",")
        return all(_is_loopback(_host(address)) for address in addresses)
    if colon and scheme == "dns":
        authority, name = "", rest
        if rest.startswith("//"):
            authority, _, name = rest[2:].partition("/")
        host = _host(unquote(name))
        # Another server of names may say that "localhost" is anywhere.
        return _is_loopback(host) or (host.lower() == "localhost" and not authority)
    if colon and rest.startswith("//"):
        return False  # a resolver that we do not know
    host = _host(target)
    return host.lower() == "localhost" or _is_loopback(host)


def _host(address: str) -> str:
    """The host of "host:port", "[v6]:port", "host" or "v6"."""
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.partition(":")[0] if address.count(":") == 1 else address


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _checked(token: object) -> str:
    """The token, as it can be sent."""
    whole = isinstance(token, str) and token.isascii() and token.isprintable()
    if not (isinstance(token, str) and whole and token and token == token.strip()):
        raise InvalidParameterError(
            "a token is printable characters of ASCII, without spaces or line ends around it",
            field="token",
        )
    return token


def _read(name: str, path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise _refused(name, path, f"cannot be read: {error.strerror or error}") from error


def _certificates(name: str, path: str | Path) -> bytes:
    """The certificates of a file, whole and in PEM."""
    data = _read(name, path)
    try:
        # Bundles hold remarks in other alphabets.
        text = data.decode("ascii", "ignore")
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ValueError, ssl.SSLError) as error:
        raise _refused(name, path, "holds no certificates in PEM, or broken ones") from error
    return data


def _check_key(cert: str | Path, path: str | Path, key: bytes) -> None:
    """Refuse a key that is none, that gRPC cannot use, or of another certificate."""
    if b"PRIVATE KEY-----" not in key:
        raise _refused("key_file", path, "holds no private key in PEM")
    try:
        # Without a password here, it would be asked for on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, path, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise _refused("key_file", path, f"is not the key of {cert}") from error
        why = "is broken, or has a password (which gRPC cannot use)"
        raise _refused("key_file", path, why) from error


def _refused(name: str, path: str | Path, why: str) -> InvalidParameterError:
    return InvalidParameterError(f"{name}: {path} {why}", field=name)
