"""How commands reach a server: flags, and the environment where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pairlens import PairlensError, cli, cli_arguments
from tests.client.certificates import Authority, server_credentials
from tests.client.conftest import Run
from tests.client.scripted import Running, Scripted, fails

TOKEN = "a-token-of-the-tests"
VARIABLES = (
    *("TLS", "CA_FILE", "CERT_FILE", "KEY_FILE", "SERVER_NAME"),
    *("TOKEN", "TOKEN_FILE", "TOKEN_OVER_PLAINTEXT"),
)


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(f"PAIRLENS_{name}", raising=False)


def test_each_variable_of_the_environment_is_in_the_help(run: Run):
    _, whole, _ = run("--help")
    _, command, _ = run("server", "status", "--help")
    text = " ".join(command.split())
    for name in VARIABLES:
        assert f"PAIRLENS_{name} " in whole
        assert f"env PAIRLENS_{name}" in text


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    return path


def sent(service: Scripted) -> object:
    return service.metadata[-1].get("authorization")


def test_a_token_from_a_file(run: Run, service: Scripted, token_file: Path, monkeypatch):
    assert run("models")[0] == 0
    assert sent(service) is None
    assert run("models", "--token-file", token_file)[0] == 0
    assert sent(service) == f"Bearer {TOKEN}"
    monkeypatch.setenv("PAIRLENS_TOKEN", "of-the-environment")
    assert run("models")[0] == 0
    assert sent(service) == "Bearer of-the-environment"
    # A flag says more than the environment.
    assert run("models", "--token-file", token_file)[0] == 0
    assert sent(service) == f"Bearer {TOKEN}"
    monkeypatch.delenv("PAIRLENS_TOKEN")
    monkeypatch.setenv("PAIRLENS_TOKEN_FILE", str(token_file))
    assert run("models")[0] == 0
    assert sent(service) == f"Bearer {TOKEN}"


def test_a_token_is_read_for_each_call(server: Running, token_file: Path, monkeypatch):
    monkeypatch.setenv("PAIRLENS_TOKEN_FILE", str(token_file))
    arguments = cli.build_parser().parse_args(["models", "--server", server.target])
    with cli_arguments.open_client(arguments) as client:
        client.list_models()
        token_file.write_text("another-token")
        client.list_models()
        tokens = [metadata["authorization"] for metadata in server.service.metadata]
        assert tokens == [f"Bearer {TOKEN}", "Bearer another-token"]
        token_file.unlink()
        with pytest.raises(PairlensError, match="cannot read the token file") as caught:
            client.list_models()
    assert caught.value.code == "UNAUTHENTICATED"


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (None, "cannot read the token file token: No such file"),
        (b"", "the token file token holds no token"),
        (b"\n", "the token file token holds no token"),
        ("s\u00e9cret-".encode() + TOKEN.encode(), "the token file token holds no token"),
        (f"{TOKEN}\nx: y".encode(), "the token file token holds no token"),
    ],
)
def test_files_that_hold_no_token(run: Run, tmp_path: Path, contents: bytes | None, message: str):
    if contents is not None:
        (tmp_path / "token").write_bytes(contents)
    code, out, err = run("models", "--token-file", "token")
    assert (code, out) == (2, "")
    assert message in err
    assert TOKEN not in err


def test_a_token_over_plaintext(run: Run, token_file: Path, monkeypatch):
    remote = ("--server", "pairlens.invalid:50051", "--token-file", token_file, "--timeout", 5)
    code, _, err = run("models", *remote)
    assert code == 2
    assert "would travel unencrypted" in err
    assert "--token-over-plaintext" in err
    # Both may go on, to find nobody there.
    assert run("models", *remote, "--token-over-plaintext")[0] == 1
    assert run("models", *remote, "--tls")[0] == 1
    monkeypatch.setenv("PAIRLENS_TOKEN_OVER_PLAINTEXT", "1")
    assert run("models", *remote)[0] == 1


def test_who_has_no_token_is_told_how_to_give_one(run: Run, service: Scripted, token_file: Path):
    service.script.extend([fails("UNAUTHENTICATED", "who is it?", request_id="r-1")] * 2)
    code, out, err = run("server", "reload")
    assert (code, out) == (2, "")
    assert err == (
        "pairlens: who is it? (request r-1); --token-file or PAIRLENS_TOKEN_FILE names a file with "
        "one\n"
    )
    code, _, err = run("server", "reload", "--token-file", token_file)
    assert (code, err) == (2, "pairlens: who is it? (request r-1)\n")


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("http://127.0.0.1:1", "a target is HOST:PORT, without http://"),
        ("127.0.0.1", "without a port it is port 443"),
        ("localhost:1", ""),
    ],
)
def test_targets_that_are_likely_mistakes(run: Run, target: str, why: str):
    code, _, err = run("models", "--server", target, "--timeout", 5)
    assert code == 1
    assert err.startswith(f"pairlens: no pairlens server can be reached at {target}: {why}")
    # Of an address that localhost has twice, whichever was tried last.
    assert ("[::1]" in err) == ("ipv6:" in err and target.startswith("localhost"))


@pytest.mark.parametrize(
    ("flags", "environment", "message"),
    [
        (("--no-tls", "--ca-file", "x"), {}, "--ca-file contradicts --no-tls"),
        (("--cert-file", "x"), {}, "--cert-file needs --key-file"),
        (("--key-file", "x"), {}, "--key-file needs --cert-file"),
        ((), {"KEY_FILE": "x"}, "--key-file needs --cert-file"),
        (("--ca-file", "none.pem"), {}, "--ca-file: none.pem cannot be read: No such file"),
        ((), {"CA_FILE": "notes.txt"}, "--ca-file: notes.txt holds no certificates"),
        ((), {"TLS": "perhaps"}, "PAIRLENS_TLS is one of 1, true"),
        ((), {"TOKEN": "x", "TOKEN_FILE": "y"}, "leave one of them out"),
        ((), {"TOKEN": "x\ny"}, "a token is printable characters"),
    ],
)
def test_mistakes(run: Run, monkeypatch, flags, environment: dict[str, str], message: str):
    for name, value in environment.items():
        monkeypatch.setenv(f"PAIRLENS_{name}", value)
    code, out, err = run("models", *flags)
    assert (code, out) == (2, "")
    assert message in err


def test_there_is_no_flag_for_the_token_itself(run: Run):
    code, _, err = run("models", "--token", TOKEN)
    assert code == 2
    assert "pairlens" in err


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def secured(authority: Authority) -> Iterator[Running]:
    """A server that asks for certificates of clients, under a name of its own."""
    pair = authority.issue("pairlens.internal")
    running = Running(credentials=server_credentials(*pair, client_ca=authority.ca_file))
    yield running
    running.stop()


def test_mutual_tls_by_flags_and_by_the_environment(
    run: Run, secured: Running, authority: Authority, token_file: Path, monkeypatch
):
    cert, key = authority.issue("me")
    files = {
        "ca-file": authority.ca_file,
        "cert-file": cert,
        "key-file": key,
        "server-name": "pairlens.internal",
        "token-file": token_file,
    }
    flags = [str(word) for name, value in files.items() for word in (f"--{name}", value)]
    assert run("models", "--server", secured.target, *flags)[0] == 0
    assert sent(secured.service) == f"Bearer {TOKEN}"
    for name, value in files.items():
        monkeypatch.setenv(f"PAIRLENS_{name.upper().replace('-', '_')}", str(value))
    assert run("models", "--server", secured.target)[0] == 0
    # Turned off, though files are named.
    code, _, err = run("models", "--server", secured.target, "--no-tls")
    assert code == 1
    assert "it may ask for TLS" in err
    monkeypatch.setenv("PAIRLENS_TLS", "0")
    assert run("models", "--server", secured.target)[0] == 1
    assert run("models", "--server", secured.target, "--tls")[0] == 0


def test_status_that_waits_in_vain_says_for_what(run: Run, secured: Running):
    code, _, err = run("server", "status", "--wait", 2, "--server", secured.target)
    assert code == 1
    assert "it may ask for TLS" in err
