"""Tokens and certificates, before they meet a server."""

import asyncio
import gc
import traceback
from pathlib import Path

import pytest

from pairlens import _security
from pairlens._channel import ChannelSettings
from pairlens._security import TlsFiles, aio_call_metadata, call_metadata
from pairlens.errors import InvalidParameterError, UnauthenticatedError
from tests.client.certificates import Authority

SECRET = "s3cret-token-of-tests"
REMOTE = "dns:///pairlens.example:50051"


def settings(token: object, target: str = "localhost:1", **more: object) -> ChannelSettings:
    return ChannelSettings(target=target, token=token, **more)


@pytest.mark.parametrize(
    ("target", "local"),
    [
        ("localhost:50051", True),
        ("LOCALHOST:50051", True),
        ("localhost", True),
        ("127.0.0.1:50051", True),
        ("127.8.9.1", True),
        ("[::1]:50051", True),
        ("::1", True),
        ("dns:///localhost:50051", True),
        ("dns:localhost:50051", True),
        ("dns:///127.0.0.1:50051", True),
        ("ipv4:127.0.0.1:1,127.0.0.2:2", True),
        ("ipv6:[::1]:1,[::1]:2", True),
        ("ipv6:%5B::1%5D:1", True),
        ("unix:/run/pairlens.sock", True),
        ("unix:///run/pairlens.sock", True),
        ("unix-abstract:pairlens", True),
        ("pairlens:50051", False),
        ("10.0.0.1:50051", False),
        ("[2001:db8::1]:50051", False),
        ("dns:///pairlens:50051", False),
        # Whom another server of names means by "localhost" is its affair.
        ("dns://8.8.8.8/localhost:50051", False),
        ("ipv4:127.0.0.1:1,10.0.0.1:2", False),
        ("ipv6:[::1]:1,[2001:db8::1]:2", False),
        ("ipv4:", False),
        ("xds:///localhost:1", False),
        ("vsock:1:50051", False),
        ("localhost.example.org:1", False),
        ("127.0.0.1.example.org:1", False),
        ("0.0.0.0:1", False),
    ],
)
def test_what_stays_on_this_machine(target: str, local: bool):
    assert _security.is_local(target) == local
    if local:
        assert call_metadata(settings(SECRET, target))
    else:
        with pytest.raises(InvalidParameterError, match="unencrypted") as caught:
            settings(SECRET, target)
        assert caught.value.field == "token"
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "asked", [{"tls": True}, {"tls": TlsFiles()}, {"token_over_plaintext": True}]
)
def test_a_token_travels_over_tls_or_where_that_is_asked_for(asked: dict[str, object]):
    made = call_metadata(settings(SECRET, REMOTE, **asked))
    assert made == (("authorization", f"Bearer {SECRET}"),)


def test_without_a_token_nothing_is_sent_and_any_target_will_do():
    assert call_metadata(settings(None, REMOTE)) == ()


@pytest.mark.parametrize(
    "bad", ["", " ", f"{SECRET}\n", f" {SECRET}", f"{SECRET}\r\nx-evil: 1", "tökén", 7, b"bytes"]
)
def test_what_is_no_token_is_refused_and_not_shown(bad: object):
    with pytest.raises(InvalidParameterError, match="printable") as caught:
        settings(bad)
    assert SECRET not in str(caught.value)
    asked = settings(lambda: bad)
    with pytest.raises(InvalidParameterError, match="printable") as caught:
        call_metadata(asked)
    assert caught.value.field == "token"
    assert SECRET not in str(caught.value)


def test_none_from_a_function_is_no_token():
    with pytest.raises(InvalidParameterError, match="printable"):
        call_metadata(settings(lambda: None))


def test_a_function_is_asked_for_each_call():
    tokens = iter(["first", "second"])
    asked = settings(lambda: next(tokens))
    assert [call_metadata(asked)[0][1] for _ in range(2)] == ["Bearer first", "Bearer second"]


def test_a_function_that_fails():
    def broken() -> str:
        raise OSError(f"vault refused {SECRET}")

    with pytest.raises(UnauthenticatedError, match=r"failed: OSError$") as caught:
        call_metadata(settings(broken))
    assert caught.value.code == "UNAUTHENTICATED"
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.filterwarnings("error")
def test_a_function_that_is_awaited_is_not_for_threads():
    async def token() -> str:
        return SECRET

    with pytest.raises(InvalidParameterError, match="is for AsyncClient") as caught:
        call_metadata(settings(token))
    gc.collect()
    assert caught.value.field == "token"


@pytest.mark.parametrize("returned", [None, "", 7, "two\nlines"])
async def test_a_function_that_returns_no_token(returned: object):
    with pytest.raises(InvalidParameterError, match="a token is printable"):
        call_metadata(settings(lambda: returned))
    with pytest.raises(InvalidParameterError, match="a token is printable"):
        await aio_call_metadata(settings(lambda: returned))


def test_a_token_is_in_no_representation():
    asked = settings(SECRET, REMOTE, tls=True)
    assert SECRET not in repr(asked)
    assert SECRET not in str(asked)
    with pytest.raises(InvalidParameterError) as caught:
        settings(SECRET, REMOTE)
    assert SECRET not in "".join(traceback.format_exception_only(caught.value))
    assert SECRET not in repr(caught.value.__dict__)


async def test_a_slow_function_does_not_hold_up_the_event_loop():
    released = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow() -> str:
        # Only an event loop that goes on can answer.
        asyncio.run_coroutine_threadsafe(released.wait(), loop).result(timeout=10)
        return SECRET

    waiting = asyncio.create_task(aio_call_metadata(settings(slow)))
    await asyncio.sleep(0)
    released.set()
    assert await waiting == (("authorization", f"Bearer {SECRET}"),)
    assert await aio_call_metadata(settings("fixed")) == (("authorization", "Bearer fixed"),)


@pytest.mark.parametrize("given", ["cert_file", "key_file"])
def test_a_certificate_goes_with_its_key(given: str):
    missing = {"cert_file": "key_file", "key_file": "cert_file"}[given]
    with pytest.raises(InvalidParameterError, match=f"{given} is given without") as caught:
        TlsFiles(**{given: "x.pem"})
    assert caught.value.field == missing


def test_an_empty_name_is_none():
    with pytest.raises(InvalidParameterError, match="server_name is empty"):
        TlsFiles(server_name="")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    authority = Authority(tmp_path)
    cert, key = authority.issue("me")
    other = authority.issue("other")[1]
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    (tmp_path / "broken.pem").write_text(
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    )
    (tmp_path / "locked.pem").write_bytes(_locked(key.read_bytes()))
    return {
        "ca": authority.ca_file,
        "cert": cert,
        "key": key,
        "other": other,
        "none": tmp_path / "none.pem",
        "folder": tmp_path,
        **{name: tmp_path / name for name in ("notes.txt", "binary", "broken.pem", "locked.pem")},
    }


def _locked(key: bytes) -> bytes:
    from cryptography.hazmat.primitives import serialization

    loaded = serialization.load_pem_private_key(key, None)
    return loaded.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )


@pytest.mark.parametrize(
    ("given", "field", "why"),
    [
        ({"ca_file": "none"}, "ca_file", "cannot be read: No such file"),
        ({"ca_file": "folder"}, "ca_file", "cannot be read: Is a directory"),
        ({"ca_file": "notes.txt"}, "ca_file", "holds no certificates"),
        ({"ca_file": "binary"}, "ca_file", "holds no certificates"),
        ({"ca_file": "broken.pem"}, "ca_file", "holds no certificates"),
        ({"cert_file": "none", "key_file": "key"}, "cert_file", "cannot be read"),
        ({"cert_file": "cert", "key_file": "none"}, "key_file", "cannot be read"),
        ({"cert_file": "key", "key_file": "key"}, "cert_file", "holds no certificate"),
        ({"cert_file": "cert", "key_file": "cert"}, "key_file", "holds no private key"),
        ({"cert_file": "cert", "key_file": "other"}, "key_file", "is not the key of"),
        ({"cert_file": "cert", "key_file": "locked.pem"}, "key_file", "has a password"),
        ({"cert_file": "broken.pem", "key_file": "key"}, "cert_file", "or broken ones"),
    ],
)
def test_files_that_cannot_be_used_are_named(files, given, field: str, why: str):
    asked = TlsFiles(**{name: files[which] for name, which in given.items()})
    with pytest.raises(InvalidParameterError, match=why) as caught:
        _security.credentials(asked)
    assert caught.value.field == field
    assert caught.value.message.startswith(f"{field}: {files[given[field]]} ")


def test_files_that_can_be_used(files):
    _security.credentials(TlsFiles())
    ca = files["ca"].read_bytes()
    files["ca"].write_bytes("# Főtanúsítvány\n".encode() + ca)
    _security.credentials(
        TlsFiles(ca_file=str(files["ca"]), cert_file=files["cert"], key_file=files["key"])
    )
