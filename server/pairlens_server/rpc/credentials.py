"""TLS of the server: its certificate and key, those of clients, and their rotation."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path

import grpc

from pairlens_server.errors import ConfigurationError
from pairlens_server.rpc.certificates import check_pair, earliest_not_after, read_certificates
from pairlens_server.watched_files import WatchedFiles

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Identity:
    """What the files held at one time.

    Attributes:
        configuration: For gRPC.
        not_after_s: When the first of its certificates expires, in seconds since 1970.
    """

    configuration: grpc.ServerCertificateConfiguration
    not_after_s: float


class ServerTls:
    """TLS that follows its files: each new connection gets what stands there then.

    The files are looked at when a connection is made, and by whoever asks when the certificate
    expires, at most once a second. What does not fit together is logged once and not taken: new
    connections go on with what was there before. Those that are open are left alone, and end with
    `max_connection_age`. TLS 1.2 is the least. Any thread may use it.

    Args:
        cert_file: The server's certificate and those between it and the root, PEM.
        key_file: Its private key, PEM, not encrypted.
        client_ca_file: Roots that a client's certificate, then required, must lead to, PEM.

    Raises:
        ConfigurationError: Names the setting, its file, and what is wrong.
    """

    def __init__(self, cert_file: Path, key_file: Path, client_ca_file: Path | None = None):
        named = {"tls_cert_file": cert_file, "tls_key_file": key_file}
        if client_ca_file is not None:
            named["tls_client_ca_file"] = client_ca_file
        self._asks_clients = client_ca_file is not None
        self._names = [f"{setting}: {path.name}" for setting, path in named.items()]
        self._paths = list(named.values())
        self._files = WatchedFiles(*self._paths)
        self._lock = threading.Lock()
        try:
            self._taken = self._checked(self._files.read())
        except OSError as error:
            raise ConfigurationError(self._unreadable(error)) from error
        self._given = self._taken

    def credentials(self) -> grpc.ServerCredentials:
        """For one port."""
        return grpc.dynamic_ssl_server_credentials(
            self._given.configuration,
            self._changed,  # type: ignore[arg-type]  # None, for no change, is missing in the stubs
            require_client_authentication=self._asks_clients,
        )

    def not_after(self) -> float:
        """When the certificate of new connections expires, or one that comes with it.

        Returns:
            Seconds since 1970.
        """
        with self._lock:
            self._look()
            return self._taken.not_after_s

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """What gRPC is to use from now on; None to go on as before."""
        with self._lock:
            self._look()
            if self._given is self._taken:
                return None
            self._given = self._taken
            return self._given.configuration

    def _look(self) -> None:
        """Take what the files hold, if that is new and fits together."""
        try:
            contents = self._files.changed()
            if contents is None:
                return
            self._taken = self._checked(contents)
        except (OSError, ConfigurationError) as error:
            text = self._unreadable(error) if isinstance(error, OSError) else error
            _log.error("%s; new connections go on with what was there before", text)
            return
        _log.info("%s: new connections get what stands there now", ", ".join(self._names))

    def _checked(self, contents: tuple[bytes, ...]) -> _Identity:
        chain, key, *roots = contents
        certificates = read_certificates(chain, self._names[0])
        for data, name in zip(roots, self._names[2:], strict=True):
            read_certificates(data, name)
        check_pair(chain, key, self._names[0], self._names[1])
        configuration = grpc.ssl_server_certificate_configuration(
            [(key, chain)], root_certificates=roots[0] if roots else None
        )
        return _Identity(configuration, earliest_not_after(certificates))

    def _unreadable(self, error: OSError) -> str:
        # As `Path.read_bytes` names it.
        names = dict(zip(map(str, self._paths), self._names, strict=True))
        name = names.get(str(error.filename), self._names[0])
        return f"{name}: {error.strerror or error}"
