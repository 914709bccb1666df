"""How commands reach a server: flags, and the environment where a flag is not given.

A token comes from a file or the environment, never from the command line, which anybody on
the machine can read.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, field
from pathlib import Path

from pairlens import _security
from pairlens._connection import DEFAULT_TARGET
from pairlens._security import TlsFiles, Token
from pairlens.errors import InvalidParameterError, UnauthenticatedError

_PREFIX = "PAIRLENS_"
_FILES = ("ca_file", "cert_file", "key_file", "server_name")
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")

ENVIRONMENT = """\
environment, where the flag is not given:
  PAIRLENS_SERVER                --server
  PAIRLENS_TLS                   --tls (1) or --no-tls (0)
  PAIRLENS_CA_FILE               --ca-file
  PAIRLENS_CERT_FILE             --cert-file
  PAIRLENS_KEY_FILE              --key-file
  PAIRLENS_SERVER_NAME           --server-name
  PAIRLENS_TOKEN_FILE            --token-file
  PAIRLENS_TOKEN                 the token itself
  PAIRLENS_TOKEN_OVER_PLAINTEXT  --token-over-plaintext (1)
"""
"""For the help of the whole program."""


class UsageError(Exception):
    """The command line asks for something that cannot be; the message says what."""


@dataclass(frozen=True)
class Way:
    """How to reach a server, as the constructor of `Client` takes it."""

    target: str
    tls: bool | TlsFiles
    token: Token | None = field(repr=False)
    token_over_plaintext: bool


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add --server, and what says who it is and who calls."""
    group = parser.add_argument_group("connection")
    group.add_argument(
        "--server",
        metavar="TARGET",
        default=os.environ.get("PAIRLENS_SERVER") or DEFAULT_TARGET,
        help="host:port of the server, or dns:///name:port of several "
        "(env PAIRLENS_SERVER; default %(default)s)",
    )
    group.add_argument(
        "--tls",
        action=argparse.BooleanOptionalAction,
        help="encrypt the connection; the flags below imply it (env PAIRLENS_TLS)",
    )
    group.add_argument(
        "--ca-file",
        metavar="FILE",
        help="certificates that vouch for the server's; else the public authorities "
        "(env PAIRLENS_CA_FILE)",
    )
    group.add_argument(
        "--cert-file",
        metavar="FILE",
        help="certificate to show to the server (env PAIRLENS_CERT_FILE)",
    )
    group.add_argument(
        "--key-file", metavar="FILE", help="key of that certificate (env PAIRLENS_KEY_FILE)"
    )
    group.add_argument(
        "--server-name",
        metavar="NAME",
        help="name in the server's certificate, where it is not the target's "
        "(env PAIRLENS_SERVER_NAME)",
    )
    group.add_argument(
        "--token-file",
        metavar="FILE",
        help="file with the token, read for each call (env PAIRLENS_TOKEN_FILE; "
        "env PAIRLENS_TOKEN: the token itself)",
    )
    group.add_argument(
        "--token-over-plaintext",
        action="store_true",
        default=None,
        help="send the token without TLS, for anybody on the way to read "
        "(env PAIRLENS_TOKEN_OVER_PLAINTEXT)",
    )


def way(arguments: argparse.Namespace) -> Way:
    """What the flags and the environment say together.

    Raises:
        UsageError: They contradict each other, a token cannot be read, or it would travel
            for others to read.
    """
    tls = _tls(arguments)
    token = _token(arguments)
    over_plaintext = arguments.token_over_plaintext or _switch("token_over_plaintext") or False
    target: str = arguments.server
    if token is not None and not (tls or over_plaintext or _security.is_local(target)):
        raise UsageError(
            f"a token for {target} would travel unencrypted, for anybody on the way to read: "
            "give --tls, or --token-over-plaintext where the network is trusted"
        )
    return Way(target, tls, token, over_plaintext)


def blame(error: InvalidParameterError) -> UsageError | None:
    """The flag at fault for an error of the constructor of `Client`, if one is."""
    if error.field in _FILES:
        return UsageError(f"{_flag(error.field)}: {error.message.removeprefix(f'{error.field}: ')}")
    if error.field == "token":
        return UsageError(error.message)
    return None


def tokenless(arguments: argparse.Namespace) -> bool:
    """Whether no token is given by a flag or the environment."""
    return not (arguments.token_file or _environment("token_file") or _environment("token"))


def _tls(arguments: argparse.Namespace) -> bool | TlsFiles:
    """The files of TLS, or whether it is used."""
    flags = {name: getattr(arguments, name) for name in _FILES}
    given = [name for name in _FILES if flags[name] is not None]
    if arguments.tls is False:
        if given:
            raise UsageError(f"{_flag(given[0])} contradicts --no-tls")
        return False
    wanted = arguments.tls or bool(given) or _switch("tls")
    files = {name: flags[name] or _environment(name) for name in _FILES}
    if wanted is False or not (wanted or any(files.values())):
        return False
    for one, other in (("cert_file", "key_file"), ("key_file", "cert_file")):
        if files[one] and not files[other]:
            raise UsageError(f"{_flag(one)} needs {_flag(other)}")
    return TlsFiles(**files)


def _token(arguments: argparse.Namespace) -> Token | None:
    file, token = _environment("token_file"), _environment("token")
    if arguments.token_file is not None:
        file, token = arguments.token_file, None
    if file is not None and token is not None:
        raise UsageError("PAIRLENS_TOKEN and PAIRLENS_TOKEN_FILE are set: leave one of them out")
    if file is None:
        return token
    read = TokenFile(Path(file))
    try:
        read()
    except UnauthenticatedError as error:
        raise UsageError(error.message) from error
    return read


@dataclass(frozen=True)
class TokenFile:
    """A token that is read for each call, so that it may be replaced meanwhile."""

    path: Path

    def __call__(self) -> str:
        """Read it.

        Raises:
            UnauthenticatedError: The file cannot be read, or holds none.
        """
        try:
            token = self.path.read_text(encoding="ascii").strip()
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise UnauthenticatedError(f"cannot read the token file {self.path}: {why}") from error
        except UnicodeDecodeError:
            # Its message would show what the file holds.
            raise UnauthenticatedError(f"the token file {self.path} holds no token") from None
        if not token or not token.isprintable():
            raise UnauthenticatedError(f"the token file {self.path} holds no token")
        return token


def _environment(name: str) -> str | None:
    """A variable; an empty one is as good as none."""
    return os.environ.get(_PREFIX + name.upper()) or None


def _switch(name: str) -> bool | None:
    value = _environment(name)
    if value is None:
        return None
    if value.lower() not in _TRUE + _FALSE:
        variable = _PREFIX + name.upper()
        raise UsageError(f"{variable} is one of {', '.join(_TRUE + _FALSE)}; not {value!r}")
    return value.lower() in _TRUE


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
