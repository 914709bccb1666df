from dataclasses import replace

import numpy as np
import pytest

from pairlens.rendering import Box, GridGeometry
from pairlens.v1 import common_pb2, explanation_service_pb2
from pairlens_server import __version__
from pairlens_server.errors import ImageUndecodableError
from pairlens_server.images.render import Rendered
from pairlens_server.methods.attention import RawAttention
from pairlens_server.methods.base import HeadInterrelation, Unit
from pairlens_server.methods.cam import GradCam
from pairlens_server.methods.parameters import Profile
from pairlens_server.methods.rollout import Rollout
from pairlens_server.methods.similarity import BiasMode, PooledDecomposition, Redistribution
from pairlens_server.rpc.convert_methods import explanation_message, pair_message
from pairlens_server.rpc.convert_responses import explain_response, pair_response
from pairlens_server.service.commands import (
    ExplainOutcome,
    PairMatch,
    PairOutcome,
    PanelOutcome,
    ResolvedTarget,
    SideMap,
    Timings,
)
from tests.support import vit

GEOMETRY = GridGeometry(2, 3, 40, 50, Box(1.5, 0.0, 48.5, 40.0))
MAP = np.array([[0.5, -1.0, 2.0], [0.0, 0.25, 1.0]], np.float32)
DIAGNOSTICS = [field.name for field in explanation_service_pb2.Diagnostics.DESCRIPTOR.fields]
TIMINGS = Timings(1.5, 0.25, 0.002, 0.1, 0.0, 0.5, cached_images=1, images=3, cache_s=0.0625)


@pytest.fixture(scope="module")
def model():
    return vit()


def array(tensor: common_pb2.Tensor) -> np.ndarray:
    assert tensor.dtype == common_pb2.DATA_TYPE_FLOAT32
    return np.frombuffer(tensor.data, "<f4").reshape(tensor.shape)


def explained(model, **changes):
    outcome = ExplainOutcome(model, MAP, GEOMETRY, Rollout(0, 2), None, None, TIMINGS)
    return explain_response(replace(outcome, **changes))


def test_heatmap_and_geometry(model):
    heatmap = explained(model).heatmap
    np.testing.assert_array_equal(array(heatmap.values), MAP)
    assert (heatmap.min, heatmap.max, heatmap.constant) == (-1, 2, False)
    assert heatmap.geometry == common_pb2.GridGeometry(
        rows=2,
        columns=3,
        image_height=40,
        image_width=50,
        region={"left": 1.5, "top": 0, "right": 48.5, "bottom": 40},
    )


def test_any_memory_layout_travels_in_c_order(model):
    values = np.asfortranarray(MAP)
    np.testing.assert_array_equal(array(explained(model, heatmap=values).heatmap.values), MAP)


def test_the_method_comes_back_resolved(model):
    method = RawAttention(2, 0)
    assert explained(model, method=method).method == explanation_message(method)


def test_constant_map(model):
    assert explained(model, heatmap=np.full((2, 3), 0.5, np.float32)).heatmap.constant


def test_what_was_not_asked_for_is_unset(model):
    answer = explained(model)
    for field in ("rendered", "target", "mask", "keypoints"):
        assert not answer.HasField(field), field
    assert not answer.panels
    assert not answer.units
    assert not answer.interrelations
    for field in DIAGNOSTICS:
        assert not answer.diagnostics.HasField(field)


def test_rendered(model):
    upsampled = np.full((4, 5), np.nan, np.float32)
    answer = explained(model, rendered=Rendered(upsampled, b"png"))
    np.testing.assert_array_equal(array(answer.rendered.upsampled), upsampled)
    assert answer.rendered.overlay_png == b"png"
    answer = explained(model, rendered=Rendered(None, None))
    assert not answer.rendered.HasField("upsampled")
    assert answer.rendered.overlay_png == b""


def test_target(model):
    target = explained(model, target=ResolvedTarget(3, "newt", 1.5, 0.25)).target
    assert (target.class_index, target.label) == (3, "newt")
    assert (target.logit, target.probability) == (1.5, 0.25)
    assert not target.similarities
    first = explained(model, target=ResolvedTarget(0, "", 1.5, 0.25)).target
    assert first.HasField("class_index")
    similar = explained(model, target=ResolvedTarget(similarities=(0.5, -0.25))).target
    assert not similar.HasField("class_index")
    assert list(similar.similarities) == [0.5, -0.25]


MASK = np.array([[True, False, False], [False, True, True]])


def booleans(tensor: common_pb2.Tensor) -> np.ndarray:
    assert tensor.dtype == common_pb2.DATA_TYPE_BOOL
    assert set(tensor.data) <= {0, 1}
    return np.frombuffer(tensor.data, "?").reshape(tensor.shape)


def test_mask(model):
    np.testing.assert_array_equal(booleans(explained(model, mask=MASK).mask), MASK)
    turned = np.asfortranarray(MASK)
    np.testing.assert_array_equal(booleans(explained(model, mask=turned).mask), MASK)


def test_panels(model):
    finer = replace(GEOMETRY, rows=1, columns=2)
    panels = (
        PanelOutcome(2 * MAP, GEOMETRY, None, 0, 1, None, None),
        PanelOutcome(
            np.zeros((1, 2), np.float32), finer, Rendered(None, b"png"), None, None, 0, MASK
        ),
    )
    first, second = explained(model, panels=panels).panels
    np.testing.assert_array_equal(array(first.heatmap.values), 2 * MAP)
    assert (first.heatmap.min, first.heatmap.max, first.heatmap.constant) == (-2, 4, False)
    assert (first.block, first.head) == (0, 1)
    assert first.HasField("block")
    for field in ("unit", "rendered", "mask"):
        assert not first.HasField(field)
    assert second.heatmap.constant
    assert (second.heatmap.geometry.rows, second.heatmap.geometry.columns) == (1, 2)
    assert second.rendered.overlay_png == b"png"
    assert second.HasField("unit")
    assert second.unit == 0
    assert not second.HasField("block")
    np.testing.assert_array_equal(booleans(second.mask), MASK)


def test_units_keep_their_order(model):
    units = explained(model, units=(Unit(7, 1.5), Unit(0, -0.25))).units
    assert [(unit.unit, unit.strength) for unit in units] == [(7, 1.5), (0, -0.25)]


def test_interrelations_say_what_is_undefined(model):
    heads = (
        HeadInterrelation(0, 0, 0.5, 0.5, 0.0, 1.0, 2.5),
        HeadInterrelation(2, 1, None, None, 0.25, 0.75, 0.0),
    )
    first, second = explained(model, interrelations=heads).interrelations
    assert (first.block, first.head, first.kk, first.kn) == (0, 0, 0.5, 0.5)
    assert (first.nk, first.nn, first.focus_index) == (0, 1, 2.5)
    assert first.HasField("nk")
    assert (second.block, second.head, second.nk, second.nn) == (2, 1, 0.25, 0.75)
    assert not second.HasField("kk")
    assert not second.HasField("kn")


def test_keypoints(model):
    counts = np.array([[0, 3, 1], [2**40, 0, 5]], np.int64)
    message = explained(model, keypoints=counts).keypoints
    assert message.dtype == common_pb2.DATA_TYPE_INT64
    assert list(message.shape) == [2, 3]
    np.testing.assert_array_equal(np.frombuffer(message.data, "<i8").reshape(2, 3), counts)


@pytest.mark.parametrize("field", DIAGNOSTICS)
@pytest.mark.parametrize("value", [0.0, -0.5])
def test_diagnostics(model, field, value):
    diagnostics = explained(model, **{field: value}).diagnostics
    assert diagnostics.HasField(field)
    assert getattr(diagnostics, field) == value
    assert not any(diagnostics.HasField(other) for other in DIAGNOSTICS if other != field)


def test_provenance(model):
    assert explained(model, method=GradCam()).provenance == common_pb2.Provenance(
        model=model.name,
        model_fingerprint=model.fingerprint,
        method="grad_cam",
        method_revision=GradCam.revision,
        preprocessing_digest=model.preprocessing.digest,
        dtype="float32",
        device="cpu",
        server_version=__version__,
    )


def test_timing(model):
    timing = explained(model).timing
    assert timing.total.ToNanoseconds() == 1_500_000_000
    assert timing.decode.ToNanoseconds() == 250_000_000
    assert timing.queue.ToNanoseconds() == 2_000_000
    assert timing.compute.ToNanoseconds() == 100_000_000
    assert timing.method.ToNanoseconds() == 0
    assert timing.render.ToNanoseconds() == 500_000_000
    assert timing.cache.ToNanoseconds() == 62_500_000
    assert (timing.cached_images, timing.images) == (1, 3)


def test_pairs_keep_their_order_and_a_failure_its_place(model):
    side = SideMap(MAP, GEOMETRY, bias_share=0.125, prefix_share=0.25, rendered=None)
    matrix = np.arange(36, dtype=np.float32).reshape(6, 6)
    error = ImageUndecodableError("candidates[1]: no picture", field="candidates[1]")
    match = PairMatch(0.75, side, replace(side, heatmap=2 * MAP), matrix)
    results = (match, error, replace(match, match_matrix=None))
    method = PooledDecomposition(Profile.STRICT, Redistribution.NONE, BiasMode.SEPARATE)
    answer = pair_response(PairOutcome(model, results, method, TIMINGS))
    first, failed, last = answer.results
    assert first.match.similarity == 0.75
    assert (first.match.query.sum, first.match.candidate.sum) == (2.75, 5.5)
    assert (first.match.query.bias_share, first.match.query.prefix_share) == (0.125, 0.25)
    np.testing.assert_array_equal(array(first.match.match_matrix), matrix)
    assert failed.WhichOneof("outcome") == "error"
    assert failed.error.message == "candidates[1]: no picture"
    assert not last.match.HasField("match_matrix")
    assert answer.method == pair_message(method)
    assert answer.provenance.method == "pooled_decomposition"
