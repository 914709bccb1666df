"""Maps that callers give, maps of methods, and where maps lie."""

import numpy as np
import pytest

from pairlens.v1 import common_pb2
from tests.contract.scores import (
    COLUMNS,
    DTYPES,
    HEIGHT,
    ROWS,
    WIDTH,
    Scores,
    check_refusal,
    exact,
    given,
    like,
    metric,
    plane,
    random_map,
)
from tests.contract.support import array, png, refused, values

VIT, CLS, CNN, HEADLESS = "tiny-vit", "tiny-vit-cls", "tiny-resnet", "tiny-headless"
CELLS, BLACK = "ERASURE_UNIT_CELLS", "SUBSTRATE_BLACK"
REFERENCE = "PROFILE_REFERENCE"
EVERY_CELL = {"unit": CELLS, "substrate": BLACK, "steps": ROWS * COLUMNS}


@pytest.fixture(scope="module")
def scores(server) -> Scores:
    return Scores(server.channel)


@pytest.mark.parametrize("dtype", DTYPES)
def test_maps_of_every_dtype_give_what_their_values_in_float32_give(scores, dtype):
    levels = 2 if dtype == common_pb2.DATA_TYPE_BOOL else 200
    values = np.random.default_rng(3).integers(0, levels, (ROWS, COLUMNS))
    asked = [metric("deletion", steps=6), metric("average_drop"), metric("insertion", unit=CELLS)]
    found = scores.score(VIT, asked, heatmap=given(plane(values, dtype)))
    plain = scores.score(VIT, asked, heatmap=given(values.astype(np.float32)))
    assert found.results == plain.results


def test_half_precision_is_read_bit_by_bit(scores):
    values = random_map(5).astype(np.float16)
    half = scores.score(
        VIT, [metric("deletion")], heatmap=given(plane(values, common_pb2.DATA_TYPE_FLOAT16))
    )
    plain = scores.score(VIT, [metric("deletion")], heatmap=given(values.astype(np.float32)))
    assert half.results == plain.results


def test_constant_and_negative_maps(scores):
    """Ties in reading order, or from the bottom right under REFERENCE; nothing is shown of a
    constant map."""
    asked = [
        metric("deletion", **EVERY_CELL),
        metric("deletion", **{**EVERY_CELL, "profile": REFERENCE, "scored_class": 1}),
        metric("average_drop"),
    ]
    ramp = -np.arange(24, dtype=np.float32).reshape(ROWS, COLUMNS)
    expected = scores.score(VIT, asked[:1], heatmap=given(ramp)).results[0]
    backwards = scores.score(VIT, asked[:1], heatmap=given(-ramp)).results[0]
    for level in (0, -3.5):
        strict, reference, drop = scores.score(
            VIT, asked, heatmap=given(np.full((ROWS, COLUMNS), level))
        ).results
        assert strict == expected
        np.testing.assert_array_equal(array(reference.curve.scores), array(backwards.curve.scores))
        assert drop.masked_score == pytest.approx(expected.masked_score, abs=1e-6)


PICTURE_SIZES = [(100, 400), (400, 100), (40, 56), (32, 49), (25, 34)]


@pytest.mark.parametrize("size", PICTURE_SIZES)
def test_a_map_of_the_picture_may_hold_anything_where_the_model_does_not_see(server, scores, size):
    """Maps as Explain enlarges them: NaN outside of the crop, whatever fraction of a pixel."""
    answer = server.explain(CNN, png(1, *size), rendering={"upsampled": True})
    enlarged = array(answer.rendered.upsampled)
    assert enlarged.shape == size
    outside = np.isnan(enlarged)
    assert outside.any()
    asked = [metric("deletion", steps=6), metric("average_drop"), metric("insertion", steps=3)]
    found = scores.score(CNN, asked, png(1, *size), heatmap=given(enlarged))
    for filling in (np.inf, -np.inf, 1e30, -1e30):
        filled = np.where(outside, filling, enlarged).astype(np.float32)
        again = scores.score(
            CNN, asked, png(1, *size), heatmap=given(filled, extent="HEATMAP_EXTENT_PICTURE")
        )
        assert again.results == found.results
    for row, column in np.argwhere(~outside)[[0, len(np.argwhere(~outside)) // 2, -1]]:
        for wrong in (np.nan, np.inf):
            broken = enlarged.copy()
            broken[row, column] = wrong
            refusal = refused(scores.score, CNN, asked, png(1, *size), heatmap=given(broken))
            check_refusal(refusal, "heatmap.values", "not finite")


def test_a_map_scores_as_its_enlargement(server, scores):
    """Of a picture of the input's size, whose pixels the grid's enlargement is of."""
    answer = server.explain(VIT, exact(1), method={"grad_cam": {}}, rendering={"upsampled": True})
    asked = [metric("average_drop"), metric("average_increase"), metric("deletion", steps=12)]
    grid = scores.score(VIT, asked, heatmap=given(values(answer)))
    for extent in ("PICTURE", "INPUT", "UNSPECIFIED"):
        enlarged = given(array(answer.rendered.upsampled), extent=f"HEATMAP_EXTENT_{extent}")
        pixels = scores.score(VIT, asked, heatmap=enlarged)
        for first, second in zip(grid.results, pixels.results, strict=True):
            assert first.value == pytest.approx(second.value, abs=1e-4)


def test_a_coarser_grid_divides_what_the_model_sees(scores):
    coarse = random_map(3, (2, 3))
    asked = [metric("deletion", steps=6, unit=CELLS), metric("average_drop")]
    found = scores.score(VIT, asked, heatmap=given(coarse, extent="HEATMAP_EXTENT_GRID"))
    fine = np.kron(coarse, np.ones((2, 2)))
    nearest = "ENLARGEMENT_NEAREST"
    once = scores.score(
        VIT,
        [metric("deletion", steps=6), metric("average_drop")],
        heatmap=given(fine),
        enlargement=nearest,
    )
    # Whole cells, each of 256 pixels that are equal.
    np.testing.assert_array_equal(
        array(found.results[0].curve.scores), array(once.results[0].curve.scores)
    )
    assert found.enlargement != once.enlargement
    again = scores.score(
        VIT, asked, heatmap=given(coarse, extent="HEATMAP_EXTENT_GRID"), enlargement=nearest
    )
    assert again.results[1] == once.results[1]


ASKED = [
    metric("average_drop"),
    metric("deletion", steps=12),
    metric("insertion", unit=CELLS),
    metric("energy_pointing_game"),
]
REGION = {"boxes": [{"left": 5, "top": 5, "right": 30, "bottom": 20}]}


@pytest.mark.parametrize(
    ("model", "method"),
    [(VIT, "rollout"), (VIT, "grad_cam"), (CLS, "attention_relevance"), (CNN, "score_cam")],
)
def test_a_method_and_its_map_sent_back_score_the_same(server, scores, model, method):
    chosen, target = {method: {}}, {"class_index": 2}
    by_method = scores.score(model, ASKED, png(1), method=chosen, target=target, region=REGION)
    explained = server.explain(
        model, png(1), method=chosen, target=None if method == "rollout" else target
    )
    np.testing.assert_array_equal(array(by_method.heatmap.values), values(explained))
    assert by_method.heatmap.geometry == explained.heatmap.geometry
    assert by_method.method == explained.method
    assert by_method.provenance == explained.provenance
    assert not by_method.HasField("partner_heatmap")
    sent_back = scores.score(
        model,
        ASKED,
        png(1),
        heatmap=given(by_method.heatmap.values),
        target=target,
        region=REGION,
    )
    assert sent_back.results == by_method.results
    assert sent_back.target == by_method.target
    assert sent_back.forward_passes == by_method.forward_passes
    assert sent_back.WhichOneof("saliency") is None
    assert not sent_back.HasField("heatmap")
    assert (sent_back.provenance.method, sent_back.provenance.method_revision) == ("", 0)
    assert sent_back.provenance.model_fingerprint == by_method.provenance.model_fingerprint


@pytest.mark.parametrize("model", [VIT, CNN, HEADLESS])
@pytest.mark.parametrize("field", ["method", "pair_method"])
def test_the_maps_of_a_pair_sent_back_score_the_same(server, scores, model, field):
    chosen, target = {"pooled_decomposition": {}}, like(png(2, 30, 90))
    fields = {"target": target, "region": REGION, "sides": ["SIDE_BOTH", "SIDE_PARTNER"]}
    answer = scores.score(model, ASKED, png(1), **{field: chosen}, **fields)
    match = server.pair(model, png(1), png(2, 30, 90), method=chosen).results[0].match
    for ours, theirs in (
        (answer.heatmap, match.query.heatmap),
        (answer.partner_heatmap, match.candidate.heatmap),
    ):
        np.testing.assert_allclose(array(ours.values), array(theirs.values), atol=1e-6)
        assert ours.geometry == theirs.geometry
    assert answer.WhichOneof("saliency") == field
    assert answer.provenance.method == "pooled_decomposition"
    sent_back = scores.score(
        model,
        ASKED,
        png(1),
        heatmap=given(answer.heatmap.values),
        partner_heatmap=given(answer.partner_heatmap.values),
        **fields,
    )
    assert sent_back.results == answer.results
    assert sent_back.forward_passes == answer.forward_passes


def test_localisation(scores):
    """Of 2 x 2 tiles: a map within one has all its energy there, a uniform one a quarter."""
    tiles = {"boxes": [{"left": WIDTH / 2, "top": 0, "right": WIDTH, "bottom": HEIGHT / 2}]}
    inside = np.zeros((ROWS, COLUMNS), np.float32)
    inside[0, 4] = 2
    crossing = -np.ones((ROWS, COLUMNS), np.float32)
    crossing[0, 2:4] = 1, 3
    half = np.zeros((HEIGHT, WIDTH), bool)
    half[: HEIGHT // 2, WIDTH // 2 :] = True
    for heatmap, pointing, energy in (
        (inside, 1, 1),
        (-inside, 5 / 23, None),
        (np.ones((ROWS, COLUMNS)), 1 / 4, 1 / 4),
        (crossing, 1, 3 / 4),
        (np.zeros((ROWS, COLUMNS)), 1 / 4, None),
    ):
        for region in (tiles, {"mask": plane(half, 5)}, {"mask": plane(half * 9, 3)}):
            answer = scores.score(
                VIT,
                [metric("pointing_game"), metric("energy_pointing_game")],
                heatmap=given(heatmap),
                region=region,
            )
            game, share = answer.results
            assert game.value == pytest.approx(pointing)
            if energy is None:
                assert not share.HasField("value")
                assert share.undefined == "the map has no positive value"
            else:
                assert share.value == pytest.approx(energy)
            assert not game.HasField("curve")
            assert not game.HasField("clean_score")
            # Of the target alone.
            assert answer.forward_passes == 1


def test_tolerance_of_the_pointing_game(scores):
    peak = np.zeros((ROWS, COLUMNS), np.float32)
    peak[3, 5] = 1  # whose centre is (44, 28)
    region = {"boxes": [{"left": 0, "top": 0, "right": 41, "bottom": 24}]}  # 5 pixels off
    for tolerance, expected in ((4.9, 0), (5, 1)):
        answer = scores.score(
            VIT,
            [metric("pointing_game", tolerance=tolerance)],
            heatmap=given(peak),
            region=region,
        )
        assert answer.results[0].value == expected
