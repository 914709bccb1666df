"""Scores as plots, arrays and JSON."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pairlens import Client, InvalidParameterError, SaliencyScores, SimilarTo
from pairlens.curves import BLUE, GREEN, VERMILLION
from tests.client.scripted import png
from tests.client.scripted_scores import SCORES

SIDES = ("image", "partner", "both")


@pytest.fixture
def scores(client: Client) -> SaliencyScores:
    """Of one picture: deletion, insertion and average drop."""
    return client.score_saliency(png(), metrics=("deletion", "insertion", "average_drop"))


@pytest.fixture
def pair_scores(client: Client) -> SaliencyScores:
    return client.score_saliency(
        png(),
        method="grad_cam",
        target=SimilarTo(png(30, 20)),
        metrics=("deletion", "insertion", "deletion(order=least_relevant_first)"),
        sides=SIDES,
        return_embeddings=True,
    )


def colored(drawn: Image.Image, color: tuple[int, int, int]) -> np.ndarray:
    """bool [height, width]: where a colour is."""
    return np.abs(np.asarray(drawn).astype(int) - np.array(color)).max(axis=2) < 12


def test_each_metric_has_a_plot(scores: SaliencyScores, pair_scores: SaliencyScores):
    one = scores.curves_figure(size=(400, 300))
    assert one.width == 800  # average_drop has none
    header = one.height - 300
    # Two columns, so that a page of many stays readable.
    assert pair_scores.curves_figure(size=(400, 300)).size == (800, header + 600)


def test_the_curve_is_where_its_numbers_are(scores: SaliencyScores):
    drawn = scores.curves_figure(size=(720, 460))
    blue = colored(drawn, BLUE)
    deletion, insertion = blue[:, :720], blue[:, 720:]
    # Markers at the ends: one falls, the other rises.
    for half, falls in ((deletion, True), (insertion, False)):
        rows, columns = np.nonzero(half)
        left = rows[columns <= columns.min() + 3].mean()
        right = rows[columns >= columns.max() - 3].mean()
        assert (left < right) == falls
    # One axis for both: 0.75 lies at the same height.
    tops = [np.nonzero(half)[0].min() for half in (deletion, insertion)]
    assert abs(tops[0] - tops[1]) <= 1


def test_sides_have_colours_of_their_own(pair_scores: SaliencyScores, scores: SaliencyScores):
    drawn = pair_scores.curves_figure()
    for color in (BLUE, VERMILLION, GREEN):
        for left in (0, 720):
            assert colored(drawn.crop((left, 0, left + 720, 500)), color).sum() > 300
    assert not colored(scores.curves_figure(), GREEN).any()


def test_curves_of_different_steps_share_a_plot(pair_scores: SaliencyScores):
    image, partner, *_ = pair_scores.scores
    short = np.array([0, 1], np.float32)
    curve = dataclasses.replace(partner.curve, fractions=short, scores=1 - short)
    mixed = dataclasses.replace(
        pair_scores, scores=(image, dataclasses.replace(partner, curve=curve))
    )
    assert mixed.curves_figure().width == 720


def test_nothing_to_plot(client: Client, tmp_path: Path):
    scores = client.score_saliency(png(), metrics="average_drop")
    with pytest.raises(InvalidParameterError, match="nothing to plot"):
        scores.curves_figure()
    with pytest.raises(InvalidParameterError, match="nothing to plot"):
        scores.save(tmp_path / "curves.png")
    assert scores._repr_png_() is None


def test_a_notebook_shows_the_curves(scores: SaliencyScores):
    with Image.open(io.BytesIO(scores._repr_png_())) as shown:
        assert np.array_equal(np.asarray(shown), np.asarray(scores.curves_figure()))


@pytest.mark.parametrize("name", ["curves.png", "CURVES.JPG"])
def test_pictures(scores: SaliencyScores, tmp_path: Path, name: str):
    scores.save(tmp_path / name)
    with Image.open(tmp_path / name) as saved:
        assert saved.size == scores.curves_figure().size


def test_arrays(pair_scores: SaliencyScores, tmp_path: Path):
    pair_scores.save(tmp_path / "scores.npz")
    with np.load(tmp_path / "scores.npz", allow_pickle=False) as saved:
        assert saved["heatmap"].shape == (2, 3)
        assert saved["partner_heatmap"][1, 2] == 10
        assert saved["partner_image_size"].tolist() == [30, 20]
        assert saved["metric"][0] == "deletion(steps=3)"
        assert saved["side"].tolist() == [*SIDES] * 3
        np.testing.assert_allclose(saved["value"][:3], [0.3125, 0.1875, 0.0625])
        np.testing.assert_array_equal(
            saved["3_insertion_image_scores"], SCORES["insertion"].astype(np.float32)
        )
        assert saved["5_insertion_both_embeddings"].shape == (4, 5)
        assert "0_deletion_image_partner_embeddings" not in saved.files


def test_undefined_values_are_nan(client: Client, tmp_path: Path):
    scores = client.score_saliency(png(), metrics=("average_increase", "average_drop"))
    scores.save(tmp_path / "scores.npz")
    with np.load(tmp_path / "scores.npz") as saved:
        np.testing.assert_array_equal(saved["value"], [np.nan, 0.5])


def test_json(scores: SaliencyScores, tmp_path: Path):
    scores.save(tmp_path / "scores.json")
    document = json.loads((tmp_path / "scores.json").read_text("utf-8"))
    deletion, insertion, drop = document["scores"]
    assert deletion["metric"] == {"name": "deletion", "parameters": {"steps": 3}}
    assert (deletion["side"], deletion["value"], deletion["class_index"]) == ("image", 0.3125, 1)
    assert insertion["curve"]["scores"] == SCORES["insertion"].tolist()
    assert (drop["curve"], drop["masked_score"]) == (None, None)
    assert document["heatmap"]["geometry"]["image_width"] == 60
    assert document["method"]["name"] == "rollout"
    assert (document["partner"], document["image"]) == (None, "")


def test_a_given_array_is_not_kept(client: Client, tmp_path: Path):
    scores = client.score_saliency(png(), heatmap=np.eye(3), metrics="deletion")
    scores.save(tmp_path / "scores.npz")
    scores.save(tmp_path / "curves.png")
    with np.load(tmp_path / "scores.npz") as saved:
        assert "heatmap" not in saved.files
        assert saved["value"] == [0.3125]


def test_other_files_are_refused(scores: SaliencyScores, tmp_path: Path):
    with pytest.raises(InvalidParameterError, match=r"\.png, \.jpg, \.jpeg, \.npz, \.json"):
        scores.save(tmp_path / "scores.npy")
