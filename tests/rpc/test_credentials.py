"""TLS of a real port: who gets in, and what changes when files do."""

from __future__ import annotations

import asyncio
import datetime
import logging
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import grpc
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from pairlens_server import watched_files
from pairlens_server.errors import ConfigurationError
from pairlens_server.rpc.auth import certificate_name
from pairlens_server.rpc.certificates import earliest_not_after, read_certificates
from pairlens_server.rpc.credentials import ServerTls
from tests.certificates import TlsFiles, chain, client_credentials, put

_SLOW_S = 0.03  # of a call; some are always under way
_LOOK_S = 0.05


@pytest.fixture(autouse=True)
def _look_often(monkeypatch):
    monkeypatch.setattr(watched_files, "INTERVAL_S", _LOOK_S)


@asynccontextmanager
async def echo_server(credentials: grpc.ServerCredentials) -> AsyncIterator[int]:
    """Answers whom it takes the caller for, a little late; its port."""

    async def call(data, context):
        await asyncio.sleep(_SLOW_S)
        return certificate_name(context.auth_context()).encode()

    server = grpc.aio.server()
    handlers = {"Call": grpc.unary_unary_rpc_method_handler(call)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", handlers),))
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


def connect(port: int, credentials: grpc.ChannelCredentials) -> grpc.aio.Channel:
    # A connection of its own, and the attempt to make it given up at once.
    options = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options)


async def ask(channel: grpc.aio.Channel) -> str:
    return (await channel.unary_unary("/test/Call")(b"", timeout=10)).decode()


async def asked_once(port: int, credentials: grpc.ChannelCredentials) -> str:
    async with connect(port, credentials) as channel:
        return await ask(channel)


async def is_refused(port: int, credentials: grpc.ChannelCredentials) -> bool:
    async with connect(port, credentials) as channel:
        call = channel.unary_unary("/test/Call")(b"", timeout=10)
        code = await call.code()
    assert code in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE)
    return code is grpc.StatusCode.UNAVAILABLE


@pytest.fixture(scope="module")
def authorities():
    return [trustme.CA() for _ in range(4)]


@pytest.fixture
def files(tmp_path, authorities):
    files = TlsFiles.in_folder(tmp_path)
    files.show(authorities[0])
    files.trust(authorities[2])
    return files


async def looked_at_again() -> None:
    await asyncio.sleep(2 * _LOOK_S)


async def test_tls_without_certificates_of_clients(files, authorities):
    async with echo_server(ServerTls(files.cert, files.key).credentials()) as port:
        assert await asked_once(port, client_credentials(authorities[0])) == ""
        assert await is_refused(port, client_credentials(authorities[1]))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                await ask(channel)
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_mutual_tls(files, authorities):
    root, other, own, _ = authorities
    credentials = ServerTls(files.cert, files.key, files.client_ca).credentials()
    async with echo_server(credentials) as port:
        assert await asked_once(port, client_credentials(root, own, "indexer")) == "indexer"
        assert await is_refused(port, client_credentials(root))
        assert await is_refused(port, client_credentials(root, other))
        # The authority of the server is none for its clients.
        assert await is_refused(port, client_credentials(root, root))
        yesterday = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)
        assert await is_refused(port, client_credentials(root, own, not_after=yesterday))


async def test_rotation_of_everything_under_traffic(files, authorities, caplog):
    caplog.set_level(logging.INFO)
    old_root, new_root, old_own, new_own = authorities
    credentials = ServerTls(files.cert, files.key, files.client_ca).credentials()
    async with (
        echo_server(credentials) as port,
        connect(port, client_credentials(old_root, old_own)) as before,
    ):
        answers = []

        async def keep_asking():
            while True:
                answers.append(await ask(before))

        traffic = [asyncio.create_task(keep_asking()) for _ in range(4)]
        await ask(before)
        files.show(new_root)
        files.trust(new_own)
        await looked_at_again()
        # New connections get the new certificate, and need one of the new authority.
        assert await asked_once(port, client_credentials(new_root, new_own)) == "indexer"
        assert await is_refused(port, client_credentials(old_root, new_own))
        assert await is_refused(port, client_credentials(new_root, old_own))
        # What was open goes on, with not one call lost.
        known = len(answers)
        assert await ask(before) == "indexer"
        assert not any(task.done() for task in traffic)
        assert len(answers) > known > 0
        assert set(answers) == {"indexer"}
        for task in traffic:
            task.cancel()
        await asyncio.gather(*traffic, return_exceptions=True)
    (message,) = caplog.messages
    assert message == (
        "tls_cert_file: tls.crt, tls_key_file: tls.key, tls_client_ca_file: ca.crt: new "
        "connections get what stands there now"
    )


async def test_both_authorities_of_clients_while_they_change_over(files, authorities):
    root, _, old_own, new_own = authorities
    files.trust(old_own, new_own)
    credentials = ServerTls(files.cert, files.key, files.client_ca).credentials()
    async with echo_server(credentials) as port:
        assert await asked_once(port, client_credentials(root, old_own)) == "indexer"
        assert await asked_once(port, client_credentials(root, new_own)) == "indexer"


def key_of_another(files, authority):
    put(files.key, authority.issue_cert("localhost").private_key_pem.bytes())


def no_certificate(files, authority):
    put(files.cert, b"nothing")


def no_key_file(files, authority):
    files.key.unlink()


def no_authority(files, authority):
    put(files.client_ca, b"")


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (key_of_another, "tls_key_file: tls.key: is not the key of the certificate in tls_cert_"),
        (no_certificate, "tls_cert_file: tls.crt: holds no PEM certificate that can be read"),
        (no_key_file, "tls_key_file: tls.key: No such file or directory"),
        (no_authority, "tls_client_ca_file: ca.crt: holds no PEM certificate that can be read"),
    ],
)
async def test_what_does_not_fit_is_told_once_and_not_taken(
    files, authorities, caplog, break_it, words
):
    root, _, own, _ = authorities
    credentials = ServerTls(files.cert, files.key, files.client_ca).credentials()
    async with echo_server(credentials) as port:
        break_it(files, root)
        for _ in range(2):
            await looked_at_again()
            assert await asked_once(port, client_credentials(root, own)) == "indexer"
        (record,) = caplog.records
        assert record.levelname == "ERROR"
        assert record.getMessage().startswith(words)
        # What is right again is taken, of whichever authority.
        files.show(authorities[1])
        files.trust(own)
        await looked_at_again()
        assert await asked_once(port, client_credentials(authorities[1], own)) == "indexer"
    # And start-up says the same of such files.
    break_it(files, root)
    with pytest.raises(ConfigurationError, match="^" + words):
        ServerTls(files.cert, files.key, files.client_ca)


async def test_a_secret_of_kubernetes_with_certificates(tmp_path, authorities):
    for name, authority in (("..1", authorities[0]), ("..2", authorities[1])):
        (tmp_path / name).mkdir()
        TlsFiles.in_folder(tmp_path / name).show(authority)
    (tmp_path / "..data").symlink_to("..1")
    files = TlsFiles.in_folder(tmp_path)
    files.cert.symlink_to("..data/tls.crt")
    files.key.symlink_to("..data/tls.key")
    async with echo_server(ServerTls(files.cert, files.key).credentials()) as port:
        assert await asked_once(port, client_credentials(authorities[0])) == ""
        (tmp_path / "..data_tmp").symlink_to("..2")
        (tmp_path / "..data_tmp").replace(tmp_path / "..data")
        await looked_at_again()
        assert await asked_once(port, client_credentials(authorities[1])) == ""


def handshake(port: int, version: ssl.TLSVersion, root: trustme.CA) -> str | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    root.configure_trust(context)
    # What OpenSSL itself would refuse by now.
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as wire,
    ):
        return wire.version()


@contextmanager
def any_version(files: TlsFiles) -> Iterator[int]:
    """A server that also takes old versions; its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1

    def serve():
        while True:
            try:
                plain, _ = listening.accept()
            except OSError:
                return
            with context.wrap_socket(plain, server_side=True) as wire:
                wire.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(10)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_tls_from_1_2_on(files, authorities):
    async def version(port: int, wanted: ssl.TLSVersion) -> str | None:
        return await asyncio.to_thread(handshake, port, wanted, authorities[0])

    async with echo_server(ServerTls(files.cert, files.key).credentials()) as port:
        assert await version(port, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
        assert await version(port, ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
        with pytest.raises(OSError, match=r"EOF|reset|protocol version"):
            await version(port, ssl.TLSVersion.TLSv1_1)
    # Which is the server's doing, since others do speak it with this client.
    with any_version(files) as port:
        assert await version(port, ssl.TLSVersion.TLSv1_1) == "TLSv1.1"


def self_signed(key, days=30.0) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1)
    builder = builder.not_valid_before(now - datetime.timedelta(days=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=days))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
    return builder.sign(
        key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    )


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key, password: bytes | None = None, traditional: bool = False) -> bytes:
    form = serialization.PrivateFormat
    return key.private_bytes(
        serialization.Encoding.PEM,
        form.TraditionalOpenSSL if traditional else form.PKCS8,
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption(),
    )


@pytest.mark.parametrize(
    ("make", "password", "words"),
    [
        (ed25519.Ed25519PrivateKey.generate, None, "gRPC makes connections with RSA keys from"),
        (lambda: ec.generate_private_key(ec.SECP521R1()), None, "gRPC makes connections with"),
        (lambda: ec.generate_private_key(ec.SECP256K1()), None, "gRPC makes connections with"),
        (lambda: rsa.generate_private_key(65537, 1024), None, "gRPC makes connections with RSA"),
        (lambda: ec.generate_private_key(ec.SECP256R1()), b"x", "the key is encrypted"),
    ],
)
def test_keys_that_make_no_connection(files, make, password, words):
    key = make()
    put(files.cert, pem(self_signed(key)))
    put(files.key, key_pem(key, password))
    with pytest.raises(ConfigurationError, match=f"^tls_key_file: tls.key: {words}"):
        ServerTls(files.cert, files.key)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"-----BEGIN PRIVATE KEY-----\nbm90aGluZw==\n-----END PRIVATE KEY-----\n",
        b"-----BEGIN PRIVATE KEY-----\n",
        b"-----BEGIN EC PRIVATE KEY-----\n!!!\n-----END EC PRIVATE KEY-----\n",
    ],
)
def test_no_key(files, content):
    put(files.key, content)
    with pytest.raises(ConfigurationError, match=r"^tls_key_file: tls\.key: "):
        ServerTls(files.cert, files.key)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ec.generate_private_key(ec.SECP256R1()),
        lambda: ec.generate_private_key(ec.SECP384R1()),
        lambda: rsa.generate_private_key(65537, 2048),
    ],
)
@pytest.mark.parametrize("traditional", [False, True])
async def test_keys_that_make_connections(files, make, traditional):
    key = make()
    certificate = pem(self_signed(key))
    put(files.cert, certificate)
    # As `openssl ecparam -genkey` writes them.
    parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    put(files.key, parameters + key_pem(key, traditional=traditional))
    async with echo_server(ServerTls(files.cert, files.key).credentials()) as port:
        options = [("grpc.ssl_target_name_override", "localhost")]
        credentials = grpc.ssl_channel_credentials(certificate)
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
            assert await ask(channel) == ""


def show(files, days: float) -> float:
    """Put a certificate that ends in so many days in place; the end."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = self_signed(key, days)
    put(files.key, key_pem(key))
    put(files.cert, pem(certificate))
    return certificate.not_valid_after_utc.timestamp()


async def test_when_the_certificate_of_new_connections_ends(files):
    old = show(files, 3.0)
    tls = ServerTls(files.cert, files.key)
    async with echo_server(tls.credentials()) as port:
        assert tls.not_after() == old
        new = show(files, 90.0)
        await looked_at_again()
        # Whoever asks is as good a reason to look as a connection is, and takes nothing from it.
        assert tls.not_after() == new
        trusting = grpc.ssl_channel_credentials(files.cert.read_bytes())
        options = [("grpc.ssl_target_name_override", "localhost")]
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", trusting, options) as channel:
            assert await ask(channel) == ""
        # What is not taken does not count.
        put(files.cert, pem(self_signed(ec.generate_private_key(ec.SECP256R1()), 900.0)))
        await looked_at_again()
        assert tls.not_after() == new


def test_the_first_certificate_to_end_counts(authorities):
    key = ec.generate_private_key(ec.SECP256R1())
    long, short = self_signed(key, 400.0), self_signed(key, 12.5)
    expected = time.time() + 12.5 * 86_400
    assert earliest_not_after([long, short]) == pytest.approx(expected, abs=60)
    # After 2050 dates are written in another way.
    far = read_certificates(chain(authorities[0].issue_cert("a")), "far")
    assert earliest_not_after(far) == 32_503_680_000.0
