"""`pairlens explain --method all`."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pairlens import cli_output, contact_sheet
from pairlens.v1 import explanation_service_pb2
from tests.client.answers import explanation_of
from tests.client.conftest import Run
from tests.client.scripted import Scripted, fails

EXPLAIN = explanation_service_pb2.ExplainRequest
ALL = ("explain", "cat.png", "--method", "all")
GROUND = (244, 240, 238)


def sent(service: Scripted) -> list[str]:
    return [call.method.WhichOneof("method") for call in service.requests(EXPLAIN)]


def test_one_call_for_each_method_and_one_sheet(run: Run, tmp_path: Path, service: Scripted):
    code, out, err = run(*ALL, "--out", "all.png")
    assert (code, err) == (0, "")
    assert sent(service) == [
        "rollout",
        "raw_attention",
        "score_cam",
        "attention_mask",
        "semantic_attention",
    ]
    assert [name in out for name in sent(service)] == [True] * 5
    made = [explanation_of(name) for name in sent(service)]
    cells = [
        (f"{one.method.name}\n{768 if one.method.name == 'score_cam' else 1} forward pass", one)
        for one in made
    ]
    expected = contact_sheet(
        made[0].image.picture(),
        [
            (caption.replace("768 forward pass", "768 forward passes"), one.overlay(max_side=256))
            for caption, one in cells
        ],
        title="vit: vit_tiny_patch16_224",
    )
    with Image.open(tmp_path / "all.png") as drawn:
        np.testing.assert_array_equal(np.asarray(drawn), np.asarray(expected))


def test_targets_go_to_the_methods_that_take_them(run: Run, service: Scripted):
    assert run(*ALL, "--target", "goldfish")[0] == 0
    targets = {call.method.WhichOneof("method"): call.target for call in service.requests(EXPLAIN)}
    assert targets["score_cam"].label == "goldfish"
    assert not targets["rollout"].HasField("class_index")
    assert targets["rollout"].WhichOneof("target") is None
    service.calls.clear()
    assert run(*ALL, "--similar-to", "dog.png")[0] == 0
    assert "affinity" in sent(service)
    assert "score_cam" not in sent(service)
    service.calls.clear()
    assert run(*ALL, "--model", "cnn")[0] == 0
    assert sent(service) == ["grad_cam"]  # the other one needs a similarity


def test_no_method_takes_the_target(run: Run, service: Scripted):
    for method in service.models[0].methods:
        method.takes_similarity = False
    code, _, err = run(*ALL, "--similar-to", "dog.png")
    assert (code, err) == (2, "pairlens: no method of vit takes such a target\n")


def test_parameters_go_to_the_methods_that_take_them(run: Run, service: Scripted):
    assert run(*ALL, "--block", "3")[0] == 0
    made = {call.method.WhichOneof("method"): call.method for call in service.requests(EXPLAIN)}
    assert made["raw_attention"].raw_attention.block == 3
    assert made["semantic_attention"].semantic_attention.block == 3
    assert not made["rollout"].rollout.HasField("start_block")


def test_what_costs_too_much_is_left_out_and_named(run: Run, service: Scripted):
    code, _, err = run(*ALL, "--max-cost", "100")
    assert code == 0
    assert err == "pairlens: left out for --max-cost 100: score_cam (768 forward passes)\n"
    assert "score_cam" not in sent(service)


@pytest.mark.parametrize(
    "reason", ["METHOD_UNSUPPORTED", "NOT_FINITE", "OUT_OF_MEMORY", "INTERNAL"]
)
def test_a_failing_method_fails_alone(run: Run, tmp_path: Path, service: Scripted, reason: str):
    service.broken["raw_attention"] = reason
    code, out, err = run(*ALL, "--out", "all.png", "--json")
    assert code == 3
    assert err == "pairlens: cat.png, raw_attention: raw_attention cannot be\n"
    made = json.loads(out)["explanations"]
    assert ["error" in one for one in made] == [False, True, False, False, False]
    assert made[1]["method"] == {"name": "raw_attention"}
    assert made[1]["error"]["reason"] == reason
    with Image.open(tmp_path / "all.png") as drawn:
        pixels = np.asarray(drawn)
    ground = (pixels == GROUND).all(axis=2)
    rows, columns = np.nonzero(ground)
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (171, 256)  # one cell of 60 x 40
    whole = contact_sheet(Image.new("RGB", (60, 40)), [("a\nb", "no")] * 5).size
    assert (pixels.shape[1], pixels.shape[0]) == (whole[0], whole[1] + 42)  # and a title


def test_the_table_names_the_failed_method(run: Run, service: Scripted):
    service.broken["rollout"] = "INTERNAL"
    code, out, _ = run(*ALL)
    assert code == 3
    assert "failed: rollout cannot be" in out


def test_a_server_that_goes_away_ends_all(run: Run, service: Scripted):
    service.script.append(lambda _: None)  # the list of models
    service.script.extend([fails("DRAINING")] * 99)
    code, out, err = run(*ALL, "--timeout", "20")
    assert (code, out) == (1, "")
    assert err == "pairlens: why\n"


def test_several_pictures(run: Run, tmp_path: Path):
    code, out, err = run(
        "explain", "cat.png", "notes.txt", "dog.png", "--method", "all", "--out", "m"
    )
    assert code == 3
    assert err == "pairlens: notes.txt: not a picture\n"
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["cat.png", "dog.png"]
    assert out.count("dog.png") == 5


def test_the_timeout_is_long_unless_given(run: Run, service: Scripted):
    run(*ALL)
    assert service.deadlines[-1] > 500
    run(*ALL, "--timeout", "25")
    assert 20 < service.deadlines[-1] < 26  # gRPC rounds up
    run("explain", "cat.png")
    assert 26 < service.deadlines[-1] < 31


def test_progress_goes_through_everything_in_order(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    items = list(cli_output.progress_by_cost([3, 1, 2], lambda n: f"[item] {n}", float))
    assert items == [3, 1, 2]
    assert "3 of 3: [item] 2" in capsys.readouterr().err
