"""What an explanation holds besides its map, and how an answer that breaks the contract is met."""

from pathlib import Path

import numpy as np
import pytest

from pairlens import _codec
from pairlens._tensors import from_array, to_bool, to_float32, to_int64
from pairlens.errors import MalformedResponseError
from pairlens.models import Method
from pairlens.rendering import Box
from pairlens.results import Diagnostics, HeadInterrelation, Unit
from pairlens.v1 import common_pb2, explanation_service_pb2, methods_pb2
from tests.client.answers import IMAGE, explanation_of
from tests.client.scripted import heatmap, png, tensor
from tests.client.scripted_answers import KEYPOINTS, MASK, explained


def answer(method: str, **parameters: object) -> explanation_service_pb2.ExplainResponse:
    request = explanation_service_pb2.ExplainRequest(
        method=methods_pb2.ExplanationMethod(**{method: parameters})
    )
    return explained(request, heatmap(png()))


def test_panels():
    made = explanation_of("raw_attention", each="EACH_BLOCK_AND_HEAD")
    assert len(made.panels) == 36
    panel = made.panels[3 * 2 + 1]
    assert (panel.block, panel.head, panel.unit, panel.mask) == (2, 1, None, None)
    assert panel.title == "block 2, head 1"
    np.testing.assert_array_equal(panel.heatmap, [[3, 4, 5], [0, 1, 2]])
    assert panel.overlay().size == (60, 40)
    means = explanation_of("raw_attention", each="EACH_BLOCK")
    assert [(panel.block, panel.head) for panel in means.panels[:2]] == [(0, None), (1, None)]


def test_masks():
    made = explanation_of("attention_mask", blocks=[4, 5])
    np.testing.assert_array_equal(made.mask, MASK)
    assert made.mask.dtype == bool
    assert not made.mask.flags.writeable
    np.testing.assert_array_equal(made.panels[0].mask, ~MASK)
    assert explanation_of("rollout").mask is None


def test_units():
    made = explanation_of("hidden_unit")
    assert made.units == (Unit(41, 0.75), Unit(7, 0.5))
    assert [panel.title for panel in made.panels] == ["block 11, unit 41", "block 11, unit 7"]


def test_interrelations():
    made = explanation_of("semantic_attention")
    np.testing.assert_array_equal(made.keypoints, KEYPOINTS)
    assert (made.keypoints.dtype, made.keypoints.flags.writeable) == (np.int64, False)
    assert len(made.interrelations) == 36
    assert made.interrelations[2] == HeadInterrelation(0, 2, 6 / 32, 26 / 32, 0.5, 0.5, 32)
    assert made.interrelations[3].nk is made.interrelations[3].nn is None


def test_diagnostics_tell_unset_from_zero():
    response = answer("rollout")
    response.diagnostics.relevance_drift = 0
    assert _codec.explanation(response, IMAGE, None).diagnostics == Diagnostics(0.0, None)
    assert explanation_of("rollout").diagnostics == Diagnostics()


def test_class_zero_is_a_class():
    response = answer("grad_cam")
    response.target.class_index = 0
    assert _codec.explanation(response, IMAGE, None).target.class_index == 0


def test_regions_reach_the_match():
    response = explanation_service_pb2.PairSimilarityResponse(
        results=[{"match": {side: {"heatmap": heatmap(png())} for side in ("query", "candidate")}}],
        method=methods_pb2.PairMethod(
            correspondence={"candidate_region": {"left": 1, "top": 2, "right": 3, "bottom": 4}}
        ),
    )
    results = _codec.pair_results(response, IMAGE, [IMAGE], None)
    assert results.matches[0].candidate_region == Box(1, 2, 3, 4)
    assert results.matches[0].query_region is None
    assert results.method == Method("correspondence", (("candidate_region", Box(1, 2, 3, 4)),))


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("mask", tensor(MASK, "float32")),
        ("mask", tensor(MASK.T, "bool")),
        ("mask", common_pb2.Tensor(dtype=5, shape=[2, 3], data=b"\0\1\2\0\1\0")),
        ("keypoints", tensor(KEYPOINTS, "float32")),
        ("keypoints", tensor(KEYPOINTS[:1], "int64")),
        ("keypoints", tensor(-KEYPOINTS, "int64")),
    ],
)
def test_broken_tensors(field: str, given: common_pb2.Tensor):
    response = answer("semantic_attention")
    getattr(response, field).CopyFrom(given)
    with pytest.raises(MalformedResponseError, match=f"the {field}"):
        _codec.explanation(response, IMAGE, None)


def test_a_broken_panel_is_named():
    response = answer("raw_attention", each="EACH_HEAD")
    response.panels[1].heatmap.geometry.rows = 7
    with pytest.raises(MalformedResponseError, match=r"panels\[1\]"):
        _codec.explanation(response, IMAGE, None)
    response = answer("attention_mask", blocks=[1])
    response.panels[0].mask.shape[0] = 3
    with pytest.raises(MalformedResponseError, match=r"panels\[0\]\.mask"):
        _codec.explanation(response, IMAGE, None)


def test_tensors_of_other_dtypes():
    assert to_int64(tensor(KEYPOINTS, "int64"), 2, "it").tolist() == KEYPOINTS.tolist()
    assert to_bool(tensor(MASK, "bool"), 2, "it").tolist() == MASK.tolist()
    array = np.array([[1.5, -0.0], [np.nan, 3e38]], np.float32)
    np.testing.assert_array_equal(to_float32(from_array(array.T), 2, "it"), array.T)
    for read, dtype in ((to_int64, "bool"), (to_bool, "int64"), (to_float32, "int64")):
        with pytest.raises(MalformedResponseError, match="dtype"):
            read(tensor(np.ones((2, 2)), dtype), 2, "it")


def test_an_npz_holds_all_numbers(tmp_path: Path):
    explanation_of("attention_mask", blocks=[4, 5]).save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as saved:
        np.testing.assert_array_equal(saved["mask"], MASK)
        np.testing.assert_array_equal(saved["panel_masks"], [~MASK, MASK])
        assert saved["panel_block"].tolist() == [4, 5]
        assert saved["panel_head"].tolist() == saved["panel_unit"].tolist() == [-1, -1]
        assert saved["panels"].shape == (2, 2, 3)
    explanation_of("semantic_attention").save(tmp_path / "b.npz")
    with np.load(tmp_path / "b.npz", allow_pickle=False) as saved:
        np.testing.assert_array_equal(saved["keypoints"], KEYPOINTS)
        assert saved["interrelations"].shape == (36, 7)
        expected = [1, 0, 5 / 32, 27 / 32, np.nan, np.nan, 28]
        np.testing.assert_array_equal(saved["interrelations"][3], expected)
    explanation_of("hidden_unit").save(tmp_path / "c.npz")
    with np.load(tmp_path / "c.npz", allow_pickle=False) as saved:
        assert saved["units"].tolist() == [[41, 0.75], [7, 0.5]]


def test_panels_on_different_grids_are_saved_one_by_one(tmp_path: Path):
    response = answer("raw_attention", each="EACH_HEAD")
    response.panels[0].heatmap.values.CopyFrom(tensor(np.zeros((4, 6))))
    response.panels[0].heatmap.geometry.rows = 4
    response.panels[0].heatmap.geometry.columns = 6
    _codec.explanation(response, IMAGE, None).save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as saved:
        assert saved["panel_0"].shape == (4, 6)
        assert saved["panel_2"].shape == (2, 3)
        assert "panels" not in saved
