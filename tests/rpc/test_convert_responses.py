from dataclasses import replace

import numpy as np
import pytest

from pairlens.rendering import Box, GridGeometry
from pairlens.v1 import common_pb2
from pairlens_server import __version__
from pairlens_server.errors import ImageUndecodableError
from pairlens_server.images.render import Rendered
from pairlens_server.methods.attention import RawAttention
from pairlens_server.methods.base import Profile
from pairlens_server.methods.cam import GradCam
from pairlens_server.methods.catalogue import EXPLANATION_METHODS
from pairlens_server.methods.rollout import Rollout
from pairlens_server.methods.similarity import BiasMode, PooledDecomposition, Redistribution
from pairlens_server.rpc.convert_methods import (
    explanation_message,
    explanation_method,
    pair_message,
    pair_method,
)
from pairlens_server.rpc.convert_responses import explain_response, pair_response
from pairlens_server.service.commands import (
    ExplainOutcome,
    PairMatch,
    PairOutcome,
    ResolvedTarget,
    SideMap,
    Timings,
)
from tests.support import vit

GEOMETRY = GridGeometry(2, 3, 40, 50, Box(1.5, 0.0, 48.5, 40.0))
MAP = np.array([[0.5, -1.0, 2.0], [0.0, 0.25, 1.0]], np.float32)
TIMINGS = Timings(1.5, 0.25, 0.002, 0.1, 0.0, 0.5, cached_images=1, images=3)


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


def test_constant_map(model):
    assert explained(model, heatmap=np.full((2, 3), 0.5, np.float32)).heatmap.constant


def test_what_was_not_asked_for_is_unset(model):
    answer = explained(model)
    assert not answer.HasField("rendered")
    assert not answer.HasField("target")


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


@pytest.mark.parametrize(
    "method",
    [RawAttention(0), RawAttention(2, 0), Rollout(0, 0, Profile.PAPER), Rollout(1, 2), GradCam()],
)
def test_explanation_methods_come_back_as_they_went(method):
    assert explanation_method(explanation_message(method)) == method


@pytest.mark.parametrize("profile", Profile)
@pytest.mark.parametrize("redistribution", Redistribution)
@pytest.mark.parametrize("bias_mode", BiasMode)
def test_pair_methods_come_back_as_they_went(profile, redistribution, bias_mode):
    method = PooledDecomposition(profile, redistribution, bias_mode, match_matrix=True)
    assert pair_method(pair_message(method)) == method


def test_every_method_of_the_catalogue_is_in_the_contract():
    for method in EXPLANATION_METHODS:
        assert explanation_message(method()).WhichOneof("method") == method.name
