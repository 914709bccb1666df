"""Some hundreds of mutated calls of a real server; `python -m tests.fuzz` throws more."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.cases import MAX_REQUEST_BYTES, METHODS, Case, case_of, numbered, picture_case
from tests.fuzz.served import fuzzed_server
from tests.fuzz.throwing import Tally, raw_bytes, throw
from tests.fuzz.verdicts import Outcome, problem_with
from tests.fuzz.vitals import Vitals, answers, grown, log_problems, rested
from tests.server_process import ServerProcess

_WARM_UP, _CASES = 150, 600
_EXAMPLES = 40


@dataclass
class Storm:
    """A server, and what came of the calls thrown at it."""

    server: ServerProcess
    right: list[bytes]
    before: Vitals
    tally: Tally


@pytest.fixture(scope="module")
def storm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storm]:
    with fuzzed_server(tmp_path_factory.mktemp("fuzzed")) as server:
        right = answers(server.target)
        asyncio.run(throw(server.target, numbered("warm-up", _WARM_UP), at_once=16))
        before = rested(server)
        tally = asyncio.run(throw(server.target, numbered("storm", _CASES), at_once=16))
        yield Storm(server, right, before, tally)
        assert server.stop() == 0, server.read_log()
        assert not log_problems(server.read_log())


def test_every_call_is_answered_or_refused_as_the_contract_says(storm):
    assert storm.tally.outcomes.total() == _CASES
    assert not [(case.path, problem) for case, problem in storm.tally.findings]


def test_the_calls_got_everywhere(storm):
    """Else the test above would say little."""
    outcomes = storm.tally.outcomes
    assert outcomes["OK"] > _CASES / 10
    for reason in ("INVALID_PARAMETER", "IMAGE_UNDECODABLE", "UNAUTHENTICATED"):
        assert any(label.endswith(reason) for label in outcomes), outcomes
    assert {case.path for case in numbered("storm", _CASES)} == set(METHODS)


@given(st.randoms(use_true_random=False), st.sampled_from([case_of, picture_case]))
@settings(
    max_examples=_EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_what_hypothesis_makes_smaller_when_it_fails(storm, random, make):
    case = make(random)
    tally = asyncio.run(throw(storm.server.target, [case], at_once=1))
    assert not tally.findings, tally.findings[0][1]


async def test_connections_that_do_not_speak_grpc(storm):
    host, _, port = storm.server.target.rpartition(":")
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    frames = [
        preface,
        preface + b"\xff" * 1000,
        # A length of 16 MB, an unknown frame, a window of nothing, headers that are none.
        preface + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",
        preface + b"\x00\x00\x04\x77\x00\x00\x00\x00\x00abcd",
        preface + b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00",
        preface + b"\x00\x00\x05\x01\x04\x00\x00\x00\x01\xff\xff\xff\xff\xff",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(600),
        b"\x00" * 100_000,
    ]
    assert len([answer async for answer in raw_bytes(host, int(port), frames)]) == len(frames)
    assert await asyncio.to_thread(answers, storm.server.target) == storm.right


async def test_methods_that_are_not_there(storm):
    paths = ("/pairlens.v1.AdminService/Shutdown", "/pairlens.v2.AdminService/Drain", "/", "/a/b")
    cases = [Case(path, b"\x0a\x00", (), 5.0) for path in paths]
    tally = await throw(storm.server.target, cases, at_once=1)
    assert tally.outcomes == {"UNIMPLEMENTED": len(paths)}


def test_the_server_is_well_afterwards(storm):
    """Last in this file."""
    after = rested(storm.server, storm.before)
    assert not grown(storm.before, after)
    assert answers(storm.server.target) == storm.right


def test_a_finding_can_be_thrown_again(tmp_path):
    (case,) = numbered("storm", 1)
    for number, kept in enumerate((case, *list(numbered("metadata", 300))[250:])):
        kept.save(tmp_path / f"{number}.json", problem="a test")
        assert Case.load(tmp_path / f"{number}.json") == kept


def test_a_seed_makes_the_same_cases_in_another_process():
    script = (
        "import hashlib, sys; from tests.fuzz.cases import numbered\n"
        "sys.stdout.write(hashlib.sha256(repr(list(numbered('s', 200))).encode()).hexdigest())"
    )
    command = [sys.executable, "-c", script]
    there = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert there == hashlib.sha256(repr(list(numbered("s", 200))).encode()).hexdigest()


CASE = Case("/pairlens.v1.ModelService/ListModels", b"", (), 5.0)


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Outcome(grpc.StatusCode.UNKNOWN), "UNKNOWN without details"),
        (Outcome(grpc.StatusCode.INTERNAL), "INTERNAL without details"),
        (Outcome(grpc.StatusCode.RESOURCE_EXHAUSTED), "RESOURCE_EXHAUSTED without details"),
        (Outcome(grpc.StatusCode.UNAVAILABLE), "UNAVAILABLE without details"),
        (Outcome(grpc.StatusCode.CANCELLED), "though the client did not"),
        (Outcome(grpc.StatusCode.UNIMPLEMENTED), "a method of the contract"),
        (Outcome(grpc.StatusCode.OK, b"\xff"), "the answer is no ListModelsResponse"),
        (Outcome(grpc.StatusCode.NOT_FOUND, status=b"\x08\x03"), "two codes"),
        (Outcome(grpc.StatusCode.INTERNAL, status=b"\x08\x0d"), "not in the contract"),
    ],
)
def test_what_is_a_finding(outcome, words):
    assert words in problem_with(CASE, outcome)


def test_what_grpc_itself_says_is_none():
    assert problem_with(CASE, Outcome(grpc.StatusCode.DEADLINE_EXCEEDED)) == ""
    large = Outcome(grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert problem_with(replace(CASE, data=bytes(MAX_REQUEST_BYTES + 1)), large) == ""
    assert problem_with(replace(CASE, metadata=(("a", "b" * 8000),)), large) == ""
