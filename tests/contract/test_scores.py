"""What right answers of ScoreSaliency hold, against pictures erased by hand and sent one by one."""

import numpy as np
import pytest
from PIL import Image

from pairlens.v1 import common_pb2, metrics_pb2
from tests.contract.scores import (
    COLUMNS,
    HEIGHT,
    ROWS,
    WIDTH,
    Scores,
    curve,
    exact,
    given,
    metric,
    most_relevant,
    painted,
    random_map,
)
from tests.contract.support import array, encoded
from tests.server_process import LABELS

VIT, CLS, CNN, HEADLESS = "tiny-vit", "tiny-vit-cls", "tiny-resnet", "tiny-headless"
CELLS, BLACK = "ERASURE_UNIT_CELLS", "SUBSTRATE_BLACK"
LEAST = "ERASURE_ORDER_LEAST_RELEVANT_FIRST"
REFERENCE = "PROFILE_REFERENCE"
PREDICTED = "SCORED_CLASS_PREDICTED"
EVERY_CELL = {"unit": CELLS, "substrate": BLACK, "steps": ROWS * COLUMNS}


@pytest.fixture(scope="module")
def scores(server) -> Scores:
    return Scores(server.channel)


def area(fractions, values) -> float:
    """By the trapezoid rule."""
    x, y = np.asarray(fractions, np.float64), np.asarray(values, np.float64)
    return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum())


def probability(server, model: str, file: bytes, class_index: int) -> float:
    method = {"grad_cam": {}}
    answer = server.explain(model, file, method=method, target={"class_index": class_index})
    return float(answer.target.probability)


@pytest.mark.parametrize("model", [VIT, CLS])
def test_curves_are_the_probabilities_of_pictures_erased_by_hand(server, scores, model):
    heatmap, count = random_map(), ROWS * COLUMNS
    deletion, insertion, least = scores.score(
        model,
        [
            metric("deletion", **EVERY_CELL),
            metric("insertion", **EVERY_CELL),
            metric("deletion", **EVERY_CELL, order=LEAST),
        ],
        target={"class_index": 3},
    ).results
    for result, hidden in (
        (deletion, lambda step: most_relevant(heatmap, step)),
        (insertion, lambda step: ~most_relevant(heatmap, step)),
        (least, lambda step: ~most_relevant(heatmap, count - step)),
    ):
        by_hand = [
            probability(server, model, painted(exact(1), hidden(step)), 3)
            for step in range(count + 1)
        ]
        fractions, found = curve(result)
        np.testing.assert_allclose(fractions, np.linspace(0, 1, count + 1), atol=1e-7)
        np.testing.assert_allclose(found, by_hand, atol=1e-5)
        assert result.value == pytest.approx(area(fractions, by_hand), abs=1e-5)
        full, empty = (by_hand[0], by_hand[-1]) if result != insertion else by_hand[::-count]
        assert (result.clean_score, result.masked_score) == pytest.approx((full, empty), abs=1e-5)
        scaled = (np.array(by_hand) - empty) / (full - empty)
        expected = area(fractions, scaled)
        assert result.normalized_value == pytest.approx(expected, abs=1e-3)
        assert result.class_index == 3
        assert result.undefined == ""


def test_drops_are_those_of_a_picture_masked_by_hand(server, scores):
    binary = (random_map() > 0).astype(np.float32)
    drop, increase, reference = scores.score(
        VIT,
        [
            metric("average_drop"),
            metric("average_increase"),
            metric("average_drop", profile=REFERENCE),
        ],
        heatmap=given(5 * binary - 2),
        enlargement="ENLARGEMENT_NEAREST",
        target={"class_index": 2},
    ).results
    before = probability(server, VIT, exact(1), 2)
    after = probability(server, VIT, painted(exact(1), binary == 0), 2)
    for found in (drop, increase, reference):
        assert (found.clean_score, found.masked_score) == pytest.approx((before, after), abs=1e-5)
        assert not found.HasField("curve")
    expected = max(0, before - after) / before
    assert drop.value == pytest.approx(expected, abs=1e-5)
    assert reference.value == pytest.approx(expected, abs=1e-5)
    assert increase.value == float(after > before)


METRICS = [
    metric("average_drop"),
    metric("average_increase", substrate="SUBSTRATE_BLUR"),
    metric("deletion"),
    metric("insertion"),
    metric("deletion", profile=REFERENCE),
    metric("insertion", profile=REFERENCE),
    metric("deletion", substrate="SUBSTRATE_NOISY_LINEAR", steps=5),
    metric("insertion", substrate="SUBSTRATE_NOISE", seed=3, fractions=[0.1, 0.25]),
    metric("deletion", scored_class=PREDICTED, step_size=200),
    metric("deletion", steps=7, order=LEAST),
]


@pytest.mark.parametrize("model", [VIT, CNN])
def test_ends_of_curves(scores, model):
    shape = (ROWS, COLUMNS) if model == VIT else (2, 3)
    answer = scores.score(
        model, METRICS, heatmap=given(random_map(0, shape)), target={"class_index": 1}
    )
    assert answer.target.class_index == 1
    predicted = scores.score(model, METRICS[:1], heatmap=given(random_map(0, shape))).target
    for asked, result in zip(METRICS, answer.results, strict=True):
        name = asked.WhichOneof("metric")
        chosen = getattr(result.metric, name)
        class_of = {metrics_pb2.SCORED_CLASS_TARGET: answer, metrics_pb2.SCORED_CLASS_PREDICTED: 0}
        own = class_of[chosen.scored_class] is answer
        target = answer.target if own else predicted
        assert result.class_index == target.class_index
        assert result.clean_score == pytest.approx(target.probability, abs=1e-6)
        if name not in ("deletion", "insertion"):
            continue
        fractions, found = curve(result)
        first, last = found[0], found[-1]
        clean, filled = (first, last) if name == "deletion" else (last, first)
        assert (clean, filled) == (
            np.float32(result.clean_score),
            np.float32(result.masked_score),
        )
        assert (fractions[0], fractions[-1]) == (0, 1)
        assert (np.diff(fractions) > 0).all()
        if chosen.profile == common_pb2.PROFILE_REFERENCE:
            expected = (found.sum() - (first + last) / 2) / (len(found) - 1)
        else:
            expected = area(fractions, found)
        assert result.value == pytest.approx(expected, abs=1e-6)


def test_metrics_come_back_resolved(scores):
    deletion, insertion = scores.score(
        VIT, [metric("deletion", profile=REFERENCE), metric("insertion", fractions=[0.1, 0.7])]
    ).results
    assert deletion.metric.deletion == metrics_pb2.Deletion(
        profile=REFERENCE,
        step_size=224,
        substrate="SUBSTRATE_MEAN",
        seed=0,
        unit="ERASURE_UNIT_PIXELS",
        order="ERASURE_ORDER_MOST_RELEVANT_FIRST",
        scored_class=PREDICTED,
    )
    # 1536 pixels in steps of 224.
    np.testing.assert_allclose(
        array(deletion.curve.fractions), [*(224 * np.arange(7) / 1536), 1], rtol=1e-6
    )
    chosen = insertion.metric.insertion
    assert list(chosen.fractions) == list(np.float32([0.1, 0.7]))
    assert not chosen.HasField("steps")
    assert chosen.substrate == metrics_pb2.SUBSTRATE_BLUR
    np.testing.assert_allclose(
        array(insertion.curve.fractions), [0, 154 / 1536, 1075 / 1536, 1], rtol=1e-6
    )


@pytest.mark.parametrize("colour", [0, 90])
def test_a_picture_that_erasing_does_not_change_has_its_score_as_area(scores, colour):
    plain = encoded(Image.new("RGB", (WIDTH, HEIGHT), (colour,) * 3))
    # The mean over reflected neighbours of a plain picture is the picture.
    substrate = BLACK if colour == 0 else "SUBSTRATE_BLUR"
    asked = [
        metric("deletion", substrate=substrate),
        metric("insertion", substrate=substrate, step_size=100),
        metric("average_drop", substrate=substrate),
    ]
    if colour == 0:
        asked.append(metric("deletion", substrate=substrate, profile=REFERENCE))
    for result in scores.score(VIT, asked, plain, target={"class_index": 4}).results:
        if result.metric.HasField("average_drop"):
            assert result.value == pytest.approx(0, abs=1e-5)
            continue
        np.testing.assert_allclose(curve(result)[1], result.clean_score, atol=1e-6)
        assert result.value == pytest.approx(result.clean_score, abs=1e-6)
        assert not result.HasField("normalized_value")
        assert result.undefined == ""


def test_targets(scores):
    asked = [metric("deletion", steps=3), metric("deletion", steps=3, scored_class=PREDICTED)]
    heatmap = given(random_map(0, (2, 3)))
    labelled = scores.score(CNN, asked, heatmap=heatmap, target={"label": "dog"})
    assert (labelled.target.class_index, labelled.target.label) == (1, LABELS[1])
    default = scores.score(CNN, asked, heatmap=heatmap)
    predicted = scores.score(CNN, asked, heatmap=heatmap, target={"predicted": True})
    assert default.results == predicted.results
    assert default.results[0].class_index == default.target.class_index
    assert default.results[0].value == default.results[1].value
    assert labelled.results[0].class_index == 1
    assert labelled.results[1] == default.results[1]
