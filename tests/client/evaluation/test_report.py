import re
from dataclasses import replace

import pytest

from pairlens.evaluation.report import write_report
from tests.client.evaluation.made_evaluation import HOSTILE, MEASURES, made_evaluation
from tests.client.evaluation.outline import Outline

METHODS = {"rollout": 0.3, "grad_cam(rule=libra, layer=3)": 0.2, "attention": 0.25}
CONTROLS = {"random": 0.4, "centre_gaussian": 0.32}


@pytest.fixture
def evaluation(tmp_path):
    return made_evaluation(tmp_path, METHODS, CONTROLS)


@pytest.fixture
def report(evaluation, tmp_path):
    return write_report(evaluation, tmp_path / "report.html").read_text(encoding="utf-8")


def test_tags_are_balanced_and_links_lead_somewhere(report):
    outline = Outline(report)
    assert outline.open == []
    ids = outline.values("id")
    assert len(set(ids)) == len(ids)
    links = outline.values("href")
    assert links
    assert {link[1:] for link in links} <= set(ids)


def test_everything_is_said(report, evaluation):
    text = " ".join("".join(Outline(report).words).split())
    for row in evaluation.rows:
        assert row.name in text
        assert " ".join(row.description.split()) in text
    for measure in MEASURES:
        assert measure.label in text
        assert measure.description in text
    for words in (
        "vit_tiny",
        "ab12cd",
        evaluation.hash,
        "lower is better",
        "by chance 0.25",
        "95 %, 2000 draws",
        f"needs {HOSTILE}",
        f"boom {HOSTILE}",
        f"{HOSTILE}.jpg",
        "broken data stream",
        '"fingerprint": "ab12cd"',
        "This evaluation is not complete: 119 of 120 results",
    ):
        assert words in text


def test_nothing_runs_and_nothing_is_fetched(report, evaluation):
    assert "<script" not in report
    assert "http:" not in report
    assert "https:" not in report
    assert "url(" not in report
    sources = Outline(report).values("src")
    assert sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert not re.findall(r"\s(on\w+)=", report)
    assert str(evaluation.root) not in report


def test_same_bytes_every_time(report, evaluation, tmp_path):
    assert write_report(evaluation, tmp_path / "again.html").read_text("utf-8") == report


def test_numbers_of_the_ranking(report, evaluation):
    ranking = Outline(report).tables[0]
    assert ranking[0][3:] == [
        "Deletion AUC\N{NO-BREAK SPACE}↓",
        "Energy in the box\xa0↑",
        "Forward passes",
    ]
    assert [line[1] for line in ranking[1:]] == [
        "grad_cam(rule=libra, layer=3)",
        "attention",
        "rollout",
        "centre_gaussian",
        "random",
    ]
    assert [line[0] for line in ranking[1:]] == ["1", "2", "3", "", ""]
    table = {line["row"]: line for line in evaluation.table()}
    for _, name, cases, deletion, energy, passes in ranking[1:]:
        line = table[name]
        assert cases == ("231 failed" if name == "rollout" else "24")
        for cell, measure in ((deletion, "deletion"), (energy, "energy")):
            numbers = [float(number) for number in re.findall(r"\d\.\d{3}", cell)]
            ends = [line[measure], line[f"{measure}.low"], line[f"{measure}.high"]]
            assert numbers == [round(end, 3) for end in ends]
        assert f"{line['cases'] - line['energy.count']} undefined" in energy
        assert passes == "9.000[9.000, 9.000]"


def test_verdict_in_words(report, evaluation, tmp_path):
    text = " ".join("".join(Outline(report).words).split())
    assert "where lower is better, the best method is grad_cam(rule=libra, layer=3). " in text
    assert "Every other method is told apart from it." in text
    assert "Every method is shown to be better than the best control (centre_gaussian)." in text
    many = made_evaluation(tmp_path, {f"m{i}": 0.3 for i in range(8)}, {"random": 0.1})
    text = write_report(many, tmp_path / "many.html").read_text("utf-8")
    assert "(<b>random</b>): 8 of 8 methods, marked in the table." in text
    none = replace(evaluation, records=())
    text = write_report(none, tmp_path / "none.html").read_text("utf-8")
    assert Outline(text).open == []
    assert "No method has a value" in text


def test_long_lists_are_folded(evaluation, tmp_path):
    failed = tuple(replace(evaluation.failures[0], case=f"{i:04}.png") for i in range(600))
    report = write_report(replace(evaluation, failures=failed), tmp_path / "r.html").read_text()
    assert Outline(report).open == []
    assert "600 lines: Cases without values" in report
    assert "The first 500 of 600." in report
    assert "0499.png" in report
    assert "0500.png" not in report


@pytest.mark.parametrize(
    ("value", "shown"),
    [(45.128, "45.13"), (-0.3, "\N{MINUS SIGN}0.300"), (2e-7, "2.0e\N{MINUS SIGN}07")],
)
def test_decimals(tmp_path, value, shown):
    evaluation = made_evaluation(tmp_path, {"rollout": 0.3}, {}, cases=4)
    records = tuple(replace(each, values={"energy": value}) for each in evaluation.records)
    report = write_report(replace(evaluation, records=records), tmp_path / "r.html").read_text()
    assert Outline(report).tables[0][1][4].startswith(shown)


def test_uneven_counts_are_warned_of(evaluation, tmp_path):
    """A measure without values where maps are bad favours the maps for which that is often so."""
    assert "Means are over different cases" not in write_report(
        replace(evaluation, measures=evaluation.measures[1:], headline="energy"),
        tmp_path / "even.html",
    ).read_text("utf-8")
    records = tuple(
        replace(record, values=record.values | {"deletion": None})
        if record.row == "attention" and record.case.endswith(("001.png", "002.png"))
        else record
        for record in evaluation.records
    )
    report = write_report(replace(evaluation, records=records), tmp_path / "r.html").read_text()
    text = " ".join("".join(Outline(report).words).split())
    assert "Means are over different cases" in text
    assert "have many of them: Deletion AUC (attention: 22 of 24). The best method" in text


def test_no_path_of_this_machine_is_shown(tmp_path):
    evaluation = made_evaluation(tmp_path, {"rollout": 0.3}, {}, cases=4)
    gone = str(tmp_path / "gone.png")  # as journals of earlier versions have it
    records = tuple(
        replace(record, maps=tuple(replace(drawn, picture=gone) for drawn in record.maps))
        for record in evaluation.records
    )
    report = write_report(replace(evaluation, records=records), tmp_path / "r.html").read_text()
    assert "The picture is not there any more: gone.png" in report
    assert str(tmp_path) not in report
