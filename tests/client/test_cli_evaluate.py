import csv
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from pairlens.v1 import explanation_service_pb2
from tests.client.conftest import Run
from tests.client.evaluation.pictures import class_folders
from tests.client.scripted import Act, fails

SCORE = explanation_service_pb2.ScoreSaliencyRequest
Evaluate = Callable[..., tuple[int, str, str]]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "data", {"goldfish": 3, "trout": 2})


@pytest.fixture
def evaluate(run: Run, data: Path) -> Evaluate:
    def evaluate(*more: object) -> tuple[int, str, str]:
        defaults = {"--model": "vit", "--methods": "rollout", "--out": "out"}
        if "--pairs" not in more and "--mosaics" not in more:
            defaults["--metrics"] = "deletion(steps=4)"
        given = [item for pair in defaults.items() if pair[0] not in more for item in pair]
        return run("evaluate", data, *given, *more)

    return evaluate


def test_a_table_files_and_a_report(evaluate, service, tmp_path):
    (tmp_path / "data" / "trout" / "notes.txt").write_text("no picture")
    code, out, err = evaluate("--methods", "rollout,score_cam,affinity", "--bootstrap", 50)
    assert code == 0
    lines = out.splitlines()
    (rollout,) = (line for line in lines if line.strip().startswith("rollout"))
    assert rollout.split()[1:4] == ["5", "0.3125", "[0.3125,"]
    assert any("random (control)" in line for line in lines)
    assert any("affinity: refused, it explains a similarity" in line for line in lines)
    assert lines[-1] == "report: out/report.html"
    assert "skipped trout/notes.txt: no picture, or a broken one" in err
    folder = tmp_path / "out"
    assert "rollout" in (folder / "report.html").read_text()
    assert list(folder.glob("*.png"))
    with (folder / "table.csv").open(newline="") as file:
        rows = {row["row"]: row for row in csv.DictReader(file)}
    assert float(rows["rollout"]["deletion(steps=4)"]) == 0.3125
    document = json.loads((folder / "table.json").read_text())
    assert document["bootstrap"]["samples"] == 50
    assert document["hash"] in lines[0]
    # Two methods and four controls of five pictures.
    assert len(service.requests(SCORE)) == 30


def test_json_is_one_document(evaluate):
    code, out, _ = evaluate("--json", "--no-controls")
    assert code == 0
    document = json.loads(out)
    assert [line["row"] for line in document["table"]] == ["rollout"]
    assert document["report"] == "out/report.html"


def test_pictures_are_chosen(evaluate, service):
    evaluate("--no-controls", "--per-class", 1)
    assert len(service.requests(SCORE)) == 2
    evaluate("--no-controls", "--limit", 3, "--out", "other", "--target", "label")
    # Of three pictures of two classes in turn, the model knows the label of one or two.
    assert 1 <= len(service.requests(SCORE)) - 2 <= 2


def on_scores(service, act: Callable[[SCORE], Act | None]) -> None:
    """Let a test decide on each request to score, of those that come one after the other."""

    def arrived(context: grpc.ServicerContext) -> None:
        request = service.calls[-1]
        found = act(request) if isinstance(request, SCORE) else None
        if found is not None:
            found(context)

    service.script.extend([arrived] * 200)


def test_it_goes_on_where_it_was_interrupted(evaluate, service, tmp_path):
    def interrupt(request):
        if len(service.requests(SCORE)) == 4:
            os.kill(os.getpid(), signal.SIGINT)

    on_scores(service, interrupt)
    arguments = ("--methods", "rollout,score_cam", "--concurrency", 1)
    code, out, err = evaluate(*arguments)
    service.script.clear()
    assert code == 130
    assert out == ""
    assert "the same command goes on from there" in err
    assert not (tmp_path / "out" / "report.html").exists()
    records = (tmp_path / "out" / "journal.jsonl").read_text().count('"kind":"record"')
    assert records >= 3
    sent = len(service.requests(SCORE))
    code, out, err = evaluate(*arguments)
    assert code == 0
    assert len(service.requests(SCORE)) == sent + 30 - records
    assert f"({records} from before)" in err


def test_what_failed_is_named_and_tried_again(evaluate, service):
    too_slow = fails("DEADLINE_UNREACHABLE", "too slow")
    on_scores(service, lambda request: too_slow if request.method.HasField("rollout") else None)
    arguments = ("--no-controls", "--methods", "rollout,score_cam", "--concurrency", 1)
    code, out, err = evaluate(*arguments)
    assert code == 3
    assert "rollout of goldfish/000.png: too slow" in err
    assert "the same command tries what failed again" in err
    assert "Not complete: 5 records, 5 failed." in out
    service.script.clear()
    code, out, err = evaluate(*arguments)
    assert code == 0
    assert "Not complete" not in out


def test_another_configuration_needs_fresh(evaluate):
    assert evaluate("--no-controls")[0] == 0
    code, _, err = evaluate("--no-controls", "--seed", 4)
    assert code == 2
    assert "settings.seed was 0 and is 4" in err
    assert err.count("\n") == 1
    assert evaluate("--no-controls", "--seed", 4, "--fresh")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--methods", "rollin"), "unknown method 'rollin'"),
        (("--metrics", "deletion(step=3)"), "unknown parameter 'step'"),
        (("--model", "lost"), "no model 'lost'"),
        (("--pairs", "--profile", "strict"), "--profile is of single pictures"),
        (("--mosaics", "--metrics", "deletion"), "--metrics is of single pictures"),
        (("--bootstrap", "0"), "--bootstrap is at least 1"),
        (("--limit", "0"), "limit is at least 1"),
        (("--concurrency", "0"), "concurrency is at least 1"),
        (("--out", "cat.png"), "is a file and no folder"),
        (("--out", "data"), "--out: data is a folder of the data set"),
        (("--out", "data/trout"), "--out: data/trout is a folder of the data set"),
        (("--mosaics", "--enlargement", "nearest"), "--enlargement is of single pictures"),
    ],
)
def test_mistakes_are_one_line(evaluate, service, arguments, message):
    code, out, err = evaluate(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert service.requests(SCORE) == []


def test_a_folder_that_is_not_there(run: Run):
    code, _, err = run("evaluate", "lost", "--model", "vit", "--methods", "rollout", "--out", "o")
    assert code == 2
    assert "no such folder or file: lost" in err


def test_a_mistake_that_only_the_server_sees_names_the_row(evaluate, service):
    wrong = fails("INVALID_PARAMETER", "from 0 to 11, not 99", field="method.rollout.start_block")
    on_scores(service, lambda request: wrong)
    code, _, err = evaluate("--methods", "rollout(start_block=99)", "--concurrency", 1)
    assert code == 2
    assert "rollout(start_block=99): from 0 to 11, not 99" in err


def test_every_evaluation_can_be_asked_for(evaluate, monkeypatch):
    asked = []

    def stub(name):
        def evaluated(client, dataset, **options):
            asked.append((name, options["limit"], len(dataset), options["seed"]))
            raise KeyboardInterrupt

        return evaluated

    for name in ("pairs", "mosaics", "pair_mosaics"):
        monkeypatch.setattr(f"pairlens.evaluation.evaluate_{name}", stub(name))
    evaluate("--pairs", "--limit", 2)
    evaluate("--mosaics", "--limit", 2, "--seed", 3)
    evaluate("--pairs", "--mosaics")
    # A limit of queries leaves the pictures, of which partners come.
    assert asked == [("pairs", 2, 5, 0), ("mosaics", 2, 5, 3), ("pair_mosaics", None, 5, 0)]


def test_the_thesis_evaluation_in_one_flag(evaluate, service):
    arguments = ("--no-controls", "--methods", "rollout,score_cam", "--concurrency", 1)
    code, _, err = evaluate(*arguments, "--profile", "reference")
    assert code == 0
    # The model does not know the trout; the goldfish are class 1.
    sent = service.requests(SCORE)
    assert [request.target.class_index for request in sent] == [1] * 6
    aligned, bilinear = (
        explanation_service_pb2.ENLARGEMENT_BILINEAR_ALIGNED,
        explanation_service_pb2.ENLARGEMENT_BILINEAR,
    )
    assert [request.enlargement for request in sent] == [aligned, bilinear] * 3
    assert "vit has no class 'trout'" in err
    given = ("--profile", "reference", "--target", "predicted", "--enlargement", "nearest")
    assert evaluate(*arguments, *given, "--out", "other")[0] == 0
    sent = service.requests(SCORE)[6:]
    assert len(sent) == 10
    assert not any(request.HasField("target") for request in sent)
    nearest = explanation_service_pb2.ENLARGEMENT_NEAREST
    assert {request.enlargement for request in sent} == {nearest}


def test_an_evaluation_is_extended(evaluate, service):
    assert evaluate("--limit", 3)[0] == 0
    sent = len(service.requests(SCORE))
    code, longer, err = evaluate("--limit", 5, "--json")
    assert code == 0
    assert f"({sent} from before)" in err
    assert len(service.requests(SCORE)) == sent // 3 * 5
    fresh = evaluate("--limit", 5, "--json", "--out", "fresh")[1]
    shorter, again = (json.loads(text) for text in (longer, fresh))
    assert shorter["table"] == again["table"]
    assert shorter["hash"] == again["hash"]


def test_a_run_inside_of_the_data_goes_on(evaluate, service):
    arguments = ("--out", "data/runs/first", "--no-controls")
    assert evaluate(*arguments)[0] == 0
    sent = len(service.requests(SCORE))
    code, _, err = evaluate(*arguments)
    assert code == 0
    assert "(5 from before)" in err
    assert len(service.requests(SCORE)) == sent == 5
