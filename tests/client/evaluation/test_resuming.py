"""Evaluations that go on from a journal."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pairlens.errors import DeadlineExceededError, InvalidParameterError, QueueFullError
from pairlens.evaluation.protocol import UnusableFileError
from pairlens.evaluation.results import Evaluation
from pairlens.evaluation.runner import EvaluationInterrupted, run_protocol
from tests.client.evaluation.fakes import FakeProtocol

ROOT = Path(__file__).parents[3]


def run(protocol, directory, **options):
    return run_protocol(protocol, directory, progress=False, **options)


def test_killed_half_way_and_resumed_it_gives_the_same_table(tmp_path):
    whole = run(FakeProtocol(40), tmp_path / "whole")
    directory = tmp_path / "killed"
    command = [sys.executable, "-m", "tests.client.evaluation.fakes", str(directory)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    journal = directory / "journal.jsonl"
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        if journal.exists() and journal.read_bytes().count(b"\n") > 25:
            break
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    partial = Evaluation.load(directory)
    done = {(record.row, record.case) for record in partial.records}
    assert 25 <= len(done) < 80
    assert not partial.complete

    protocol = FakeProtocol(40)
    resumed = run(protocol, directory)
    assert len(protocol.ran) == 80 - len(done)  # nothing twice, nothing lost
    assert not set(protocol.ran) & done
    assert resumed.complete
    assert resumed.table() == whole.table()
    assert resumed.hash == whole.hash
    for name in ("csv", "json"):
        for evaluation, place in ((whole, tmp_path / "a"), (resumed, tmp_path / "b")):
            getattr(evaluation, f"write_{name}")(place)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_errors_are_recorded_and_tried_again(tmp_path):
    broken = {("rollout", "a/1"): QueueFullError("full"), ("random", "b/0"): RuntimeError}

    def before(row, case):
        if (row, case) == ("rollout", "a/1"):
            raise QueueFullError("the queue is full")
        if (row, case) == ("random", "b/0"):
            raise DeadlineExceededError("no answer within 3 s")

    evaluation = run(FakeProtocol(6, before=before), tmp_path)
    assert {(item.row, item.case): item.error for item in evaluation.failures} == {
        ("rollout", "a/1"): "the queue is full",
        ("random", "b/0"): "no answer within 3 s",
    }
    assert not evaluation.complete
    assert {line["row"]: (line["cases"], line["failed"]) for line in evaluation.table()} == {
        "rollout": (5, 1),
        "random": (5, 1),
    }
    again = FakeProtocol(6)
    evaluation = run(again, tmp_path)
    assert sorted(again.ran) == sorted(broken)
    assert evaluation.complete
    assert not evaluation.failures


def test_another_configuration_is_refused(tmp_path):
    run(FakeProtocol(4), tmp_path)
    with pytest.raises(InvalidParameterError, match=r"settings\.seed was 0 and is 1"):
        run(FakeProtocol(4, seed=1), tmp_path)
    evaluation = run(FakeProtocol(6, seed=1), tmp_path, fresh=True)
    assert evaluation.complete
    assert evaluation.configuration["settings"]["seed"] == 1


def test_an_interruption_keeps_what_is_done(tmp_path):
    begun = threading.Event()

    def before(row, case):
        if case == "a/2":
            begun.set()
            time.sleep(0.2)

    def interrupt():
        begun.wait(10)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(EvaluationInterrupted) as raised:
        run(FakeProtocol(60, before=before), tmp_path, concurrency=2)
    thread.join()
    assert raised.value.total == 120
    partial = Evaluation.load(tmp_path)
    assert len(partial.records) == raised.value.done
    # What was under way was waited for.
    assert any(record.case == "a/2" for record in partial.records)
    again = FakeProtocol(60)
    assert run(again, tmp_path).complete
    assert len(again.ran) == 120 - raised.value.done


def test_more_cases_are_added_to_those_that_are_there(tmp_path):
    run(FakeProtocol(9), tmp_path / "run", limit=3)
    protocol = FakeProtocol(9)
    longer = run(protocol, tmp_path / "run", limit=5)
    assert sorted(protocol.ran) == sorted(
        (row, case) for case in ("b/1", "a/2") for row in ("rollout", "random")
    )
    whole = run(FakeProtocol(9), tmp_path / "whole", limit=5)
    assert longer.complete
    assert (longer.table(), longer.document()) == (whole.table(), whole.document())
    assert longer.configuration["cases"] == 5
    # A shorter run needs nothing, and shows its own cases alone.
    protocol = FakeProtocol(9)
    shorter = run(protocol, tmp_path / "run", limit=3)
    assert protocol.ran == []
    assert shorter.document() == run(FakeProtocol(9), tmp_path / "short", limit=3).document()
    assert shorter.hash == longer.hash
    # Nothing of the longer one was lost.
    protocol = FakeProtocol(9)
    assert run(protocol, tmp_path / "run", limit=5).document() == whole.document()
    assert protocol.ran == []


def test_files_that_only_a_longer_run_cannot_use_are_not_of_a_shorter_one(tmp_path):
    def before(row, case):
        if case == "b/1":
            raise UnusableFileError("b/1", "broken")

    longer = run(FakeProtocol(6, before=before), tmp_path)
    assert longer.planned == 5
    shorter = run(FakeProtocol(6), tmp_path, limit=2)
    assert (shorter.planned, shorter.complete) == (2, True)
    assert [file.path for file in shorter.skipped] == ["a/notes.txt"]


def test_other_cases_are_no_extension(tmp_path):
    run(FakeProtocol(4), tmp_path)
    run(FakeProtocol(4), tmp_path, limit=2)
    changed = FakeProtocol(6)
    # The fourth, which the shorter run in between did not have.
    changed.contents = {"b/1": "another file"}
    with pytest.raises(InvalidParameterError, match="its first 4 cases are others"):
        run(changed, tmp_path)
    other = FakeProtocol(6)
    other.cases = lambda: ["b/0", "a/0", "b/1", "a/1"]
    with pytest.raises(InvalidParameterError, match="its first 4 cases are others"):
        run(other, tmp_path)


def test_a_journal_that_holds_only_the_hash_of_its_cases(tmp_path):
    """As version 0.1.0 wrote it before evaluations could be extended."""
    whole = run(FakeProtocol(6), tmp_path / "whole")
    run(FakeProtocol(6), tmp_path / "old", limit=4)
    path = tmp_path / "old" / "journal.jsonl"
    first, *others = path.read_text().splitlines(keepends=True)
    header = json.loads(first)
    for name in ("cases", "contents"):
        del header["about"][name]
    path.write_text(json.dumps(header) + "\n" + "".join(others))
    loaded = Evaluation.load(tmp_path / "old")
    assert (loaded.complete, loaded.planned) == (True, 4)
    with pytest.raises(InvalidParameterError, match="its first 4 cases are others"):
        run(FakeProtocol(6), tmp_path / "old", limit=3)  # it cannot be told
    protocol = FakeProtocol(6)
    assert run(protocol, tmp_path / "old").table() == whole.table()
    assert len(protocol.ran) == 4


def test_a_folder_is_one_of_a_run_from_the_beginning(tmp_path):
    protocol = FakeProtocol(2)
    protocol.cases = lambda: [str((tmp_path / "run" / "journal.jsonl").exists())]
    evaluation = run(protocol, tmp_path / "run")
    assert {record.case for record in evaluation.records} == {"True"}
