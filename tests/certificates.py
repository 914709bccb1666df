"""Certificates for tests, by authorities of their own."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import grpc
import trustme


@dataclass(frozen=True)
class TlsFiles:
    """Where a server finds what it shows and whom it trusts.

    Attributes:
        cert, key, client_ca: PEM files in one folder.
    """

    cert: Path
    key: Path
    client_ca: Path

    @classmethod
    def in_folder(cls, folder: Path) -> TlsFiles:
        return cls(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")

    @property
    def flags(self) -> tuple[str, ...]:
        """Of pairlens-server, for TLS alone."""
        return ("--tls-cert-file", str(self.cert), "--tls-key-file", str(self.key))

    @property
    def mutual_flags(self) -> tuple[str, ...]:
        """And for certificates of clients."""
        return (*self.flags, "--tls-client-ca-file", str(self.client_ca))

    def show(self, authority: trustme.CA, *names: str) -> None:
        """Have the server show a new certificate of this authority."""
        leaf = authority.issue_cert(*(names or ("localhost", "127.0.0.1")))
        put(self.key, leaf.private_key_pem.bytes())
        put(self.cert, chain(leaf))

    def trust(self, *authorities: trustme.CA) -> None:
        """Have the server trust the clients of these authorities."""
        put(self.client_ca, b"".join(authority.cert_pem.bytes() for authority in authorities))


def put(path: Path, data: bytes) -> None:
    """Write a file in the place of another at once."""
    new = path.with_name(path.name + ".new")
    new.write_bytes(data)
    new.replace(path)


def chain(leaf: trustme.LeafCert) -> bytes:
    return b"".join(blob.bytes() for blob in leaf.cert_chain_pems)


def client_credentials(
    root: trustme.CA,
    own: trustme.CA | None = None,
    name: str = "indexer",
    not_after: datetime | None = None,
) -> grpc.ChannelCredentials:
    """Of a client that trusts one authority, with a certificate of another, if any."""
    if own is None:
        return grpc.ssl_channel_credentials(root.cert_pem.bytes())
    leaf = own.issue_cert(f"{name}.internal", common_name=name, not_after=not_after)
    return grpc.ssl_channel_credentials(
        root.cert_pem.bytes(), leaf.private_key_pem.bytes(), chain(leaf)
    )
