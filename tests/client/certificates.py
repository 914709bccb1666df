"""Certificates as the files that users of the SDK have."""

from __future__ import annotations

import datetime
from pathlib import Path

import grpc
import trustme

from tests.certificates import chain


class Authority:
    """Somebody who signs certificates, with a folder for the files.

    Attributes:
        ca_file: Its own certificate.
    """

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder, self._name = folder, name
        self._authority = trustme.CA()
        self.ca_file = folder / f"{name}.pem"
        self._authority.cert_pem.write_to_path(self.ca_file)

    def issue(self, *names: str, days_left: float = 1) -> tuple[Path, Path]:
        """Files of a certificate for some names, and of its key.

        Args:
            *names: Of hosts or people, or addresses.
            days_left: Until it expires; negative when it has.
        """
        now = datetime.datetime.now(datetime.timezone.utc)
        made = self._authority.issue_cert(
            *names,
            not_before=now - datetime.timedelta(days=30),
            not_after=now + datetime.timedelta(days=days_left),
        )
        stem = f"{self._name}-{names[0]}-{days_left:g}"
        cert, key = self._folder / f"{stem}.pem", self._folder / f"{stem}-key.pem"
        cert.write_bytes(chain(made))
        made.private_key_pem.write_to_path(key)
        return cert, key


def server_credentials(
    cert: Path, key: Path, client_ca: Path | None = None
) -> grpc.ServerCredentials:
    """Of a server that asks clients for certificates when `client_ca` is given."""
    return grpc.ssl_server_credentials(
        [(key.read_bytes(), cert.read_bytes())],
        root_certificates=client_ca.read_bytes() if client_ca else None,
        require_client_auth=client_ca is not None,
    )
