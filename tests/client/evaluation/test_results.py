import csv
import json

import numpy as np
import pytest
from PIL import Image

from pairlens.errors import InvalidParameterError
from pairlens.evaluation.journal import Header, Journal
from pairlens.evaluation.records import DrawnMap, Record, Row, Series
from pairlens.evaluation.results import Evaluation
from pairlens.evaluation.runner import run_protocol
from pairlens.evaluation.statistics import Bootstrap, bootstrap_mean
from tests.client.evaluation.fakes import FakeProtocol, number

ROWS = (
    Row("rollout"),
    Row("grad_cam"),
    Row("lrp", refusal="it has no rule"),
    Row("random", control=True, description="noise"),
)


@pytest.fixture
def evaluation(tmp_path):
    return run_protocol(FakeProtocol(20, rows=ROWS), tmp_path, progress=False)


def good(row):
    return {case: number(row, case, "good") for case in FakeProtocol(20).cases()}


def test_values_are_arrays_in_the_order_of_the_cases(evaluation):
    values = evaluation.values("rollout", "good")
    expected = dict(sorted(good("rollout").items()))
    assert values.cases == tuple(expected)
    assert values.groups == tuple(case[0] for case in expected)
    assert values.values.dtype == np.float64
    assert values.values.tolist() == list(expected.values())
    bad = evaluation.values("rollout", "bad").values
    assert 0 < np.isnan(bad).sum() < 20
    with pytest.raises(KeyError):
        evaluation.values("rollout", "ugly")
    with pytest.raises(KeyError):
        evaluation.values("raw", "good")


def test_the_table_is_ranked_and_counts_what_is_undefined(evaluation):
    table = evaluation.table()
    means = {row: np.mean(list(good(row).values())) for row in ("rollout", "grad_cam", "random")}
    ranked = sorted(means, key=means.get, reverse=True)
    assert [line["row"] for line in table] == [*ranked, "lrp"]
    assert [line["control"] for line in table] == [name == "random" for name in (*ranked, "lrp")]
    for line in table[:3]:
        assert line["good"] == pytest.approx(means[line["row"]])
        values = evaluation.values(line["row"], "bad")
        alone = bootstrap_mean(values.values, values.groups)
        assert line["bad"] == pytest.approx(alone.mean)
        assert line["bad.low"] == pytest.approx(alone.low)
        assert line["bad.high"] == pytest.approx(alone.high)
        assert line["bad.count"] == np.isfinite(values.values).sum() < line["cases"] == 20
    assert table[3]["refusal"] == "it has no rule"
    assert (table[3]["good"], table[3]["good.low"], table[3]["good.count"]) == (None, None, 0)


def test_a_headline_of_which_less_is_better_ranks_upwards(tmp_path):
    protocol = FakeProtocol(20, rows=ROWS)
    protocol.headline = "bad"
    evaluation = run_protocol(protocol, tmp_path, progress=False)
    means = [line["bad"] for line in evaluation.table()[:3]]
    assert means == sorted(means)
    best, worst = evaluation.best("rollout", 1)[0], evaluation.worst("rollout", 1)[0]
    assert best.values["bad"] < worst.values["bad"]


def test_best_median_and_worst_cases(evaluation):
    ordered = sorted(good("rollout").items(), key=lambda item: -item[1])
    cases = [case for case, _ in ordered]
    assert [record.case for record in evaluation.best("rollout")] == cases[:3]
    assert [record.case for record in evaluation.worst("rollout")] == cases[:-4:-1]
    assert [record.case for record in evaluation.median("rollout", 2)] == cases[9:11]
    assert evaluation.best("lrp") == evaluation.median("lrp") == ()
    assert len(evaluation.best("rollout", 100)) == 20


def test_mean_curves(evaluation):
    curve = evaluation.mean_curve("rollout", "fall")
    middles = [number("rollout", case) for case in good("rollout")]
    assert curve.fractions.tolist() == [0, 0.5, 1]
    assert curve.mean == pytest.approx([1, np.mean(middles), 0])
    assert curve.low == pytest.approx([1, curve.low[1], 0])
    assert curve.low[1] < curve.mean[1] < curve.high[1]
    assert curve.count == 20
    assert evaluation.mean_curve("lrp", "fall") is None
    assert evaluation.mean_curve("rollout", "rise") is None


def test_the_difference_of_two_rows_is_paired(evaluation):
    difference = evaluation.difference("rollout", "grad_cam")
    expected = [good("rollout")[case] - good("grad_cam")[case] for case in good("rollout")]
    assert difference.mean == pytest.approx(np.mean(expected))
    assert difference.low < difference.mean < difference.high
    assert difference.count == 20
    assert evaluation.difference("rollout", "rollout").high == 0


def test_csv(evaluation, tmp_path):
    evaluation.write_csv(tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    table = evaluation.table()
    assert [line["row"] for line in lines] == [line["row"] for line in table]
    assert float(lines[0]["good.low"]) == table[0]["good.low"]
    assert lines[3]["good"] == ""


def test_json_is_strict(evaluation, tmp_path):
    def refuse(constant):
        raise AssertionError(constant)

    evaluation.write_json(tmp_path / "table.json")
    document = json.loads((tmp_path / "table.json").read_text(), parse_constant=refuse)
    assert document["table"] == evaluation.table()
    assert document["hash"] == evaluation.hash
    assert document["complete"] is True
    assert document["cases"] == 20
    assert document["skipped"] == [{"path": "a/notes.txt", "reason": "no picture"}]
    assert document["configuration"]["settings"] == FakeProtocol().settings()


def test_on_a_console(evaluation):
    text = evaluation.console()
    lines = text.splitlines()
    assert evaluation.hash in lines[0]
    (header,) = (line for line in lines if "Good ↑" in line)
    assert header.index("Good ↑") < header.index("Bad ↓")
    (random,) = (line for line in lines if "random (control)" in line)
    line = next(line for line in evaluation.table() if line["row"] == "random")
    assert f"{line['good']:.4f} [{line['good.low']:.4f}, {line['good.high']:.4f}]" in random
    assert "Good: A number in [0, 1]. Higher is better. Chance: 0.5." in text
    assert "lrp: refused, it has no rule" in text
    assert "Not complete" not in text


def test_a_narrow_console_has_the_headline_and_says_what_is_missing(evaluation):
    text = evaluation.console(70)
    assert max(map(len, text.splitlines())) <= 70
    assert "Good ↑" in text
    assert "Bad ↓" not in text
    assert "Measures that do not fit here: 1;" in text
    assert "do not fit" not in evaluation.console()


def test_a_partial_evaluation_can_be_read(tmp_path):
    def before(row, case):
        if case == "b/1" and row == "random":
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_protocol(FakeProtocol(20, before=before), tmp_path, progress=False, concurrency=1)
    partial = Evaluation.load(tmp_path)
    assert not partial.complete
    # Whole cases before the end: every row has the same ones.
    rows = {row.name: set(partial.values(row.name, "good").cases) for row in partial.rows}
    assert {"a/0", "b/0", "a/1"} <= rows["rollout"]
    assert {"a/0", "b/0", "a/1"} <= rows["random"]
    assert "Not complete" in partial.console()


def test_nothing_to_read(tmp_path):
    with pytest.raises(InvalidParameterError, match="no evaluation in"):
        Evaluation.load(tmp_path / "nowhere")


def test_an_evaluation_without_a_record(tmp_path):
    rows = (Row("lrp", refusal="it has no rule"),)
    evaluation = run_protocol(FakeProtocol(3, rows=rows), tmp_path, progress=False)
    assert evaluation.complete
    assert evaluation.table()[0]["good"] is None
    assert "lrp: refused" in evaluation.console()


def test_the_bootstrap_may_change_without_running_again(tmp_path):
    run_protocol(FakeProtocol(10), tmp_path, progress=False)
    protocol = FakeProtocol(10)
    bootstrap = Bootstrap(samples=50, level=0.5, seed=4)
    evaluation = run_protocol(protocol, tmp_path, bootstrap=bootstrap, progress=False)
    assert protocol.ran == []
    assert Evaluation.load(tmp_path).bootstrap == bootstrap
    values = evaluation.values("rollout", "good")
    alone = bootstrap_mean(values.values, values.groups, samples=50, seed=4, level=0.5)
    assert evaluation.interval("rollout", "good") == alone


def test_curves_on_other_fractions_are_read_between_points(tmp_path):
    run_protocol(FakeProtocol(2, rows=(Row("rollout"),)), tmp_path, progress=False)
    evaluation = Evaluation.load(tmp_path)
    path, header = tmp_path / "journal.jsonl", evaluation.configuration
    about = json.loads(path.read_text().splitlines()[0])["about"]
    with Journal(path, Header(header, about)) as journal:
        for case, scores in (("a/0", (1.0, 0.5, 0.0)), ("b/0", (1.0, 0.0))):
            fractions = tuple(np.linspace(0, 1, len(scores)).tolist())
            journal.add(Record("rollout", case, "a", {}, {"fall": Series(fractions, scores)}))
    curve = Evaluation.load(tmp_path).mean_curve("rollout", "fall")
    assert curve.mean.tolist() == [1, 0.5, 0]


def test_pictures_are_read_upright(tmp_path):
    protocol = FakeProtocol(1)
    protocol.root = tmp_path
    image = Image.new("RGB", (4, 2), "red")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    evaluation = run_protocol(protocol, tmp_path / "run", progress=False)
    region = (0.0, 0.0, 1.0, 1.0)
    drawn = DrawnMap("turned.jpg", "", np.zeros((1, 1), np.float32), region)
    assert evaluation.picture(drawn).size == (2, 4)
    with pytest.raises(OSError, match=r"gone\.jpg"):
        evaluation.picture(DrawnMap("gone.jpg", "", drawn.heatmap, region))
