"""Tokens: who they are, what they are good for, and how they are rotated."""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import pkgutil
import time

import pytest
import yaml

import pairlens.v1
from pairlens_server import watched_files
from pairlens_server.errors import (
    ConfigurationError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from pairlens_server.rpc import auth
from pairlens_server.rpc.auth import Authorizer, certificate_name
from pairlens_server.rpc.server import SERVICES
from pairlens_server.watched_files import INTERVAL_S

RETRIEVAL, NEXT, OPERATOR = "retrieval-token-1", "retrieval-token-2", "operator-token-77"
EXPLAIN = "/pairlens.v1.ExplanationService/Explain"
DRAIN = "/pairlens.v1.AdminService/Drain"
ENTRIES = [
    {"name": "retrieval", "token": RETRIEVAL},
    {"name": "retrieval", "token": NEXT},
    {"name": "ops", "sha256": hashlib.sha256(OPERATOR.encode()).hexdigest(), "admin": True},
]


def write(path, content):
    """In the place of the file at once, as rotation should."""
    new = path.with_suffix(".new")
    new.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    new.replace(path)


@pytest.fixture
def path(tmp_path):
    write(tmp_path / "tokens.yaml", ENTRIES)
    return tmp_path / "tokens.yaml"


@pytest.fixture
def authorizer(path):
    return Authorizer.from_file(path)


def bearer(token):
    return (("user-agent", "grpc"), ("authorization", f"Bearer {token}"))


def let_time_pass(authorizer):
    """As if the file had been looked at long ago."""
    authorizer._files._looked_s -= INTERVAL_S


@pytest.mark.parametrize(
    ("token", "name"), [(RETRIEVAL, "retrieval"), (NEXT, "retrieval"), (OPERATOR, "ops")]
)
def test_every_token_stands_for_its_name(authorizer, token, name):
    assert authorizer.check(EXPLAIN, bearer(token), {}) == name


@pytest.mark.parametrize(
    "value", [f"bearer {RETRIEVAL}", f"BEARER   {RETRIEVAL} ", f"Bearer {RETRIEVAL}".encode()]
)
def test_spellings_of_the_scheme(authorizer, value):
    assert authorizer.check(EXPLAIN, (("authorization", value),), {}) == "retrieval"


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ((), "asks for a token"),
        ((("authorization", ""),), "not of the form"),
        ((("authorization", "Bearer"),), "not of the form"),
        ((("authorization", "Bearer "),), "not of the form"),
        ((("authorization", RETRIEVAL),), "not of the form"),
        ((("authorization", f"Basic {RETRIEVAL}"),), "not of the form"),
        ((("authorization", "Bearer someone-elses-token"),), "not known"),
        ((("authorization", f"Bearer {RETRIEVAL}x"),), "not known"),
        ((("authorization", f"Bearer {RETRIEVAL[:-1]}"),), "not known"),
        ((("authorization", f"Bearer {RETRIEVAL.upper()}"),), "not known"),
        ((("authorization", f"Bearer {ENTRIES[2]['sha256']}"),), "not known"),
        ((("authorization", "Bearer t\udcffken-of-strange-letters"),), "not known"),
        (bearer(RETRIEVAL) + bearer(NEXT), "more than one"),
        ((("pairlens-client", RETRIEVAL),), "asks for a token"),
    ],
)
def test_anything_else_is_refused(authorizer, metadata, words):
    with pytest.raises(UnauthenticatedError, match=words) as refused:
        authorizer.check(EXPLAIN, metadata, {"x509_common_name": [b"retrieval"]})
    assert RETRIEVAL not in str(refused.value)


def test_administration_takes_an_administrators_token(authorizer):
    assert authorizer.check(DRAIN, bearer(OPERATOR), {}) == "ops"
    with pytest.raises(PermissionDeniedError) as refused:
        authorizer.check(DRAIN, bearer(RETRIEVAL), {})
    assert refused.value.caller == "retrieval"
    with pytest.raises(UnauthenticatedError):
        authorizer.check(DRAIN, (), {})


def test_without_a_file_everybody_may_do_everything():
    authorizer = Authorizer.from_file(None)
    assert authorizer.check(DRAIN, (), {}) == ""
    # A token of another server's is none of ours.
    assert authorizer.check(EXPLAIN, bearer("whatever"), {}) == ""
    assert authorizer.check(EXPLAIN, (), {"x509_common_name": [b"indexer"]}) == "indexer"


def test_all_tokens_are_compared_in_constant_time(authorizer, monkeypatch):
    compared = []

    def compare(a, b):
        compared.append((len(a), len(b)))
        return a == b

    monkeypatch.setattr(auth.hmac, "compare_digest", compare)
    authorizer.check(EXPLAIN, bearer(RETRIEVAL), {})
    assert compared == [(32, 32)] * 3


@pytest.mark.parametrize(
    ("context", "name"),
    [
        ({}, ""),
        ({"transport_security_type": [b"ssl"]}, ""),
        ({"x509_common_name": [b"indexer"], "x509_subject_alternative_name": [b"b"]}, "indexer"),
        ({"x509_common_name": [b""], "x509_subject_alternative_name": [b"a", b"b"]}, "a"),
        (
            {"x509_subject_alternative_name": [b"spiffe://cluster/indexer"]},
            "spiffe://cluster/indexer",
        ),
        ({"x509_common_name": [b"two\nlines"]}, ""),
        ({"x509_common_name": ["Größe".encode()]}, "Größe"),
        ({"x509_common_name": [b"x" * 200]}, "x" * 100),
    ],
)
def test_names_of_certificates(context, name):
    assert certificate_name(context) == name


SECRET = "hunter2-hunter2-hunter2"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "not a list of tokens"),
        ([], "not a list of tokens"),
        (SECRET, "not a list of tokens"),
        ({"retrieval": SECRET}, "not a list of tokens"),
        ([SECRET], "entry 1 is not a mapping"),
        ([None], "entry 1 is not a mapping"),
        ([*ENTRIES, {"token": SECRET}], "entry 4: name is missing"),
        ([{"name": "a"}], r"entry 1 \(a\): needs token or sha256, and not both"),
        (
            [{"name": "a", "token": SECRET, "sha256": "0" * 64}],
            r"entry 1 \(a\): needs token or sha256, and not both",
        ),
        ([{"name": "a", "token": "x" * 15}], r"entry 1 \(a\): a token has 16 to 1024 characters"),
        ([{"name": "a", "token": SECRET * 100}], r"entry 1 \(a\): a token has 16 to 1024"),
        ([{"name": "a", "token": SECRET + " b"}], r"entry 1 \(a\): a token is printable ASCII"),
        ([{"name": "a", "token": SECRET + "ö"}], r"entry 1 \(a\): a token is printable ASCII"),
        ([{"name": "a", "token": 1234567890123456}], r"entry 1 \(a\): token is text: put it in"),
        ([{"name": "a", "sha256": "1" * 63}], r"entry 1 \(a\): sha256 is 64 hexadecimal digits"),
        ([{"name": "a", "sha256": int("1" * 64)}], r"entry 1 \(a\): sha256 is 64 hexadecimal"),
        ([{"name": "a", "sha256": SECRET}], r"entry 1 \(a\): sha256 is 64 hexadecimal digits"),
        ([{"name": "a", "token": SECRET, "admin": "yes"}], r"entry 1 \(a\): admin is true or"),
        ([{"name": "a", "token": SECRET, "admin": 1}], r"entry 1 \(a\): admin is true or false"),
        ([{"name": "a", "token": SECRET, SECRET: 1}], r"entry 1 \(a\): has a key besides"),
        ([{"name": "a", "token": SECRET, 7: 1}], r"entry 1"),
        ([{"name": SECRET * 5, "token": SECRET}], "entry 1: name is letters"),
        ([{"name": "two words", "token": SECRET}], "entry 1: name is letters"),
        ([{"name": "", "token": SECRET}], "entry 1: name is letters"),
        ([{"name": 7, "token": SECRET}], "entry 1: name is letters"),
        (
            [{"name": "a", "token": SECRET}, {"name": "b", "token": SECRET}],
            "entries 1 and 2 are the same token",
        ),
        (
            [
                *ENTRIES,
                {"name": "x", "sha256": hashlib.sha256(NEXT.encode()).hexdigest().upper()},
            ],
            "entries 2 and 4 are the same token",
        ),
        (f"- name: a\n  token: *{SECRET}", "no YAML: line 2"),
        (f"- name: a\n  token: !{SECRET}", "no YAML: line 2"),
        (f"- name: a\n token: {SECRET}", "no YAML: line 2"),
        (f"- name: a\n  token: '{SECRET}", "no YAML: line"),
        ("[" * 1500, "no YAML"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_and_no_token(tmp_path, content, words):
    path = tmp_path / "tokens.yaml"
    write(path, content)
    with pytest.raises(ConfigurationError, match=words) as refused:
        Authorizer.from_file(path)
    text = str(refused.value)
    assert text.startswith("tokens_file: tokens.yaml: ")
    assert "\n" not in text
    # Nor in what a traceback would show.
    shown: BaseException | None = refused.value
    while shown is not None:
        assert SECRET not in repr(shown)
        shown = None if shown.__suppress_context__ else shown.__cause__ or shown.__context__


def test_a_file_that_is_not_there_or_no_text(tmp_path):
    with pytest.raises(ConfigurationError, match=r"tokens_file: none\.yaml: No such file"):
        Authorizer.from_file(tmp_path / "none.yaml")
    with pytest.raises(ConfigurationError, match=r"tokens_file: .*: Is a directory"):
        Authorizer.from_file(tmp_path)
    (tmp_path / "latin").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="tokens_file: latin: no UTF-8"):
        Authorizer.from_file(tmp_path / "latin")


def test_secrets_are_not_shown(authorizer):
    digest = hashlib.sha256(RETRIEVAL.encode())
    shown = repr(authorizer) + repr(vars(authorizer)) + repr(authorizer._grants)
    assert "retrieval" in shown
    assert RETRIEVAL not in shown
    assert digest.hexdigest() not in shown
    assert repr(digest.digest())[2:-1] not in shown


def test_rotation_without_a_restart(path, authorizer, caplog):
    caplog.set_level(logging.INFO)
    write(path, ENTRIES[1:])
    # At most one look a second.
    assert authorizer.check(EXPLAIN, bearer(RETRIEVAL), {}) == "retrieval"
    let_time_pass(authorizer)
    with pytest.raises(UnauthenticatedError):
        authorizer.check(EXPLAIN, bearer(RETRIEVAL), {})
    assert authorizer.check(EXPLAIN, bearer(NEXT), {}) == "retrieval"
    assert authorizer.check(DRAIN, bearer(OPERATOR), {}) == "ops"
    assert caplog.messages == ["tokens_file: now 2 tokens of 2 callers"]


def test_an_administrator_can_be_demoted(path, authorizer):
    write(path, [*ENTRIES[:2], {**ENTRIES[2], "admin": False}])
    let_time_pass(authorizer)
    with pytest.raises(PermissionDeniedError):
        authorizer.check(DRAIN, bearer(OPERATOR), {})


@pytest.mark.parametrize(
    "broken", ["", "- name: a", f"- name: retrieval\n  token: !{SECRET}", None]
)
def test_a_broken_file_leaves_the_tokens_as_they_were_and_is_told_once(
    path, authorizer, caplog, broken
):
    if broken is None:
        path.unlink()
    else:
        write(path, broken)
    for _ in range(5):
        let_time_pass(authorizer)
        assert authorizer.check(EXPLAIN, bearer(RETRIEVAL), {}) == "retrieval"
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert record.getMessage().startswith("tokens_file: tokens.yaml: ")
    assert "the tokens read before it stay valid" in record.getMessage()
    assert SECRET not in caplog.text
    # And what comes after it is taken.
    write(path, ENTRIES[2:])
    let_time_pass(authorizer)
    with pytest.raises(UnauthenticatedError):
        authorizer.check(EXPLAIN, bearer(RETRIEVAL), {})


def test_a_file_written_in_place_twice_within_a_tick_of_the_clock(path, authorizer, monkeypatch):
    found = path.stat()
    path.write_text(path.read_text().replace(RETRIEVAL, RETRIEVAL[:-1] + "9"))
    assert path.stat().st_size == found.st_size
    monkeypatch.setattr(type(path), "stat", lambda _: found)
    let_time_pass(authorizer)
    assert authorizer.check(EXPLAIN, bearer(RETRIEVAL[:-1] + "9"), {}) == "retrieval"


def test_a_file_with_the_time_of_the_one_before(path, authorizer):
    found = path.stat()
    path.write_text(path.read_text().replace(RETRIEVAL, RETRIEVAL[:-1] + "9"))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    let_time_pass(authorizer)
    assert authorizer.check(EXPLAIN, bearer(RETRIEVAL[:-1] + "9"), {}) == "retrieval"


def test_a_secret_of_kubernetes(tmp_path):
    """The file is a link by way of `..data`, a link to a folder that is put in its place."""
    for name, entries in (("..1", ENTRIES), ("..2", ENTRIES[1:])):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "tokens.yaml", entries)
    (tmp_path / "..data").symlink_to("..1")
    path = tmp_path / "tokens.yaml"
    path.symlink_to("..data/tokens.yaml")
    authorizer = Authorizer.from_file(path)
    authorizer.check(EXPLAIN, bearer(RETRIEVAL), {})
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").replace(tmp_path / "..data")
    let_time_pass(authorizer)
    with pytest.raises(UnauthenticatedError):
        authorizer.check(EXPLAIN, bearer(RETRIEVAL), {})


def test_an_old_file_is_looked_at_and_not_read(path, authorizer, monkeypatch):
    tomorrow = time.time() + 86_400
    monkeypatch.setattr(watched_files.time, "time", lambda: tomorrow)
    let_time_pass(authorizer)
    authorizer.check(EXPLAIN, bearer(RETRIEVAL), {})

    def read_bytes(path):
        raise AssertionError("it was read")

    monkeypatch.setattr(type(path), "read_bytes", read_bytes)
    let_time_pass(authorizer)
    assert authorizer.check(EXPLAIN, bearer(RETRIEVAL), {}) == "retrieval"


def methods_of_the_contract():
    """Of the descriptors, so that nobody has to remember to add one here."""
    names = [module.name for module in pkgutil.iter_modules(pairlens.v1.__path__)]
    for name in names:
        if name.endswith("_pb2"):
            file = importlib.import_module(f"pairlens.v1.{name}").DESCRIPTOR
            for service in file.services_by_name.values():
                for method in service.methods:
                    yield service.full_name, method.name


def test_every_method_of_the_contract_takes_a_token_and_administration_an_administrators(
    authorizer,
):
    methods = list(methods_of_the_contract())
    assert {service for service, _ in methods} == set(SERVICES)
    assert ("pairlens.v1.AdminService", "ReloadModels") in methods
    for service, name in methods:
        path = f"/{service}/{name}"
        with pytest.raises(UnauthenticatedError):
            authorizer.check(path, (), {})
        assert authorizer.check(path, bearer(OPERATOR), {}) == "ops"
        if service == "pairlens.v1.AdminService":
            with pytest.raises(PermissionDeniedError):
                authorizer.check(path, bearer(RETRIEVAL), {})
        else:
            assert authorizer.check(path, bearer(RETRIEVAL), {}) == "retrieval"
