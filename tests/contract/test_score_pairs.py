"""Scores of pairs: either picture changed, or both, and the embeddings of their copies."""

import numpy as np
import pytest

from pairlens.v1 import explanation_service_pb2, metrics_pb2
from tests.contract.scores import (
    COLUMNS,
    ROWS,
    Scores,
    cosine,
    curve,
    exact,
    given,
    like,
    metric,
    most_relevant,
    painted,
    plane,
    random_map,
)
from tests.contract.support import array, png

VIT, CNN, HEADLESS = "tiny-vit", "tiny-resnet", "tiny-headless"
CELLS, BLACK = "ERASURE_UNIT_CELLS", "SUBSTRATE_BLACK"
EVERY_CELL = {"unit": CELLS, "substrate": BLACK, "steps": ROWS * COLUMNS}


@pytest.fixture(scope="module")
def scores(server) -> Scores:
    return Scores(server.channel)


@pytest.mark.parametrize("model", [VIT, HEADLESS])
def test_similarity_curves_are_the_cosines_of_pictures_erased_by_hand(scores, model):
    maps, steps = (random_map(0), random_map(7)), 6
    answer = scores.score(
        model,
        [metric("deletion", unit=CELLS, substrate=BLACK, steps=steps)],
        heatmap=given(maps[0]),
        partner_heatmap=given(maps[1]),
        target=like(exact(2)),
        sides=["SIDE_IMAGE", "SIDE_PARTNER", "SIDE_BOTH"],
    )
    counts = [ROWS * COLUMNS * step // steps for step in range(steps + 1)]
    images, partners = (
        scores.embeddings(
            model, *(painted(exact(1 + k), most_relevant(maps[k], n)) for n in counts)
        )
        for k in range(2)
    )
    image, partner, both = (curve(result)[1] for result in answer.results)
    np.testing.assert_allclose(image, [cosine(e, partners[0]) for e in images], atol=1e-5)
    np.testing.assert_allclose(partner, [cosine(images[0], e) for e in partners], atol=1e-5)
    pairs = zip(images, partners, strict=True)
    np.testing.assert_allclose(both, [cosine(a, b) for a, b in pairs], atol=1e-5)
    assert list(answer.target.similarities) == pytest.approx([image[0]], abs=1e-6)
    assert not any(result.HasField("class_index") for result in answer.results)


def test_the_similarity_to_several_is_their_sum(scores):
    files, others = (exact(2), exact(3)), np.random.default_rng(4).normal(size=(2, 6))
    target = like(*files, embeddings=plane(others))
    answer = scores.score(VIT, [metric("deletion", **EVERY_CELL)], target=target)
    gallery = [*scores.embeddings(VIT, *files), *others]
    hidden = [most_relevant(random_map(), n) for n in range(25)]
    erased = scores.embeddings(VIT, *(painted(exact(1), cells) for cells in hidden))
    expected = [sum(cosine(e, other) for other in gallery) for e in erased]
    np.testing.assert_allclose(curve(answer.results[0])[1], expected, atol=1e-5)
    assert sum(answer.target.similarities) == pytest.approx(expected[0], abs=1e-5)


def test_sides_of_an_answer_come_in_their_order(scores):
    asked = [metric("average_drop"), metric("pointing_game"), metric("deletion", steps=2)]
    sides = ["SIDE_BOTH", "SIDE_IMAGE"]
    answer = scores.score(
        VIT,
        asked,
        target=like(exact(2)),
        partner_heatmap=given(random_map(2)),
        sides=sides,
        region={"boxes": [{"right": 20, "bottom": 20}]},
    )
    found = [
        (result.metric.WhichOneof("metric"), explanation_service_pb2.Side.Name(result.side))
        for result in answer.results
    ]
    assert found == [
        ("average_drop", "SIDE_BOTH"),
        ("average_drop", "SIDE_IMAGE"),
        ("pointing_game", "SIDE_IMAGE"),
        ("deletion", "SIDE_BOTH"),
        ("deletion", "SIDE_IMAGE"),
    ]


@pytest.mark.parametrize("model", [VIT, CNN, HEADLESS])
def test_the_partner_of_a_pair_is_the_image_of_the_turned_pair(scores, model):
    shape = (2, 3) if model == CNN else (ROWS, COLUMNS)
    files, maps = (png(1), png(2, 30, 90)), (random_map(1, shape), random_map(2, shape))
    asked = [metric("average_drop"), metric("deletion", steps=9), metric("insertion", steps=9)]
    there, back = (
        scores.score(
            model,
            asked,
            files[k],
            heatmap=given(maps[k]),
            partner_heatmap=given(maps[1 - k]),
            target=like(files[1 - k]),
            sides=["SIDE_IMAGE", "SIDE_PARTNER", "SIDE_BOTH"],
        )
        for k in (0, 1)
    )
    for mine, theirs in ((0, 1), (1, 0), (2, 2)):
        for of_metric in range(len(asked)):
            first, second = (
                answer.results[3 * of_metric + side]
                for answer, side in ((there, mine), (back, theirs))
            )
            assert first.value == pytest.approx(second.value, abs=1e-5)
            assert first.masked_score == pytest.approx(second.masked_score, abs=1e-5)
            if of_metric:
                np.testing.assert_allclose(curve(first)[1], curve(second)[1], atol=1e-5)


def test_embeddings_of_copies(scores):
    """Their cosines are the curve; those of copies made by hand are the same."""
    maps, files = (random_map(0), random_map(1)), (exact(1), exact(2))
    answer = scores.score(
        VIT,
        [metric("deletion", **EVERY_CELL), metric("average_drop")],
        heatmap=given(maps[0]),
        partner_heatmap=given(maps[1]),
        target=like(files[1]),
        sides=["SIDE_IMAGE", "SIDE_PARTNER", "SIDE_BOTH"],
        return_embeddings=True,
    )
    of_image, of_partner, of_both = (result.curve for result in answer.results[:3])
    whole = scores.embeddings(VIT, *files)
    hidden = [[most_relevant(values, n) for n in range(25)] for values in maps]
    for given_tensor, k in (
        (of_image.embeddings, 0),
        (of_partner.embeddings, 1),
        (of_both.embeddings, 0),
        (of_both.partner_embeddings, 1),
    ):
        by_hand = scores.embeddings(VIT, *(painted(files[k], cells) for cells in hidden[k]))
        found = array(given_tensor)
        np.testing.assert_allclose(found, by_hand, atol=1e-5 * np.abs(by_hand).max())
        np.testing.assert_array_equal(found[0], whole[k].astype(np.float32))
    for of_side, firsts, seconds in (
        (of_image, array(of_image.embeddings), [whole[1]] * 25),
        (of_partner, array(of_partner.embeddings), [whole[0]] * 25),
        (of_both, array(of_both.embeddings), array(of_both.partner_embeddings)),
    ):
        cosines = [cosine(*pair) for pair in zip(firsts, seconds, strict=True)]
        np.testing.assert_allclose(array(of_side.scores), cosines, atol=1e-5)
    assert not of_image.HasField("partner_embeddings")
    assert not of_partner.HasField("partner_embeddings")
    assert not any(result.HasField("curve") for result in answer.results[3:])


@pytest.mark.parametrize("side", ["SIDE_IMAGE", "SIDE_PARTNER"])
def test_embeddings_of_one_side_alone(scores, side):
    fields = {
        "partner_heatmap": given(random_map(1)) if side == "SIDE_PARTNER" else None,
        "target": like(exact(2)),
        "sides": [side],
    }
    asked = [metric("insertion", steps=5)]
    with_them = scores.score(VIT, asked, return_embeddings=True, **fields).results[0]
    without = scores.score(VIT, asked, **fields).results[0]
    assert not without.curve.HasField("embeddings")
    other = scores.embeddings(VIT, exact(2 if side == "SIDE_IMAGE" else 1))[0]
    cosines = [cosine(e, other) for e in array(with_them.curve.embeddings)]
    np.testing.assert_allclose(array(without.curve.scores), cosines, atol=1e-5)
    assert with_them.value == pytest.approx(without.value, abs=1e-6)


def test_a_similarity_that_is_not_positive(scores):
    """Average drop alone has no share of it to lose; the other metrics are what they are."""
    opposite = -scores.embeddings(VIT, exact(1))
    asked = [metric("average_drop"), metric("average_increase"), metric("deletion", steps=3)]
    answer = scores.score(VIT, asked, target=like(embeddings=plane(opposite)))
    drop, increase, deletion = answer.results
    assert list(answer.target.similarities) == pytest.approx([-1], abs=1e-6)
    assert not drop.HasField("value")
    assert drop.undefined == "the clean similarity is not positive"
    assert drop.clean_score == pytest.approx(-1, abs=1e-6)
    # Nothing is less similar than the opposite.
    assert increase.value == 1
    assert increase.masked_score > increase.clean_score
    assert not increase.undefined
    assert deletion.value < 0


@pytest.mark.parametrize("profile", ["PROFILE_STRICT", "PROFILE_REFERENCE"])
@pytest.mark.parametrize("fields", [{}, {"scored_class": "SCORED_CLASS_TARGET"}])
def test_what_is_echoed_for_a_similarity_can_be_sent_again(scores, profile, fields):
    names = ("average_drop", "average_increase", "deletion", "insertion")
    asked = [metric(name, profile=profile, **fields) for name in names]
    target = like(exact(2))
    answer = scores.score(VIT, asked, target=target)
    echoed = [result.metric for result in answer.results]
    for name, found in zip(names, echoed, strict=True):
        assert getattr(found, name).scored_class == metrics_pb2.SCORED_CLASS_UNSPECIFIED
    assert scores.score(VIT, echoed, target=target).results == answer.results


@pytest.mark.parametrize("target", [None, "similarity"])
def test_what_is_echoed_of_a_blur_gives_the_same_again(scores, target):
    asked = [
        metric("average_drop", substrate="SUBSTRATE_BLUR"),
        metric("insertion", steps=9),
        metric("deletion", steps=9, substrate="SUBSTRATE_BLUR", blur_sigma=0.1),
    ]
    fields = {"target": like(exact(2)) if target else None}
    answer = scores.score(VIT, asked, **fields)
    echoed = [result.metric for result in answer.results]
    # 5 at 224, of 32 x 48.
    for found in (echoed[0].average_drop, echoed[1].insertion):
        assert found.HasField("blur_sigma")
        assert found.blur_sigma == pytest.approx(5 / 7)
    again = scores.score(VIT, echoed, **fields)
    assert again.results == answer.results
    # Unset and its number are one filling, whose copies run once.
    both = scores.score(VIT, [asked[1], echoed[1]], **fields)
    assert both.forward_passes == (2 if target else 1) + 9
