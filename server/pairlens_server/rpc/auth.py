"""Who may call what: bearer tokens, and the names of certificates."""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from pairlens_server.errors import (
    ConfigurationError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from pairlens_server.watched_files import WatchedFiles
from pairlens_server.yaml_file import parse_yaml

TOKEN_KEY = "authorization"
"""Metadata key of the token, which stands behind `Bearer`."""

_ADMIN_SERVICE = "/pairlens.v1.AdminService/"
_SETTING = "tokens_file"
_SCHEME = "bearer"
# Shorter ones can be guessed; longer ones do not fit into what gRPC takes of metadata.
_MIN_TOKEN, _MAX_TOKEN = 16, 1024
_MAX_NAME = 100

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Grant:
    """What a token is good for.

    Attributes:
        name: Of whoever holds it; several tokens may have one, so that they can be rotated.
        admin: Whether AdminService takes it.
        digest: Its SHA-256, not shown.
    """

    name: str
    admin: bool
    digest: bytes = field(repr=False)


class Authorizer:
    """Decides on every call; used by the event loop alone.

    Args:
        path: The tokens file; None lets every call through.
    """

    def __init__(self, path: Path | None = None):
        self._path = path
        self._files = WatchedFiles(path) if path is not None else None
        self._grants: tuple[Grant, ...] = ()

    @classmethod
    def from_file(cls, path: Path | None) -> Authorizer:
        """Read the tokens.

        Args:
            path: A YAML file, as in `read_grants`; None asks for no tokens.

        Raises:
            ConfigurationError: The file cannot be read, or is wrong; names the entry and never
                a token.
        """
        authorizer = cls(path)
        if path is not None and authorizer._files is not None:
            try:
                (data,) = authorizer._files.read()
            except OSError as error:
                raise ConfigurationError(_unreadable(path, error)) from error
            authorizer._grants = read_grants(data, path.name)
        return authorizer

    def check(
        self, method: str, metadata: Iterable[Any], auth_context: Mapping[str, Iterable[bytes]]
    ) -> str:
        """Let a call through, or refuse it.

        Args:
            method: "/pairlens.v1.Service/Method".
            metadata: Pairs of keys and values, as the call brought them.
            auth_context: What TLS knows of the caller, as `ServicerContext.auth_context`.

        Returns:
            The caller's name, as its token or else its certificate says; "" for neither.

        Raises:
            UnauthenticatedError: A token is asked for, and no known one came.
            PermissionDeniedError: An administrator's is, and another came.
        """
        if self._files is None:
            return certificate_name(auth_context)
        self._read_again()
        grant = self._grant_of(_token_in(metadata))
        if grant is None:
            raise UnauthenticatedError("the token that came with the call is not known here")
        if method.startswith(_ADMIN_SERVICE) and not grant.admin:
            raise PermissionDeniedError(
                "AdminService takes the tokens of administrators alone, marked with `admin: true`",
                caller=grant.name,
            )
        return grant.name

    def admits(self, method: str, metadata: Iterable[Any]) -> bool:
        """Whether `check` would let a call through, before anything of it has been read."""
        try:
            self.check(method, metadata, {})
        except (UnauthenticatedError, PermissionDeniedError):
            return False
        return True

    def _grant_of(self, token: str) -> Grant | None:
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        found = None
        # All of them, so that the time says nothing of which one it was.
        for grant in self._grants:
            if hmac.compare_digest(digest, grant.digest):
                found = grant
        return found

    def _read_again(self) -> None:
        assert self._files is not None
        assert self._path is not None
        try:
            contents = self._files.changed()
            if contents is None:
                return
            self._grants = read_grants(contents[0], self._path.name)
        except (OSError, ConfigurationError) as error:
            text = _unreadable(self._path, error) if isinstance(error, OSError) else error
            _log.error("%s; the tokens read before it stay valid", text)
            return
        names = len({grant.name for grant in self._grants})
        _log.info("%s: now %d tokens of %d callers", _SETTING, len(self._grants), names)


def certificate_name(auth_context: Mapping[str, Iterable[bytes]]) -> str:
    """Whom a client's certificate names: the common name, else the first alternative; or ""."""
    for key in ("x509_common_name", "x509_subject_alternative_name"):
        for value in auth_context.get(key, ()):
            name = value.decode("utf-8", "replace")
            if name and name.isprintable():
                return name[:_MAX_NAME]
    return ""


def read_grants(data: bytes, file_name: str) -> tuple[Grant, ...]:
    """The tokens of a tokens file.

        - name: retrieval
          token: "three-word-long-secret"
        - name: operators
          sha256: 5d3c...  # hex, of the token in UTF-8, so that the file holds no secret
          admin: true

    Raises:
        ConfigurationError: One line with the entry and what is wrong with it.
    """
    prefix = f"{_SETTING}: {file_name}"
    content = parse_yaml(data, prefix)
    if not isinstance(content, list) or not content:
        raise ConfigurationError(f"{prefix}: not a list of tokens")
    grants: list[Grant] = []
    for number, item in enumerate(content, 1):
        grant = _grant(item, f"{prefix}: entry {number}")
        twin = next((i for i, g in enumerate(grants, 1) if g.digest == grant.digest), None)
        if twin is not None:
            raise ConfigurationError(f"{prefix}: entries {twin} and {number} are the same token")
        grants.append(grant)
    return tuple(grants)


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    name: Annotated[str, Field(pattern=rf"^[A-Za-z0-9][A-Za-z0-9._@:/-]{{0,{_MAX_NAME - 1}}}$")]
    token: SecretStr | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")] | None = None
    admin: bool = False

    @model_validator(mode="after")
    def _one_secret(self) -> _Entry:
        if (self.token is None) == (self.sha256 is None):
            raise ValueError("needs token or sha256, and not both")
        if self.token is not None:
            secret = self.token.get_secret_value()
            if not _MIN_TOKEN <= len(secret) <= _MAX_TOKEN:
                raise ValueError(f"a token has {_MIN_TOKEN} to {_MAX_TOKEN} characters")
            if not all("!" <= character <= "~" for character in secret):
                raise ValueError("a token is printable ASCII without spaces")
        return self

    def digest(self) -> bytes:
        if self.sha256 is not None:
            return bytes.fromhex(self.sha256)
        assert self.token is not None
        return hashlib.sha256(self.token.get_secret_value().encode()).digest()


def _grant(item: Any, where: str) -> Grant:
    try:
        entry = _Entry.model_validate(item)
    except ValidationError as error:
        # Not the error itself in the traceback, nor a key: either may hold a token.
        raise ConfigurationError(f"{where}{_problem(item, error)}") from None
    return Grant(entry.name, entry.admin, entry.digest())


_WORDS = {
    "name": "is letters, digits and . _ @ : / -, at most 100 characters, no - in front",
    "token": "is text: put it in quotes",
    "sha256": "is 64 hexadecimal digits in quotes",
    "admin": "is true or false",
}


def _problem(item: Any, error: ValidationError) -> str:
    if not isinstance(item, dict):
        return " is not a mapping with name and token"
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    name = item.get("name")
    # A name that is none might be a token in the wrong place.
    known = isinstance(name, str) and not any(e["loc"] == ("name",) for e in error.errors())
    whose = f" ({name})" if known else ""
    if first["type"] == "extra_forbidden":
        return f"{whose}: has a key besides name, token, sha256 and admin"
    if not first["loc"]:
        return f"{whose}: {first['msg'].removeprefix('Value error, ')}"
    key = str(first["loc"][0])
    if first["type"] == "missing":
        return f"{whose}: {key} is missing"
    return f"{whose}: {key} {_WORDS.get(key, 'is wrong')}"


def _token_in(metadata: Iterable[Any]) -> str:
    values = [value for key, value in metadata if key == TOKEN_KEY]
    if not values:
        raise UnauthenticatedError(
            f"this server asks for a token: send the metadata `{TOKEN_KEY}: Bearer TOKEN`"
        )
    if len(values) > 1:
        raise UnauthenticatedError(f"more than one {TOKEN_KEY} came with the call")
    value = values[0] if isinstance(values[0], str) else values[0].decode("latin-1")
    scheme, _, token = value.strip().partition(" ")
    if scheme.lower() != _SCHEME or not token.strip():
        raise UnauthenticatedError(f"{TOKEN_KEY} is not of the form `Bearer TOKEN`")
    return str(token.strip())


def _unreadable(path: Path, error: OSError) -> str:
    return f"{_SETTING}: {path.name}: {error.strerror or error}"
