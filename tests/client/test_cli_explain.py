"""Figures, targets, masks and parameters of `pairlens explain`, and regions of `pairlens pair`."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pairlens import Box, panel_grid
from pairlens.v1 import explanation_service_pb2, methods_pb2
from tests.client.answers import explanation_of
from tests.client.conftest import Run
from tests.client.scripted import Scripted, png
from tests.client.scripted_answers import MASK

EXPLAIN = explanation_service_pb2.ExplainRequest


def test_every_kind_of_parameter_has_a_flag(run: Run, service: Scripted):
    run("explain", "cat.png", "--method", "grad_cam", "--layer", "layer3", "--rule", "libra")
    assert service.calls[-1].method.grad_cam == methods_pb2.GradCam(layer="layer3", rule=2)
    flags = ["--ratio", "0.25", "--source", "log", "--seed", "7", "--set", "blocks=3,7"]
    run("explain", "cat.png", "--method", "attention_mask", *flags)
    sent = service.calls[-1].method.attention_mask
    assert (sent.ratio, sent.source, sent.seed, list(sent.blocks)) == (0.25, 2, 7, [3, 7])
    run("explain", "cat.png", "--method", "semantic_attention", "--dedupe", "--line", "0.5")
    sent = service.calls[-1].method.semantic_attention
    assert (sent.dedupe, sent.line) == (True, 0.5)


def test_set_takes_any_parameter_by_name(run: Run, service: Scripted):
    settings = ["line=2", "line_rule=max", "attention-weighted=true", "dedupe=False"]
    flags = [flag for setting in settings for flag in ("--set", setting)]
    assert run("explain", "cat.png", "--method", "semantic_attention", *flags)[0] == 0
    assert service.calls[-1].method.semantic_attention == methods_pb2.SemanticAttention(
        line=2, line_rule=2, attention_weighted=True
    )


def test_similar_to(run: Run, service: Scripted):
    code, out, _ = run("explain", "cat.png", "--similar-to", "dog.png", "photos/cat.png", "--json")
    assert code == 0
    assert [len(image.inline) for image in service.calls[-1].target.similarity.images] == [
        len(png(30, 20)),
        len(png()),
    ]
    (made,) = json.loads(out)["explanations"]
    assert made["method"] == {"name": "affinity", "parameters": {}}
    assert made["target"]["similarities"] == [0.25, 0.25]
    assert made["target"]["class_index"] is None
    assert made["score"] == 0.5
    assert "similarity to 1 picture" in run("explain", "cat.png", "--similar-to", "dog.png")[1]


@pytest.mark.parametrize(
    ("flags", "each", "fields"),
    [
        (["--heads"], "head", {}),
        (["--heads", "--block", 3], "head", {"block": 3}),
        (["--blocks"], "block", {}),
        (["--blocks", "--head", 1], "block", {"head": 1}),
        (["--heads", "--blocks"], "block_and_head", {}),
    ],
)
def test_heads_and_blocks(run: Run, tmp_path: Path, service, flags, each, fields):
    assert run("explain", "cat.png", *flags, "--max-side", 50, "--out", "figure.png")[0] == 0
    sent = service.requests(EXPLAIN)[0].method
    each = f"EACH_{each.upper()}"
    assert sent == methods_pb2.ExplanationMethod(raw_attention={"each": each, **fields})
    made = explanation_of("raw_attention", each=each, **fields)
    with Image.open(tmp_path / "figure.png") as drawn:
        expected = panel_grid(made, max_side=50)
        np.testing.assert_array_equal(np.asarray(drawn), np.asarray(expected))


def test_heads_as_numbers(run: Run, tmp_path: Path):
    assert run("explain", "cat.png", "--heads", "--out", "heads.npz")[0] == 0
    with np.load(tmp_path / "heads.npz", allow_pickle=False) as saved:
        assert saved["panel_head"].tolist() == [0, 1, 2]
    (made,) = json.loads(run("explain", "cat.png", "--heads", "--json")[1])["explanations"]
    assert [panel["head"] for panel in made["panels"]] == [0, 1, 2]
    assert np.shape(made["panels"][1]["values"]) == (2, 3)
    assert made["panels"][1]["mask"] is None


def test_panels_of_units(run: Run, tmp_path: Path):
    flags = ["--model", "vit", "--method", "hidden_unit"]
    assert run("explain", "cat.png", *flags, "--panels", "--out", "units.png")[0] == 0
    with Image.open(tmp_path / "units.png") as drawn:
        expected = panel_grid(explanation_of("hidden_unit"))
        np.testing.assert_array_equal(np.asarray(drawn), np.asarray(expected))
    assert run("explain", "cat.png", *flags, "--out", "unit.png")[0] == 0
    with Image.open(tmp_path / "unit.png") as drawn:
        assert drawn.size == (60, 40)  # the map alone, as for any method
    (made,) = json.loads(run("explain", "cat.png", *flags, "--json")[1])["explanations"]
    assert made["units"][0] == {"unit": 41, "strength": 0.75}


def test_masks(run: Run, tmp_path: Path):
    mask = ["explain", "cat.png", "--method", "attention_mask"]
    assert run(*mask, "--out", "m.png", "--save-mask", "mask.npy")[0] == 0
    np.testing.assert_array_equal(np.load(tmp_path / "mask.npy"), MASK)
    with Image.open(tmp_path / "m.png") as drawn:
        expected = explanation_of("attention_mask").overlay()
        np.testing.assert_array_equal(np.asarray(drawn), np.asarray(expected))
    assert run(*mask, "--save-mask", "mask.png")[0] == 0
    with Image.open(tmp_path / "mask.png") as saved:
        np.testing.assert_array_equal(np.asarray(saved.convert("L")), MASK * 255)
    assert run(*mask, "--set", "blocks=2,3", "--save-mask", "masks.npy")[0] == 0
    np.testing.assert_array_equal(np.load(tmp_path / "masks.npy"), [~MASK, MASK])
    code, _, err = run(*mask, "--set", "blocks=2,3", "--save-mask", "masks.png")
    assert (code, err) == (2, "pairlens: 2 masks go into an .npy, not masks.png\n")
    (made,) = json.loads(run(*mask, "--json")[1])["explanations"]
    assert made["heatmap"]["mask"] == MASK.tolist()


def test_a_region_of_a_pair(run: Run, tmp_path: Path, service: Scripted):
    pair = ["pair", "cat.png", "cat.png", "--method", "correspondence"]
    code, out, err = run(*pair, "--query-region", "6,4,30,20.5", "--out", "pair.png")
    assert (code, err) == (0, "")
    assert "correspondence(query_region=6,4,30,20.5)" in out
    sent = service.calls[-1].method.correspondence.query_region
    assert (sent.left, sent.bottom) == (6, 20.5)
    with Image.open(tmp_path / "pair.png") as drawn:
        pixels = np.asarray(drawn)
    assert (pixels[12, 7:9] == 255).all()  # the white of the outline's left edge
    document = json.loads(run(*pair, "--candidate-region", "6,4,30,20", "--json")[1])
    assert document["method"]["parameters"] == {
        "candidate_region": {"left": 6, "top": 4, "right": 30, "bottom": 20}
    }
    assert Box(**document["method"]["parameters"]["candidate_region"]) == Box(6, 4, 30, 20)
