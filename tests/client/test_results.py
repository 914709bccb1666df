import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pairlens import (
    EncodedImage,
    Explanation,
    InvalidParameterError,
    MalformedResponseError,
    PairMatch,
    PairResults,
    Rendering,
    _codec,
    rendering,
)
from pairlens.rendering import ColorMap, ColorScale, Interpolation
from pairlens.v1 import explanation_service_pb2, methods_pb2
from tests.client.scripted import heatmap, png, provenance, status, tensor, timing

WIDE, TALL = EncodedImage(png(40, 60), "wide.png"), EncodedImage(png(90, 30), "tall.png")
DRAWN = Image.new("RGB", (60, 40), (1, 2, 3))


def explanation(render: Rendering | None = None, **changes: object) -> Explanation:
    response = explanation_service_pb2.ExplainResponse(
        heatmap=heatmap(WIDE.data),
        method=methods_pb2.ExplanationMethod(grad_cam={}),
        target={"class_index": 1, "label": "goldfish", "logit": 2.5, "probability": 0.75},
        provenance=provenance("cnn", "grad_cam"),
        timing=timing(),
    )
    if render is not None:
        buffer = io.BytesIO()
        DRAWN.save(buffer, "PNG")
        response.rendered.overlay_png = buffer.getvalue()
    made = _codec.explanation(response, WIDE, render and render.resolved(ColorScale.IMAGE))
    return dataclasses.replace(made, **changes)


def pairs() -> PairResults:
    """A match, a failure, and a match with a matrix."""
    query = {"heatmap": heatmap(WIDE.data)}
    matches = [
        {"similarity": 0.5, "query": query, "candidate": {"heatmap": heatmap(TALL.data, scale=2)}},
        {
            "similarity": 0.75,
            "query": query,
            "candidate": {"heatmap": heatmap(WIDE.data)},
            "match_matrix": tensor(np.eye(6)),
        },
    ]
    response = explanation_service_pb2.PairSimilarityResponse(
        results=[
            {"match": matches[0]},
            {"error": status("IMAGE_UNDECODABLE", "broken")},
            {"match": matches[1]},
        ],
        provenance=provenance("cnn", "pooled_decomposition"),
    )
    return _codec.pair_results(response, WIDE, [TALL, WIDE, WIDE], None)


def first_match() -> PairMatch:
    return pairs().matches[0]


def same(left: Image.Image, right: Image.Image) -> bool:
    return left.size == right.size and np.array_equal(np.asarray(left), np.asarray(right))


def test_values_of_an_explanation():
    made = explanation()
    assert (made.heatmap.dtype, made.heatmap.shape) == (np.float32, (2, 3))
    assert made.score == made.target.probability == 0.75
    assert made.target.label == "goldfish"
    assert (made.provenance.model, made.provenance.method_revision) == ("cnn", 3)
    assert (made.timing.total_s, made.timing.cached_images, made.timing.images) == (1.5, 1, 2)
    assert made.timing.queue_s == 0


def test_results_are_frozen_and_arrays_read_only():
    made = explanation()
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.min = 3  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        made.heatmap[0, 0] = 3
    assert not pairs().matches[1].match_matrix.flags.writeable


def test_representations_are_short():
    assert len(repr(explanation())) < 1000
    assert len(repr(pairs())) < 3000


def test_upsampled_is_the_rendering_modules():
    made = explanation()
    full = made.upsampled()
    assert (full.dtype, full.shape) == (np.float32, (40, 60))
    expected = rendering.enlarge(made.heatmap, made.geometry, 40, 60, Interpolation.BILINEAR)
    np.testing.assert_array_equal(full, expected)
    assert made.upsampled(20).shape == (20, 30)
    assert made.upsampled(width=30).shape == (20, 30)
    assert made.upsampled(7, 9).shape == (7, 9)
    cells = made.upsampled(4, 6, interpolation="nearest")
    np.testing.assert_array_equal(cells, np.kron(made.heatmap, np.ones((2, 2))))


@pytest.mark.parametrize("size", [(0, None), (None, 0), (-1, 5), (0, 5), (5, 0)])
def test_upsampled_sizes(size: tuple[int | None, int | None]):
    with pytest.raises(InvalidParameterError):
        explanation().upsampled(*size)


def test_overlay_is_the_rendering_modules():
    made = explanation()
    drawn = made.overlay(color_map="jet", opacity=0.3, interpolation="nearest", fixed=(-2, 9))
    expected = rendering.overlay(
        WIDE.picture(),
        made.heatmap,
        made.geometry,
        low=-2,
        high=9,
        color_map=ColorMap.JET,
        opacity=0.3,
        interpolation=Interpolation.NEAREST,
    )
    assert same(drawn, expected)
    assert made.overlay().size == (60, 40)
    assert made.overlay(max_side=30).size == (30, 20)


@pytest.mark.parametrize(
    ("style", "message"),
    [
        ({"color_map": "rainbow"}, "color_map is one of viridis, inferno, jet; not 'rainbow'"),
        ({"interpolation": "lanczos"}, "interpolation is one of nearest"),
        ({"scale": "wide"}, "scale is one of image"),
        ({"scale": "fixed"}, "fixed"),
        ({"scale": "image", "fixed": (0, 1)}, "fixed"),
        ({"fixed": (1, 1)}, "low < high"),
        ({"fixed": (0, float("nan"))}, "low < high"),
        ({"opacity": 1.5}, "opacity is from 0 to 1"),
        ({"opacity": float("nan")}, "opacity is from 0 to 1"),
        ({"max_side": 15}, "max_side is from 16"),
        ({"max_side": 8193}, "max_side is from 16"),
        ({"scale": "pair"}, "needs a pair"),
    ],
)
def test_bad_styles(style: dict[str, object], message: str):
    with pytest.raises(InvalidParameterError, match=message):
        explanation().overlay(**style)


def test_unknown_style():
    with pytest.raises(TypeError, match="colour_map"):
        explanation().overlay(colour_map="jet")  # type: ignore[call-arg]


def test_rendering_draws_something():
    with pytest.raises(InvalidParameterError, match="overlay, upsampled or both"):
        Rendering(overlay=False)


def test_the_servers_drawing_is_used_where_it_is_the_same():
    made = explanation(Rendering(color_map="jet", max_side=64))
    assert same(made.overlay(color_map="jet", max_side=64), DRAWN)
    assert same(made.overlay(color_map="jet", max_side=64, scale="image"), DRAWN)
    assert not same(made.overlay(color_map="jet"), DRAWN)
    assert not same(made.overlay(max_side=64), DRAWN)


def test_a_broken_drawing_of_the_server():
    made = explanation(Rendering())
    broken = dataclasses.replace(made.rendered, overlay_png=b"no picture")
    with pytest.raises(MalformedResponseError, match="no PNG"):
        dataclasses.replace(made, rendered=broken).overlay()


@pytest.mark.parametrize("name", ["map.png", "map.jpg", "MAP.JPEG"])
def test_save_pictures(tmp_path: Path, name: str):
    explanation().save(tmp_path / name, max_side=30)
    with Image.open(tmp_path / name) as saved:
        assert saved.size == (30, 20)
        assert saved.format == ("PNG" if name.endswith("png") else "JPEG")


@pytest.mark.parametrize("name", ["map.npy", "MAP.NPY"])
def test_save_npy(tmp_path: Path, name: str):
    made = explanation()
    made.save(str(tmp_path / name))
    np.testing.assert_array_equal(np.load(tmp_path / name, allow_pickle=False), made.heatmap)


def test_save_npz(tmp_path: Path):
    made = explanation()
    made.save(tmp_path / "map.npz")
    with np.load(tmp_path / "map.npz", allow_pickle=False) as saved:
        assert sorted(saved) == ["heatmap", "image_size", "region"]
        np.testing.assert_array_equal(saved["heatmap"], made.heatmap)
        assert saved["region"].tolist() == [0, 0, 60, 40]
        assert saved["image_size"].tolist() == [40, 60]


def test_save_elsewhere(tmp_path: Path):
    with pytest.raises(
        InvalidParameterError, match=r"map\.gif.*\.png, \.jpg, \.jpeg, \.npy, \.npz"
    ):
        explanation().save(tmp_path / "map.gif")
    with pytest.raises(InvalidParameterError, match=r"color_map: a \.npy file holds values"):
        explanation().save(tmp_path / "map.npy", color_map="jet")
    with pytest.raises(FileNotFoundError):
        explanation().save(tmp_path / "no" / "map.png")
    assert not list(tmp_path.iterdir())


def test_notebooks_show_pictures():
    for result in (explanation(), first_match(), pairs()):
        with Image.open(io.BytesIO(result._repr_png_())) as shown:
            assert shown.format == "PNG"
    assert dataclasses.replace(pairs(), results=pairs()[1:2])._repr_png_() is None


def test_a_pair_is_drawn_side_by_side_at_one_height():
    drawn = np.asarray(first_match().overlay())
    # 40 high: 60 wide, a gap of 2, and the tall one (30 x 90) shrunk to 13; a caption below.
    assert drawn.shape == (40 + 18, 60 + 2 + 13, 3)
    assert (drawn[:40, 60:62] == 255).all()
    assert (drawn[:40, :60] != 255).any()
    assert (drawn[:40, 62:] != 255).any()
    assert drawn[40:].min() < 100


def test_pair_scale_is_the_default_and_shared():
    match = first_match()
    assert same(match.overlay(), match.overlay(scale="pair"))
    assert same(match.overlay(), match.overlay(fixed=(0, 10)))  # values are 0 to 5 and 0 to 10
    assert not same(match.overlay(), match.overlay(scale="image"))


def test_one_side_alone():
    assert first_match().candidate.overlay().size == (30, 90)


def test_pair_results_are_a_sequence():
    results = pairs()
    assert len(results) == 3
    assert [type(result).__name__ for result in results] == [
        "PairMatch",
        "PairFailure",
        "PairMatch",
    ]
    assert results[1].error.reason == "IMAGE_UNDECODABLE"
    assert results[1].image is WIDE
    assert results[:2] == results.results[:2]
    assert results.method.name == "pooled_decomposition"


def test_rows_of_all_matches():
    rows = [match.overlay() for match in pairs().matches]
    sheet = pairs().overlay()
    assert sheet.size == (max(row.width for row in rows), sum(row.height for row in rows))
    shrunk = pairs().overlay(max_side=20)
    assert shrunk.height < sheet.height


def test_no_rows():
    failed = dataclasses.replace(pairs(), results=pairs()[1:2])
    with pytest.raises(InvalidParameterError, match="nothing to draw"):
        failed.overlay()


def test_save_pairs(tmp_path: Path):
    results = pairs()
    results.save(tmp_path / "all.png")
    results.save(tmp_path / "all.npz")
    results.matches[1].save(tmp_path / "one.npz")
    with Image.open(tmp_path / "all.png") as saved:
        assert saved.size == results.overlay().size
    with np.load(tmp_path / "all.npz", allow_pickle=False) as saved:
        assert sorted(saved) == [
            "candidate_0",
            "candidate_2",
            "match_matrix_2",
            "query_0",
            "query_2",
            "similarity_0",
            "similarity_2",
        ]
        assert saved["similarity_2"] == 0.75
    with np.load(tmp_path / "one.npz", allow_pickle=False) as saved:
        np.testing.assert_array_equal(saved["match_matrix"], np.eye(6))
    with pytest.raises(InvalidParameterError, match="suffix"):
        results.save(tmp_path / "all.npy")
