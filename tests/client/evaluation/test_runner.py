import threading
import time
from pathlib import Path

import pytest

from pairlens.errors import (
    ImageUndecodableError,
    InvalidParameterError,
    MethodUnsupportedError,
    UnavailableError,
)
from pairlens.evaluation.protocol import UnusableFileError
from pairlens.evaluation.records import Row, SkippedFile
from pairlens.evaluation.runner import run_protocol
from tests.client.evaluation.fakes import FakeProtocol, number

ROOT = Path(__file__).parents[3]


def run(protocol, directory, **options):
    return run_protocol(protocol, directory, progress=False, **options)


def test_every_row_of_every_case(tmp_path):
    protocol = FakeProtocol(6)
    evaluation = run(protocol, tmp_path)
    assert evaluation.complete
    assert len(protocol.ran) == len(set(protocol.ran)) == 12
    assert {(record.row, record.case): record.values["good"] for record in evaluation.records} == {
        (row, case): number(row, case, "good")
        for row in ("rollout", "random")
        for case in protocol.cases()
    }


def test_case_by_case(tmp_path):
    protocol = FakeProtocol(4)
    run(protocol, tmp_path, concurrency=1)
    assert protocol.ran == [
        (row, case) for case in ("a/0", "b/0", "a/1", "b/1") for row in ("rollout", "random")
    ]


def test_without_a_directory_nothing_stays(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert run(FakeProtocol(2), None).complete
    assert list(tmp_path.iterdir()) == []


def test_no_more_at_once_than_asked_for(tmp_path):
    at_once, most, lock = 0, 0, threading.Lock()

    def before(row, case):
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.01)
        with lock:
            at_once -= 1

    run(FakeProtocol(12, before=before), tmp_path, concurrency=3)
    assert most == 3
    with pytest.raises(InvalidParameterError, match="concurrency"):
        run(FakeProtocol(), tmp_path, concurrency=0)


def test_a_limit_takes_the_first_cases(tmp_path):
    evaluation = run(FakeProtocol(6), tmp_path, limit=3)
    assert evaluation.planned == 3
    assert {record.case for record in evaluation.records} == {"a/0", "b/0", "a/1"}


def test_controls_can_be_left_out(tmp_path):
    evaluation = run(FakeProtocol(2), tmp_path, controls=False)
    assert [row.name for row in evaluation.rows] == ["rollout"]


@pytest.mark.parametrize(
    ("error", "file"),
    [
        (ImageUndecodableError("it is broken"), SkippedFile("a/1", "it is broken")),
        (UnusableFileError("other/x.jpg", "gone"), SkippedFile("other/x.jpg", "gone")),
    ],
)
def test_a_file_that_cannot_be_used_leaves_its_case_out(tmp_path, error, file):
    def before(row, case):
        if case == "a/1" and row == "random":
            raise error

    evaluation = run(FakeProtocol(6, before=before), tmp_path)
    assert evaluation.complete
    assert evaluation.planned == 5
    assert evaluation.skipped == tuple(
        sorted((SkippedFile("a/notes.txt", "no picture"), file), key=lambda item: item.path)
    )
    # Also for the row that could use it: rows are compared over the same cases.
    assert {line["cases"] for line in evaluation.table()} == {5}
    again = FakeProtocol(6)
    run(again, tmp_path)
    assert again.ran == []


def test_a_refused_method_is_a_row_that_says_why(tmp_path):
    rows = (Row("rollout"), Row("lrp"), Row("never", refusal="the model has no attention"))

    def before(row, case):
        assert row != "never"
        if row == "lrp":
            raise MethodUnsupportedError("no rule for its pooling", field="method.lrp")

    protocol = FakeProtocol(20, rows=rows, before=before)
    evaluation = run(protocol, tmp_path, concurrency=2)
    assert evaluation.complete
    assert evaluation.row("lrp").refusal == "no rule for its pooling"
    assert sum(row == "lrp" for row, _ in protocol.ran) <= 5  # those under way
    assert [line["row"] for line in evaluation.table()] == ["rollout", "lrp", "never"]
    again = FakeProtocol(20, rows=rows)
    run(again, tmp_path)
    assert again.ran == []


def test_a_wrong_parameter_ends_the_run_at_once(tmp_path):
    def before(row, case):
        raise InvalidParameterError("block is from 0 to 5, not 9", field="method.rollout.block")

    protocol = FakeProtocol(100, before=before)
    with pytest.raises(InvalidParameterError, match="block is from 0 to 5") as raised:
        run(protocol, tmp_path)
    assert raised.value.message.startswith(("rollout: ", "random: "))
    assert len(protocol.ran) <= 10


def test_a_bad_picture_ends_no_run(tmp_path):
    def before(row, case):
        if case == "b/1":
            raise InvalidParameterError("outside of the picture", field="region.boxes[0]")

    evaluation = run(FakeProtocol(6, before=before), tmp_path)
    assert len(evaluation.failures) == 2
    assert len(evaluation.records) == 10


def test_a_server_that_is_gone_ends_the_run(tmp_path):
    def before(row, case):
        if case != "a/0":
            raise UnavailableError("no pairlens server can be reached")

    protocol = FakeProtocol(100, before=before)
    with pytest.raises(UnavailableError):
        run(protocol, tmp_path, concurrency=2)
    assert len(protocol.ran) < 20
    again = FakeProtocol(100)
    assert run(again, tmp_path).complete
    assert len(again.ran) == 198


def test_a_bug_is_not_swallowed(tmp_path):
    def before(row, case):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(FakeProtocol(before=before), tmp_path)
