"""What certificate and key files must hold, so that connections can be made with them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from pairlens_server.errors import ConfigurationError

_PRIVATE_KEY = re.compile(
    rb"-----BEGIN ([A-Z ]*)PRIVATE KEY-----.+?-----END \1PRIVATE KEY-----", re.S
)
# gRPC takes Ed25519 and P-521 without a word, and then every handshake fails.
_CURVES = ("secp256r1", "secp384r1")
_MIN_RSA_BITS = 2048


def earliest_not_after(certificates: Iterable[x509.Certificate]) -> float:
    """When the first of some certificates expires, in seconds since 1970."""
    return min(certificate.not_valid_after_utc.timestamp() for certificate in certificates)


def read_certificates(data: bytes, name: str) -> list[x509.Certificate]:
    """The certificates of a PEM file, at least one.

    Args:
        data: The file.
        name: What error messages call it.

    Raises:
        ConfigurationError: It holds none, or a broken one.
    """
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise ConfigurationError(f"{name}: holds no PEM certificate that can be read") from error


def check_pair(chain: bytes, key: bytes, chain_name: str, key_name: str) -> None:
    """Check that a private key belongs to the first certificate of a chain, and is of use.

    Args:
        chain: PEM, the server's own certificate first.
        key: PEM.
        chain_name: What error messages call the chain.
        key_name: What they call the key.

    Raises:
        ConfigurationError: It does not, or gRPC cannot make connections with it.
    """
    found = _PRIVATE_KEY.search(key)
    if found is None:
        raise ConfigurationError(f"{key_name}: holds no PEM private key")
    try:
        private = load_pem_private_key(found.group(), password=None)
        public = private.public_key()
        certified = read_certificates(chain, chain_name)[0].public_key()
    except TypeError as error:
        raise ConfigurationError(f"{key_name}: the key is encrypted") from error
    # The error's text might tell of the key.
    except (ValueError, UnsupportedAlgorithm, AttributeError):
        raise ConfigurationError(f"{key_name}: the private key cannot be read") from None
    if _bytes(public) != _bytes(certified):
        raise ConfigurationError(f"{key_name}: is not the key of the certificate in {chain_name}")
    is_rsa = isinstance(public, rsa.RSAPublicKey) and public.key_size >= _MIN_RSA_BITS
    is_curve = isinstance(public, ec.EllipticCurvePublicKey) and public.curve.name in _CURVES
    if not is_rsa and not is_curve:
        raise ConfigurationError(
            f"{key_name}: gRPC makes connections with RSA keys from {_MIN_RSA_BITS} bits on and "
            "with ECDSA keys on P-256 and P-384 alone"
        )


def _bytes(key: object) -> bytes:
    data: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return data
