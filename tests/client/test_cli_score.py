"""`pairlens score` and `pairlens metrics`."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pairlens.v1 import common_pb2, explanation_service_pb2
from tests.client.conftest import Run
from tests.client.scripted import Scripted

ScoreRequest = explanation_service_pb2.ScoreSaliencyRequest


def sent(service: Scripted) -> ScoreRequest:
    return service.requests(ScoreRequest)[-1]


def lines(out: str) -> dict[str, str]:
    return {line.split()[0]: line for line in out.splitlines() if line.strip()}


def test_a_table_of_scores(run: Run, service: Scripted):
    code, out, err = run("score", "cat.png", "--method", "raw_attention(block=3)")
    assert (code, err) == (0, "")
    assert "vit: raw_attention(" in out
    assert "scored by the probability of class 1 goldfish" in out
    found = lines(out)
    assert found["deletion"].split() == ["deletion", "image", "0.3125", "lower", "0.5", "0.75", "0"]
    assert "higher" in found["insertion"]
    assert found["average_increase"].rstrip().endswith("the picture scores zero")
    assert sent(service).method.raw_attention.block == 3


def test_sides_of_a_pair(run: Run, service: Scripted):
    code, out, _ = run(
        *["score", "cat.png", "--similar-to", "dog.png", "--pair-method", "pooled_decomposition"],
        *["--metrics", "deletion(steps=4,substrate=blur),insertion", "--sides", "image, both"],
        *["--enlargement", "nearest"],
    )
    assert code == 0
    request = sent(service)
    assert request.WhichOneof("saliency") == "pair_method"
    assert (request.metrics[0].deletion.steps, request.metrics[0].deletion.substrate) == (4, 3)
    assert list(request.sides) == [1, 3]
    assert request.enlargement == explanation_service_pb2.ENLARGEMENT_NEAREST
    assert "scored by similarity to 1 picture" in " ".join(out.split())
    assert [line.split()[:2] for line in out.splitlines() if "sertion " in line] == [
        ["insertion", "image"],
        ["insertion", "both"],
    ]


def test_the_file_that_explain_writes_is_a_map(run: Run, service: Scripted):
    assert run("explain", "cat.png", "--out", "map.npz")[0] == 0
    code, out, _ = run("score", "cat.png", "--heatmap", "map.npz", "--metrics", "deletion")
    assert code == 0
    assert "vit: a given map" in out
    given = sent(service).heatmap
    assert np.frombuffer(given.values.data, "<f4").tolist() == [0, 1, 2, 3, 4, 5]
    assert list(given.values.shape) == [2, 3]


def test_the_file_that_pair_writes_holds_both_maps(run: Run, service: Scripted):
    assert run("pair", "cat.png", "dog.png", "--out", "pair.npz")[0] == 0
    maps = ["--heatmap", "pair.npz", "--partner-heatmap", "pair.npz"]
    target = ["--similar-to", "dog.png", "--sides", "both", "--metrics", "deletion"]
    assert run("score", "cat.png", *maps, *target)[0] == 0
    request = sent(service)
    assert np.frombuffer(request.heatmap.values.data, "<f4")[5] == 5
    assert np.frombuffer(request.partner_heatmap.values.data, "<f4")[5] == 10
    # And so does the file that score itself writes.
    made = ["--pair-method", "pooled_decomposition", "--out", "scores.npz"]
    assert run("score", "cat.png", *made, *target)[0] == 0
    maps = ["--heatmap", "scores.npz", "--partner-heatmap", "scores.npz"]
    assert run("score", "cat.png", *maps, *target)[0] == 0
    assert np.frombuffer(sent(service).partner_heatmap.values.data, "<f4")[5] == 10


def test_maps_of_other_files(run: Run, service: Scripted, tmp_path: Path):
    levels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    Image.fromarray(levels).save(tmp_path / "grey.png")
    Image.fromarray(levels.astype(np.uint16)).save(tmp_path / "deep.png")
    np.save(tmp_path / "map.npy", levels.astype(np.float64))
    for name, dtype in (
        ("grey.png", common_pb2.DATA_TYPE_UINT8),
        ("deep.png", common_pb2.DATA_TYPE_INT64),
        ("map.npy", common_pb2.DATA_TYPE_FLOAT32),
    ):
        flags = ["--heatmap", name, "--extent", "input", "--metrics", "deletion"]
        assert run("score", "cat.png", *flags)[0] == 0
        given = sent(service).heatmap
        assert (given.values.dtype, list(given.values.shape)) == (dtype, [2, 3])
        assert given.extent == explanation_service_pb2.HEATMAP_EXTENT_INPUT


@pytest.mark.parametrize("make", ["objects", "other", "torn"])
def test_files_that_hold_no_map(run: Run, service: Scripted, tmp_path: Path, make: str):
    if make == "objects":
        np.savez(tmp_path / "map.npz", heatmap=np.array([object()]))
    elif make == "other":
        np.savez(tmp_path / "map.npz", weights=np.zeros((2, 3)))
    else:
        np.savez(tmp_path / "map.npz", heatmap=np.zeros((2, 3)))
        (tmp_path / "map.npz").write_bytes((tmp_path / "map.npz").read_bytes()[:50])
    code, out, err = run("score", "cat.png", "--heatmap", "map.npz")
    assert (code, out) == (2, "")
    assert ("holds weights, and none of heatmap" if make == "other" else "cannot read") in err
    assert len(err.splitlines()) == 1
    assert not service.calls


def test_boxes_and_masks(run: Run, service: Scripted, tmp_path: Path):
    inside = np.zeros((40, 60), bool)
    inside[3, 4] = True
    np.save(tmp_path / "mask.npy", inside)
    # Nearly black is not black.
    Image.fromarray(inside[..., None] * np.array([0, 0, 1], np.uint8)).save(tmp_path / "mask.png")
    for name in ("mask.npy", "mask.png"):
        flags = ["--box", "1,2,3,4.5", "--box", "5,6,7,8", "--mask", name]
        assert run("score", "cat.png", "--metrics", "pointing_game", *flags)[0] == 0
        region = sent(service).region
        assert [box.bottom for box in region.boxes] == [4.5, 8]
        assert region.mask.data == inside.tobytes()


@pytest.mark.parametrize("name", ["curves.png", "scores.json", "scores.npz"])
def test_out(run: Run, tmp_path: Path, name: str):
    assert run("score", "cat.png", "--out", name)[0] == 0
    assert (tmp_path / name).stat().st_size > 100


def test_json(run: Run):
    code, out, err = run("score", "cat.png", "--target", "1", "--json", "--out", "curves.png")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert (document["image"], document["out"]) == ("cat.png", "curves.png")
    assert [score["metric"]["name"] for score in document["scores"]] == [
        "average_drop",
        "average_increase",
        "deletion",
        "insertion",
    ]
    assert document["scores"][1]["undefined"] == "the picture scores zero"
    assert document["target"]["class_index"] == 1


def test_a_score_may_take_long(run: Run, service: Scripted):
    run("score", "cat.png")
    assert service.deadlines[-1] > 500
    run("score", "cat.png", "--timeout", "20")
    assert service.deadlines[-1] < 20


def test_metrics_of_a_model(run: Run):
    code, out, err = run("metrics")
    assert (code, err) == (0, "")
    assert "vit (vit_tiny_patch16_224)" in out
    table, parameters = out.split("parameters")
    found = lines(table)
    assert "lower" in found["deletion"]
    assert "65" in found["deletion"]
    assert "--box or --mask" in found["pointing_game"]
    assert "1 to 50176" in parameters
    assert "above 0" in parameters
    assert "cnn (resnet18)" in run("metrics", "--model", "cnn")[1]


def test_metrics_as_json(run: Run):
    document = json.loads(run("metrics", "--json")[1])
    assert document["model"] == "vit"
    assert document["metrics"][0]["defaults"] == {
        "name": "deletion",
        "parameters": {"profile": "strict", "steps": 64},
    }


def test_metrics_of_a_server_without_models(run: Run, service: Scripted):
    service.models.clear()
    code, _, err = run("metrics")
    assert (code, err) == (2, "pairlens: the server serves no models\n")
