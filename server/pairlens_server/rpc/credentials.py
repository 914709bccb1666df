"""TLS of the server: its certificate and key, those of clients, and their rotation."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import grpc

from pairlens_server.errors import ConfigurationError
from pairlens_server.rpc.certificates import check_pair, read_certificates
from pairlens_server.watched_files import WatchedFiles

_log = logging.getLogger(__name__)


def server_credentials(
    cert_file: Path, key_file: Path, client_ca_file: Path | None = None
) -> grpc.ServerCredentials:
    """Credentials that follow their files: each new connection gets what stands there then.

    The files are looked at when a connection is made, at most once a second. What does not
    fit together is logged once and not taken: new connections go on with what was there
    before. Those that are open are left alone, and end with `max_connection_age`. TLS 1.2 is
    the least.

    Args:
        cert_file: The server's certificate and those between it and the root, PEM.
        key_file: Its private key, PEM, not encrypted.
        client_ca_file: Roots that a client's certificate, then required, must lead to, PEM.

    Raises:
        ConfigurationError: Names the setting, its file, and what is wrong.
    """
    files = _TlsFiles(cert_file, key_file, client_ca_file)
    return grpc.dynamic_ssl_server_credentials(
        files.read(),
        files.changed,  # type: ignore[arg-type]  # None, for no change, is missing in the stubs
        require_client_authentication=client_ca_file is not None,
    )


class _TlsFiles:
    """What gRPC asks for at each handshake, from threads of its own."""

    def __init__(self, cert_file: Path, key_file: Path, client_ca_file: Path | None):
        named = {"tls_cert_file": cert_file, "tls_key_file": key_file}
        if client_ca_file is not None:
            named["tls_client_ca_file"] = client_ca_file
        self._names = [f"{setting}: {path.name}" for setting, path in named.items()]
        self._paths = list(named.values())
        self._files = WatchedFiles(*self._paths)
        self._lock = threading.Lock()

    def read(self) -> grpc.ServerCertificateConfiguration:
        """What the files hold.

        Raises:
            ConfigurationError: They cannot be read, or do not fit together.
        """
        try:
            return self._checked(self._files.read())
        except OSError as error:
            raise ConfigurationError(self._unreadable(error)) from error

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """What the files hold if that is new and fits together; None to go on as before."""
        with self._lock:
            try:
                contents = self._files.changed()
                if contents is None:
                    return None
                configuration = self._checked(contents)
            except (OSError, ConfigurationError) as error:
                text = self._unreadable(error) if isinstance(error, OSError) else error
                _log.error("%s; new connections go on with what was there before", text)
                return None
        _log.info("%s: new connections get what stands there now", ", ".join(self._names))
        return configuration

    def _checked(self, contents: tuple[bytes, ...]) -> grpc.ServerCertificateConfiguration:
        certificate, key, *roots = contents
        for data, name in (
            (certificate, self._names[0]),
            *zip(roots, self._names[2:], strict=True),
        ):
            read_certificates(data, name)
        check_pair(certificate, key, self._names[0], self._names[1])
        return grpc.ssl_server_certificate_configuration(
            [(key, certificate)], root_certificates=roots[0] if roots else None
        )

    def _unreadable(self, error: OSError) -> str:
        # As `Path.read_bytes` names it.
        names = dict(zip(map(str, self._paths), self._names, strict=True))
        name = names.get(str(error.filename), self._names[0])
        return f"{name}: {error.strerror or error}"
