"""Channels over TLS, and what is said where they cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pairlens._channel import ChannelSettings, open_aio_channel, open_channel
from pairlens._security import TlsFiles
from pairlens.errors import InvalidParameterError, UnavailableError
from pairlens.v1.model_service_pb2 import ListModelsRequest
from pairlens.v1.model_service_pb2_grpc import ModelServiceStub
from tests.client.certificates import Authority, server_credentials
from tests.client.scripted import Running
from tests.client.test_channel import TIMEOUT_S, failure, models


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def secured(authority: Authority) -> Iterator[Running]:
    """A server with a certificate for its address."""
    running = Running(credentials=server_credentials(*authority.issue("127.0.0.1")))
    yield running
    running.stop()


@pytest.fixture
def asking(authority: Authority) -> Iterator[Running]:
    """A server that asks clients for certificates, too."""
    pair = authority.issue("127.0.0.1")
    running = Running(credentials=server_credentials(*pair, client_ca=authority.ca_file))
    yield running
    running.stop()


def encrypted(server: Running, **files: object) -> ChannelSettings:
    return ChannelSettings(target=server.target, tls=TlsFiles(**files))


async def test_tls(secured: Running, authority: Authority):
    settings = encrypted(secured, ca_file=authority.ca_file)
    assert models(settings) == 2
    async with open_aio_channel(settings) as channel:
        answer = await ModelServiceStub(channel).ListModels(ListModelsRequest(), timeout=TIMEOUT_S)
    assert len(answer.models) == 2


def test_mutual_tls(asking: Running, authority: Authority):
    cert, key = authority.issue("me")
    files = {"ca_file": authority.ca_file, "cert_file": cert, "key_file": key}
    assert models(encrypted(asking, **files)) == 2


def test_a_server_known_by_another_name(authority: Authority):
    server = Running(credentials=server_credentials(*authority.issue("pairlens.internal")))
    try:
        known = {"ca_file": authority.ca_file, "server_name": "pairlens.internal"}
        assert models(encrypted(server, **known)) == 2
        error = failure(encrypted(server, ca_file=authority.ca_file))
        assert type(error) is UnavailableError
        assert "for another name than the target's" in error.message
    finally:
        server.stop()


def unreachable(settings: ChannelSettings, why: str) -> None:
    error = failure(settings)
    assert type(error) is UnavailableError
    assert f"can be reached at {settings.target}: {why}" in error.message


def test_tls_where_there_is_none(server: Running, authority: Authority):
    unreachable(encrypted(server, ca_file=authority.ca_file), "it speaks no TLS")


def test_plaintext_where_there_is_tls(secured: Running):
    unreachable(ChannelSettings(target=secured.target), "it hung up at once; it may ask for TLS")


def test_an_authority_that_nobody_knows(secured: Running, tmp_path: Path):
    other = Authority(tmp_path, "other")
    unreachable(encrypted(secured, ca_file=other.ca_file), "its certificate is signed by nobody")
    unreachable(encrypted(secured), "its certificate is signed by nobody")


def test_a_certificate_that_has_expired(authority: Authority):
    pair = authority.issue("127.0.0.1", days_left=-1)
    server = Running(credentials=server_credentials(*pair))
    try:
        unreachable(encrypted(server, ca_file=authority.ca_file), "its certificate has expired")
    finally:
        server.stop()


def test_a_client_without_the_certificate_that_is_asked_for(
    asking: Running, authority: Authority, tmp_path: Path
):
    unreachable(encrypted(asking, ca_file=authority.ca_file), "it hung up at once")
    cert, key = Authority(tmp_path, "other").issue("me")
    files = {"ca_file": authority.ca_file, "cert_file": cert, "key_file": key}
    unreachable(encrypted(asking, **files), "it hung up at once")


def test_files_are_read_anew_for_each_channel(secured: Running, authority: Authority):
    file = authority.ca_file
    settings = encrypted(secured, ca_file=file)
    whole = file.read_bytes()
    file.unlink()
    with pytest.raises(InvalidParameterError, match="ca_file") as caught:
        open_channel(settings)
    assert caught.value.field == "ca_file"
    file.write_bytes(whole)
    assert models(settings) == 2
