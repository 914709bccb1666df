"""What a server that strangers can reach says of itself when it starts."""

from __future__ import annotations

import pytest

from pairlens_server.config import ServerSettings
from pairlens_server.rpc.exposure import exposures

_TLS = {"tls_cert_file": "c", "tls_key_file": "k"}
_TOKENS = {"tokens_file": "t"}
_MUTUAL = {**_TLS, "tls_client_ca_file": "ca"}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "[::1]", "localhost"])
def test_nothing_is_said_of_loopback(host):
    assert exposures(ServerSettings(listen=f"{host}:50051")) == []


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "10.0.0.1", "gpu-7.internal"])
def test_an_open_server_says_both(host):
    encryption, tokens = exposures(ServerSettings(listen=f"{host}:50051"))
    assert f"{host}:50051" in encryption
    assert "pictures travel unencrypted" in encryption
    assert "tls_cert_file" in encryption
    assert f"{host}:50051" in tokens
    assert "tokens_file" in tokens


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (_TLS, ["may call everything"]),
        (_TOKENS, ["tokens and pictures travel unencrypted"]),
        (_MUTUAL, ["every client whose certificate"]),
        ({**_TLS, **_TOKENS}, []),
        ({**_MUTUAL, **_TOKENS}, []),
    ],
)
def test_what_is_set_is_not_asked_for(settings, words):
    found = exposures(ServerSettings(listen="0.0.0.0:50051", **settings))
    assert len(found) == len(words)
    assert all(word in text for word, text in zip(words, found, strict=True))
