import json
import math
from dataclasses import replace

import numpy as np
import pytest

from pairlens.errors import InvalidParameterError
from pairlens.evaluation.journal import Header, Journal, configuration_hash, read_journal
from pairlens.evaluation.records import DrawnMap, Record, Series, SkippedFile

HEADER = Header({"seed": 0, "metrics": {"deletion": {"steps": 8}}, "rows": ["a"]}, {"title": "T"})
FULL = Record(
    "rollout",
    "a/Ünïcode 1.jpg",
    "a",
    values={"deletion": 0.1 + 0.2, "insertion": None, "drop": math.nan},
    curves={"deletion": Series((0.0, 1 / 3, 1.0), (1e-300, math.pi, float(np.float32(0.1))))},
    maps=(DrawnMap("a/1.jpg", "query", np.float32([[1e-30, 2], [3, -0.1]]), (0.5, 0, 3, 4)),),
    notes={"insertion": "the score is 0"},
)


def test_a_record_comes_back_bit_for_bit(tmp_path):
    path = tmp_path / "new" / "journal.jsonl"
    with Journal(path, HEADER) as journal:
        journal.add(FULL)
    contents = read_journal(path)
    assert contents.header == HEADER
    record = contents.records["rollout", "a/Ünïcode 1.jpg"]
    assert record.values == {"deletion": 0.30000000000000004, "insertion": None, "drop": None}
    assert record.curves == FULL.curves
    (drawn,) = record.maps
    assert np.array_equal(drawn.heatmap, FULL.maps[0].heatmap)
    assert drawn.heatmap.dtype == np.float32
    assert (drawn.picture, drawn.role, drawn.region) == ("a/1.jpg", "query", (0.5, 0.0, 3.0, 4.0))
    assert (record.group, record.notes, record.error) == ("a", FULL.notes, "")


def test_a_later_record_takes_the_place_of_an_error(tmp_path):
    path = tmp_path / "journal.jsonl"
    failed = Record("rollout", FULL.case, "", error="no server")
    with Journal(path, HEADER) as journal:
        journal.add(failed)
    with Journal(path, HEADER) as journal:
        assert journal.contents.records["rollout", FULL.case].error == "no server"
        journal.add(FULL)
        journal.refuse("lrp", "it has no rule")
        journal.skip("b/2.jpg", SkippedFile("b/2.jpg", "broken"))
    contents = read_journal(path)
    assert [record.error for record in contents.records.values()] == [""]
    assert contents.refusals == {"lrp": "it has no rule"}
    assert contents.skipped == {"b/2.jpg": SkippedFile("b/2.jpg", "broken")}


@pytest.mark.parametrize("torn", [1, 20, -2, -1])
def test_a_torn_last_line_is_dropped(tmp_path, torn):
    path = tmp_path / "journal.jsonl"
    with Journal(path, HEADER) as journal:
        journal.add(FULL)
        whole = path.stat().st_size
        journal.add(replace(FULL, case="torn"))
    data = path.read_bytes()
    # A torn line may even be whole but for its end.
    path.write_bytes(data[:whole] + data[whole:][:torn])
    assert [case for _, case in read_journal(path).records] == [FULL.case]
    with Journal(path, HEADER) as journal:
        journal.add(replace(FULL, case="next"))
    assert [case for _, case in read_journal(path).records] == [FULL.case, "next"]
    for line in path.read_text().splitlines():
        json.loads(line)


def test_a_torn_first_line_is_no_journal(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text('{"kind": "hea')
    assert read_journal(path).header is None
    with Journal(path, HEADER):
        pass
    assert read_journal(path).header == HEADER


def test_a_line_broken_in_the_middle_is_an_error(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path, HEADER) as journal:
        journal.add(FULL)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:40] + b"\n" + lines[1])
    with pytest.raises(InvalidParameterError, match=r"line 2 of .* is broken"):
        read_journal(path)


def test_another_configuration_is_refused_and_says_what_differs(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path, HEADER) as journal:
        journal.add(FULL)
    before = path.read_bytes()
    other = {"seed": 1, "metrics": {"deletion": {"steps": 16}}, "rows": ["a"], "target": "label"}
    with pytest.raises(InvalidParameterError) as raised:
        Journal(path, Header(other, {}))
    message = raised.value.message
    assert "metrics.deletion.steps was 8 and is 16" in message
    assert "seed was 0 and is 1" in message
    assert 'target was null and is "label"' in message
    assert "rows" not in message
    assert "--fresh" in message
    assert raised.value.field == "directory"
    assert path.read_bytes() == before


def test_fresh_starts_over(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path, HEADER) as journal:
        journal.add(FULL)
    with Journal(path, Header({"seed": 1}, {}), fresh=True) as journal:
        assert not journal.contents.records
    assert read_journal(path).header == Header({"seed": 1}, {})


def test_what_does_not_change_numbers_may_change(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path, HEADER) as journal:
        journal.add(FULL)
    again = Header(HEADER.configuration, {"title": "another"})
    with Journal(path, again):
        pass
    contents = read_journal(path)
    assert contents.header == again
    assert len(contents.records) == 1


def test_two_runs_do_not_share_a_journal(tmp_path):
    pytest.importorskip("fcntl")
    path = tmp_path / "journal.jsonl"
    with Journal(path, HEADER), pytest.raises(InvalidParameterError, match="another evaluation"):
        Journal(path, HEADER)
    Journal(path, HEADER).close()


def test_the_hash_is_of_the_values_not_of_their_order():
    first = configuration_hash({"a": 1, "b": {"c": [1, 2], "d": None}})
    assert first == configuration_hash({"b": {"d": None, "c": (1, 2)}, "a": 1})
    assert first != configuration_hash({"a": 1, "b": {"c": [2, 1], "d": None}})
    # sha256 of {"a":1}
    assert configuration_hash({"a": 1}) == "015abd7f5cc57a2d"


def test_a_picture_that_the_run_made_stays_one(tmp_path):
    (drawn,) = FULL.maps
    path = tmp_path / "journal.jsonl"
    with Journal(path, HEADER) as journal:
        journal.add(replace(FULL, maps=(replace(drawn, made=True), drawn)))
    (record,) = read_journal(path).records.values()
    assert [each.made for each in record.maps] == [True, False]


def test_the_hash_is_not_of_the_cases():
    cases = {"cases": 3, "cases_sha256": "ab"}
    assert Header({**HEADER.configuration, **cases}, {}).hash == HEADER.hash
    assert Header({**HEADER.configuration, "rows": ["b"]}, {}).hash != HEADER.hash
