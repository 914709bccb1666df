"""Answers of ScoreSaliency and Embed, from what the service found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pairlens.rendering import Box, GridGeometry
from pairlens.v1 import common_pb2, explanation_service_pb2, metrics_pb2
from pairlens_server.errors import ImageUndecodableError
from pairlens_server.fidelity.copies import Side
from pairlens_server.fidelity.drops import AverageDrop
from pairlens_server.fidelity.erasures import Deletion
from pairlens_server.fidelity.placing import Enlargement
from pairlens_server.fidelity.pointing import PointingGame
from pairlens_server.methods.rollout import Rollout
from pairlens_server.methods.similarity import PooledDecomposition
from pairlens_server.rpc.convert_scores import embed_response, score_response
from pairlens_server.service.commands import ResolvedTarget, Timings
from pairlens_server.service.score_commands import (
    EmbedOutcome,
    MetricOutcome,
    ScoredCurve,
    ScoredMap,
    ScoreOutcome,
)
from tests.support import vit

VALUES = np.array([[0, 1, 0], [1, 1, 0]], np.float32)


def outcome(**fields: Any) -> ScoreOutcome:
    given = {
        "model": vit(),
        "results": (),
        "target": ResolvedTarget(class_index=2, label="newt", logit=1.5, probability=0.25),
        "method": None,
        "pair_method": None,
        "heatmap": None,
        "partner_heatmap": None,
        "enlargement": Enlargement.NEAREST,
        "forward_passes": 7,
        "timings": Timings(0.5, compute_s=0.25, cached_images=1, images=2),
    }
    return ScoreOutcome(**{**given, **fields})


def test_a_response_of_a_given_map():
    response = score_response(outcome())
    assert response.target.class_index == 2
    assert response.target.probability == 0.25
    assert response.enlargement == explanation_service_pb2.ENLARGEMENT_NEAREST
    assert response.forward_passes == 7
    assert response.WhichOneof("saliency") is None
    assert not response.HasField("heatmap")
    assert not response.HasField("partner_heatmap")
    assert (response.provenance.method, response.provenance.method_revision) == ("", 0)
    assert response.provenance.model == vit().name
    assert response.timing.total.ToNanoseconds() == 500_000_000
    assert (response.timing.cached_images, response.timing.images) == (1, 2)


@pytest.mark.parametrize(
    ("field", "method"), [("method", Rollout()), ("pair_method", PooledDecomposition())]
)
def test_a_response_of_a_method(field, method):
    geometry = GridGeometry(2, 3, 20, 30, Box(1, 2, 29, 18))
    maps = [ScoredMap(k + VALUES, geometry) for k in range(2)]
    response = score_response(outcome(**{field: method}, heatmap=maps[0], partner_heatmap=maps[1]))
    assert response.WhichOneof("saliency") == field
    assert getattr(response, field).WhichOneof("method") == method.name
    assert response.provenance.method == method.name
    assert response.provenance.method_revision == method.revision
    for k, message in enumerate((response.heatmap, response.partner_heatmap)):
        found = np.frombuffer(message.values.data, "<f4").reshape(2, 3)
        np.testing.assert_array_equal(found, k + VALUES)
        assert (message.min, message.max) == (k, k + 1)
        assert (message.geometry.region.left, message.geometry.image_width) == (1, 30)


def test_results():
    shares, scores = np.array([0, 0.5, 1], "f4"), np.array([0.75, 0.5, 0.25], "f4")
    embeddings = np.arange(12, dtype=np.float32).reshape(3, 4)
    response = score_response(
        outcome(
            results=(
                MetricOutcome(
                    Deletion(steps=2),
                    Side.BOTH,
                    0.1,
                    normalized_value=-0.5,
                    curve=ScoredCurve(shares, scores, embeddings, -embeddings),
                    clean_score=0.0,
                    masked_score=1e-300,
                    class_index=0,
                ),
                MetricOutcome(AverageDrop(), Side.PARTNER, None, "it has none"),
                MetricOutcome(PointingGame(), Side.IMAGE, 0.0),
            )
        )
    )
    full, undefined, game = response.results
    assert full.metric == metrics_pb2.Metric(deletion={"steps": 2})
    sides = [result.side for result in response.results]
    assert [explanation_service_pb2.Side.Name(side) for side in sides] == [
        "SIDE_BOTH",
        "SIDE_PARTNER",
        "SIDE_IMAGE",
    ]
    # As doubles, and a zero is not what is unset.
    assert (full.value, full.normalized_value, full.masked_score) == (0.1, -0.5, 1e-300)
    assert full.HasField("clean_score")
    assert full.HasField("class_index")
    for name, expected in (
        ("fractions", shares),
        ("scores", scores),
        ("embeddings", embeddings),
        ("partner_embeddings", -embeddings),
    ):
        tensor = getattr(full.curve, name)
        assert tensor.dtype == common_pb2.DATA_TYPE_FLOAT32
        found = np.frombuffer(tensor.data, "<f4").reshape(tensor.shape)
        np.testing.assert_array_equal(found, expected)
    assert undefined.undefined == "it has none"
    for name in ("value", "normalized_value", "curve", "clean_score", "class_index"):
        assert not undefined.HasField(name)
    assert game.HasField("value")
    assert game.undefined == ""


def test_a_curve_without_embeddings_has_none():
    curve = ScoredCurve(np.zeros(2, "f4"), np.zeros(2, "f4"))
    result = MetricOutcome(Deletion(), Side.IMAGE, 0.0, curve=curve)
    (found,) = score_response(outcome(results=(result,))).results
    assert not found.curve.HasField("embeddings")
    assert not found.curve.HasField("partner_embeddings")


def test_embeddings():
    broken = ImageUndecodableError("no picture", field="images[1]")
    vector = np.arange(3, dtype=np.float32)
    response = embed_response(EmbedOutcome(vit(), (vector, broken), Timings(images=1)))
    first, second = response.results
    assert list(first.embedding.shape) == [3]
    assert first.embedding.data == vector.tobytes()
    assert second.error.message == "no picture"
    assert (response.provenance.method, response.timing.images) == ("", 1)
