"""Every map, metric parameter and region out of range: the field and what is wrong with it."""

import numpy as np
import pytest

from pairlens.v1 import common_pb2
from tests.contract.scores import (
    Scores,
    check_refusal,
    exact,
    given,
    like,
    metric,
    plane,
)
from tests.contract.support import array, refused, unseen

VIT = "tiny-vit"
NAN, INF = float("nan"), float("inf")
DROP = metric("average_drop")
POINTING = metric("pointing_game")
ONES = np.ones((4, 6))
PAIR = like(exact(2))
BOX = {"left": 1, "top": 2, "right": 30, "bottom": 20}


def changed(value: float, shape: tuple[int, int] = (4, 6)) -> np.ndarray:
    values = np.ones(shape, np.float32)
    values[2, 3] = value
    return values


def spoilt(**fields) -> common_pb2.Tensor:
    """A map of ones with some fields of its message set otherwise."""
    whole = plane(ONES)
    for name, value in fields.items():
        if name == "shape":
            whole.shape[:] = value
        else:
            setattr(whole, name, value)
    return whole


@pytest.fixture(scope="module")
def scores(server) -> Scores:
    return Scores(server.channel)


@pytest.fixture(autouse=True)
def _the_server_goes_on(server):
    yield
    answer = server.explain(VIT, unseen())
    assert answer.timing.cached_images == 0
    assert np.isfinite(array(answer.heatmap.values)).all()


MAPS = [
    (given(np.ones((6, 4))), "values", "grid 4 x 6, the picture's 32 x 48"),
    (given(np.ones((5, 6))), "values", "5 x 6 does not fit"),
    (given(np.ones((33, 6)), extent="HEATMAP_EXTENT_GRID"), "values", "at most"),
    (given(ONES, extent="HEATMAP_EXTENT_PICTURE"), "values", "the picture's 32 x 48"),
    (given(ONES, extent="HEATMAP_EXTENT_INPUT"), "values", "the input's 32 x 48"),
    (given(ONES, extent=9), "extent", "no value has number 9"),
    (given(changed(NAN)), "values", "nan, at row 2, column 3"),
    (given(changed(INF)), "values", "inf, at row 2, column 3"),
    (given(changed(-INF)), "values", "-inf, at row 2, column 3"),
    (given(changed(NAN, (32, 48))), "values", "not finite"),
    (given(changed(NAN, (32, 48)), extent="HEATMAP_EXTENT_INPUT"), "values", "not finite"),
    (given(plane(changed(NAN), common_pb2.DATA_TYPE_FLOAT16)), "values", "not finite"),
    ({}, "values.dtype", "no known dtype"),
    (given(spoilt(dtype=0)), "values.dtype", "no known dtype"),
    (given(spoilt(dtype=77)), "values.dtype", "no known dtype"),
    (given(spoilt(shape=[24])), "values.shape", "[24], not [rows, columns]"),
    (given(spoilt(shape=[1, 4, 6])), "values.shape", "[1 x 4 x 6], not [rows, columns]"),
    (given(spoilt(shape=[])), "values.shape", "not [rows, columns]"),
    (given(spoilt(shape=[0, 6])), "values.shape", "[0 x 6]"),
    (given(spoilt(shape=[-4, -6])), "values.shape", "[-4 x -6]"),
    (given(spoilt(shape=[2**62, 2**62])), "values.data", "has 96 bytes"),
    (given(spoilt(data=bytes(95))), "values.data", "has 95 bytes, not 96"),
    (given(spoilt(data=b"")), "values.data", "has 0 bytes, not 96"),
    (given(spoilt(dtype=common_pb2.DATA_TYPE_INT64)), "values.data", "not 192"),
]


@pytest.mark.parametrize(("heatmap", "path", "words"), MAPS)
@pytest.mark.parametrize("field", ["heatmap", "partner_heatmap"])
def test_maps(scores, field, heatmap, path, words):
    fields = {"heatmap": given(ONES), field: heatmap}
    if field == "partner_heatmap":
        fields |= {"target": PAIR, "sides": ["SIDE_BOTH"]}
    check_refusal(refused(scores.score, VIT, [DROP], **fields), f"{field}.{path}", words)


@pytest.mark.parametrize(("heatmap", "path", "words"), MAPS)
def test_a_map_is_checked_though_no_metric_looks_at_it(scores, heatmap, path, words):
    fields = {
        "heatmap": heatmap,
        "partner_heatmap": given(ONES),
        "target": PAIR,
        "sides": ["SIDE_PARTNER"],
    }
    check_refusal(refused(scores.score, VIT, [DROP], **fields), f"heatmap.{path}", words)


CURVES = [
    ({"steps": 0}, "steps", "at least 1"),
    ({"steps": 32 * 48 + 1}, "steps", "at most 1536"),
    ({"steps": 2**32 - 1}, "steps", "at most 1536"),
    ({"steps": 25, "unit": "ERASURE_UNIT_CELLS"}, "steps", "there are 24 cells"),
    ({"step_size": 0}, "step_size", "at least 1"),
    ({"step_size": 32 * 48 + 1}, "step_size", "at most 1536"),
    ({"step_size": 25, "unit": "ERASURE_UNIT_CELLS"}, "step_size", "there are 24 cells"),
    ({"steps": 4, "step_size": 4}, "step_size", "steps and step_size"),
    ({"steps": 4, "fractions": [0.5]}, "fractions", "steps and fractions"),
    ({"step_size": 4, "fractions": [0.5]}, "fractions", "step_size and fractions"),
    ({"fractions": [0.5, 0.25]}, "fractions", "ascend"),
    ({"fractions": [0.5, 0.5]}, "fractions", "ascend"),
    ({"fractions": [0, 0.5]}, "fractions", "more than 0"),
    ({"fractions": [0.5, 1]}, "fractions", "less than 1"),
    ({"fractions": [-0.5]}, "fractions", "more than 0"),
    ({"fractions": [NAN]}, "fractions", "nan"),
    ({"fractions": [0.5] * 1537}, "fractions", "1537 fractions; there are 1536 pixels"),
    (
        {"fractions": [i / 26 for i in range(1, 26)], "unit": "ERASURE_UNIT_CELLS"},
        "fractions",
        "25 fractions; there are 24 cells",
    ),
    ({"fractions": [0.5] * 10_001}, "fractions", "10001 values"),
    ({"profile": "PROFILE_PAPER"}, "profile", "strict and reference"),
    ({"profile": 9}, "profile", "no value has number 9"),
    ({"substrate": 9}, "substrate", "no value has number 9"),
    ({"substrate": "SUBSTRATE_BLACK", "blur_sigma": 2}, "blur_sigma", "substrate blur"),
    ({"substrate": "SUBSTRATE_BLUR", "blur_sigma": 0}, "blur_sigma", "more than 0"),
    ({"substrate": "SUBSTRATE_BLUR", "blur_sigma": NAN}, "blur_sigma", "nan"),
    ({"substrate": "SUBSTRATE_BLUR", "blur_sigma": INF}, "blur_sigma", "inf"),
    (
        {"substrate": "SUBSTRATE_BLUR", "blur_sigma": 2, "profile": "PROFILE_REFERENCE"},
        "blur_sigma",
        "profile strict",
    ),
    ({"unit": 9}, "unit", "no value has number 9"),
    ({"order": 9}, "order", "no value has number 9"),
    ({"scored_class": 9}, "scored_class", "no value has number 9"),
]


@pytest.mark.parametrize(("parameters", "path", "words"), CURVES)
@pytest.mark.parametrize("name", ["deletion", "insertion"])
def test_parameters_of_curves(scores, name, parameters, path, words):
    asked = [DROP, metric(name, **parameters)]
    check_refusal(refused(scores.score, VIT, asked), f"metrics[1].{name}.{path}", words)


@pytest.mark.parametrize(
    ("parameters", "path", "words"),
    [
        ({"substrate": "SUBSTRATE_NOISY_LINEAR"}, "substrate", "noisy_linear"),
        ({"substrate": 9}, "substrate", "no value has number 9"),
        ({"profile": "PROFILE_PAPER"}, "profile", "strict and reference"),
        ({"blur_sigma": 2}, "blur_sigma", "substrate blur"),
        ({"substrate": "SUBSTRATE_BLUR", "blur_sigma": 49}, "blur_sigma", "at most 48"),
    ],
)
@pytest.mark.parametrize("name", ["average_drop", "average_increase"])
def test_parameters_of_drops(scores, name, parameters, path, words):
    asked = [metric(name, **parameters)]
    check_refusal(refused(scores.score, VIT, asked), f"metrics[0].{name}.{path}", words)


@pytest.mark.parametrize("tolerance", [-1, NAN, INF])
def test_a_tolerance_out_of_range(scores, tolerance):
    asked = [metric("pointing_game", tolerance=tolerance)]
    found = refused(scores.score, VIT, asked, region={"boxes": [BOX]})
    check_refusal(found, "metrics[0].pointing_game.tolerance", "at least 0")


def test_cells_of_a_map_of_the_pictures_pixels(scores):
    asked = [metric("deletion", unit="ERASURE_UNIT_CELLS")]
    found = refused(scores.score, VIT, asked, heatmap=given(np.ones((32, 48))))
    check_refusal(found, "metrics[0].deletion.unit", "no cells")


def test_cells_of_two_maps_that_have_not_as_many(scores):
    asked = [metric("deletion", unit="ERASURE_UNIT_CELLS", steps=4)]
    partner = given(np.ones((2, 3)), extent="HEATMAP_EXTENT_GRID")
    fields = {"target": PAIR, "sides": ["SIDE_BOTH"], "partner_heatmap": partner}
    check_refusal(refused(scores.score, VIT, asked, **fields), "partner_heatmap", "erase pixels")


MASK_BYTES = np.ones((32, 48), bool)


@pytest.mark.parametrize(
    ("region", "path", "words"),
    [
        (None, "region", "pointing_game needs a region"),
        ({}, "region", "boxes, a mask or both"),
        ({"boxes": [BOX, {**BOX, "right": 48.5}]}, "region.boxes[1]", "48 x 32 pixels"),
        ({"boxes": [{**BOX, "left": -1}]}, "region.boxes[0]", "(-1, 2, 30, 20)"),
        ({"boxes": [{**BOX, "top": 40, "bottom": 50}]}, "region.boxes[0]", "no place"),
        ({"boxes": [{**BOX, "right": 1}]}, "region.boxes[0]", "(1, 2, 1, 20)"),
        ({"boxes": [{**BOX, "bottom": 1}]}, "region.boxes[0]", "no place"),
        ({"boxes": [{}]}, "region.boxes[0]", "(0, 0, 0, 0)"),
        ({"boxes": [{**BOX, "left": NAN}]}, "region.boxes[0]", "nan"),
        ({"boxes": [{**BOX, "right": INF}]}, "region.boxes[0]", "inf"),
        ({"mask": plane(MASK_BYTES[:, :40], 5)}, "region.mask", "a mask of 32 x 40"),
        ({"mask": plane(MASK_BYTES.T, 5)}, "region.mask", "a mask of 48 x 32"),
        ({"mask": plane(MASK_BYTES)}, "region.mask", "BOOL or UINT8"),
        ({"mask": {}}, "region.mask", "BOOL or UINT8"),
        ({"mask": plane(MASK_BYTES[0], 5)}, "region.mask.shape", "[48]"),
        ({"mask": plane(np.zeros((32, 48)), 5)}, "region.mask", "empty"),
        ({"boxes": [BOX] * 101}, "region.boxes", "at most 100"),
    ],
)
def test_regions(scores, region, path, words):
    fields = {} if region is None else {"region": region}
    check_refusal(refused(scores.score, VIT, [DROP, POINTING], **fields), path, words)
    check_refusal(
        refused(scores.score, VIT, [metric("energy_pointing_game")], **fields),
        path,
        words.replace("pointing_game needs", "energy_pointing_game needs"),
    )


def test_a_region_is_checked_though_no_game_asks_for_it(scores):
    found = refused(scores.score, VIT, [DROP], region={"boxes": [{**BOX, "left": 40}]})
    check_refusal(found, "region.boxes[0]")
