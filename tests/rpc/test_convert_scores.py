"""Requests of ScoreSaliency and Embed; what answers them is in test_score_responses.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pairlens.rendering import Box
from pairlens.v1 import (
    common_pb2,
    explanation_service_pb2,
    metrics_pb2,
)
from pairlens_server.cache.policy import CachePolicy
from pairlens_server.errors import InvalidParameterError
from pairlens_server.fidelity.catalogue import METRICS
from pairlens_server.fidelity.copies import Side
from pairlens_server.fidelity.drops import AverageDrop
from pairlens_server.fidelity.erasures import Deletion, Insertion
from pairlens_server.fidelity.parameters import ScoredClass
from pairlens_server.fidelity.placing import Enlargement, ErasureOrder, ErasureUnit, Extent
from pairlens_server.fidelity.pointing import EnergyPointingGame, PointingGame
from pairlens_server.fidelity.substrates import Substrate
from pairlens_server.images.sources import ImageDigest
from pairlens_server.methods.parameters import Profile
from pairlens_server.methods.rollout import Rollout
from pairlens_server.methods.similarity import PooledDecomposition
from pairlens_server.rpc.caller import Caller
from pairlens_server.rpc.convert_scores import (
    MAX_BOXES,
    MAX_METRICS,
    embed_command,
    metric_message,
    score_command,
)
from pairlens_server.service.commands import ClassTarget, SimilarityTarget
from pairlens_server.service.score_commands import EmbedCommand, ScoreCommand

IMAGE = common_pb2.Image(inline=b"file")
OTHER = common_pb2.Image(inline=b"other")
STORED = common_pb2.Image(digest={"sha256": bytes(range(32)), "size_bytes": 7})
DIGEST = ImageDigest(bytes(range(32)).hex(), 7)
CALLER = Caller(5.0, "indexer")
WIRE = {
    common_pb2.DATA_TYPE_FLOAT32: "<f4",
    common_pb2.DATA_TYPE_FLOAT16: "<f2",
    common_pb2.DATA_TYPE_UINT8: "u1",
    common_pb2.DATA_TYPE_INT64: "<i8",
    common_pb2.DATA_TYPE_BOOL: "?",
}
VALUES = np.array([[0, 1, 0], [1, 1, 0]])


def plane(values: Any = VALUES, dtype: int = common_pb2.DATA_TYPE_FLOAT32, **changes: Any) -> Any:
    array = np.asarray(values).astype(WIRE[dtype])
    fields = {"dtype": dtype, "shape": array.shape, "data": array.tobytes()}
    return common_pb2.Tensor(**{**fields, **changes})


def command(*metrics: Any, **fields: Any) -> ScoreCommand:
    if not {"method", "pair_method"} & set(fields):
        fields = {"heatmap": {"values": plane()}, **fields}
    request = explanation_service_pb2.ScoreSaliencyRequest(
        **{"model": "m", "image": IMAGE, "metrics": metrics, **fields}
    )
    return score_command(request, CALLER)


def test_what_is_left_out_stays_open():
    found = command({"deletion": {}}, method={"rollout": {}})
    assert found == ScoreCommand(
        "m", b"file", (Deletion(),), method=Rollout(), deadline_s=5.0, client="indexer"
    )
    assert found.enlargement is Enlargement.BILINEAR
    assert found.sides == ()


def test_everything_is_read():
    found = command(
        {"average_drop": {}},
        {"pointing_game": {"tolerance": 15}},
        pair_method={"pooled_decomposition": {}},
        target={"similarity": {"images": [OTHER]}},
        sides=["SIDE_BOTH", "SIDE_UNSPECIFIED", "SIDE_PARTNER"],
        enlargement="ENLARGEMENT_BILINEAR_ALIGNED",
        partner_heatmap={"values": plane(), "extent": "HEATMAP_EXTENT_GRID"},
        region={
            "boxes": [{"left": 1, "top": 2, "right": 3, "bottom": 4.5}],
            "mask": plane(dtype=common_pb2.DATA_TYPE_BOOL),
        },
        return_embeddings=True,
    )
    assert found.metrics == (AverageDrop(), PointingGame(tolerance=15.0))
    assert (found.method, found.pair_method) == (None, PooledDecomposition())
    assert found.heatmap is None
    assert isinstance(found.target, SimilarityTarget)
    assert (found.target.images, found.target.embeddings) == ((b"other",), None)
    assert found.sides == (Side.BOTH, Side.IMAGE, Side.PARTNER)
    assert found.enlargement is Enlargement.BILINEAR_ALIGNED
    assert found.partner_heatmap is not None
    assert found.partner_heatmap.extent is Extent.GRID
    assert found.region is not None
    assert found.region.boxes == (Box(1, 2, 3, 4.5),)
    np.testing.assert_array_equal(found.region.mask, VALUES.astype(bool))
    assert found.return_embeddings
    assert command({"deletion": {}}, target={"label": "newt"}).target == ClassTarget(label="newt")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"average_drop": {}}, AverageDrop()),
        (
            {
                "deletion": {
                    "profile": "PROFILE_REFERENCE",
                    "steps": 7,
                    "substrate": "SUBSTRATE_NOISY_LINEAR",
                    "seed": 0,
                    "unit": "ERASURE_UNIT_CELLS",
                    "order": "ERASURE_ORDER_LEAST_RELEVANT_FIRST",
                    "scored_class": "SCORED_CLASS_PREDICTED",
                }
            },
            Deletion(
                profile=Profile.REFERENCE,
                steps=7,
                substrate=Substrate.NOISY_LINEAR,
                seed=0,
                unit=ErasureUnit.CELLS,
                order=ErasureOrder.LEAST_RELEVANT_FIRST,
                scored_class=ScoredClass.PREDICTED,
            ),
        ),
        (
            {"insertion": {"fractions": [0.1, 0.7], "blur_sigma": 0.3}},
            Insertion(fractions=(0.1, 0.7), blur_sigma=0.3),
        ),
        ({"energy_pointing_game": {}}, EnergyPointingGame()),
    ],
)
def test_metrics_read_by_hand(message, expected):
    (found,) = command(message).metrics
    assert found == expected
    assert metric_message(expected) == metrics_pb2.Metric(**message)


@pytest.mark.parametrize("kind", METRICS)
def test_every_metric_goes_there_and_back(kind):
    message = metrics_pb2.Metric(**{kind.name: {}})
    assert command(message).metrics == (kind(),)
    assert metric_message(kind()) == message


@pytest.mark.parametrize("newer", [b"", b"\xfa\x3e\x00"])  # nothing, and an empty field 1007
def test_a_metric_of_a_newer_contract_is_refused(newer):
    metric = metrics_pb2.Metric.FromString(newer)
    with pytest.raises(InvalidParameterError, match="average_drop, average_increase") as caught:
        command({"deletion": {}}, metric)
    assert caught.value.field == "metrics[1]"


@pytest.mark.parametrize("dtype", WIRE)
@pytest.mark.parametrize("field", ["heatmap", "partner_heatmap"])
def test_maps_of_any_type_become_float32(dtype, field):
    values = {"values": plane(dtype=dtype)}
    found = getattr(command({"deletion": {}}, **{field: values}), field)
    assert found.values.dtype == np.float32
    np.testing.assert_array_equal(found.values, VALUES)
    assert found.extent is None


def test_large_integers_and_values_that_are_not_finite_are_left_to_the_service():
    large = np.array([[2**40, -(2**62)]])
    found = command({"deletion": {}}, heatmap={"values": plane(large, common_pb2.DATA_TYPE_INT64)})
    np.testing.assert_array_equal(found.heatmap.values, large.astype(np.float32))
    odd = np.array([[np.nan, np.inf], [-np.inf, -0.0]])
    found = command({"deletion": {}}, heatmap={"values": plane(odd)})
    np.testing.assert_array_equal(found.heatmap.values, odd)


@pytest.mark.parametrize(
    ("extent", "expected"),
    [(None, None), *((f"HEATMAP_EXTENT_{e.name}", e) for e in Extent)],
)
def test_extents(extent, expected):
    found = command({"deletion": {}}, heatmap={"values": plane(), "extent": extent})
    assert found.heatmap.extent is expected


@pytest.mark.parametrize(
    ("enum", "kind"),
    [
        (explanation_service_pb2.HeatmapExtent, Extent),
        (explanation_service_pb2.Enlargement, Enlargement),
        (explanation_service_pb2.Side, Side),
    ],
)
def test_enums_of_the_request_have_the_same_names(enum, kind):
    prefix = enum.Name(0).removesuffix("UNSPECIFIED")
    names = [name.removeprefix(prefix).lower() for name in enum.keys()[1:]]
    assert names == [member.value for member in kind]


BOXES = [{"right": 1, "bottom": 1}]


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"model": ""}, "model"),
        ({"image": None}, "image"),
        ({"image": {}}, "image.inline"),
        ({"image": {"digest": {"size_bytes": 1}}}, "image.digest.sha256"),
        ({"cache": 99}, "cache"),
        ({"metrics": [{"deletion": {}}] * (MAX_METRICS + 1)}, "metrics"),
        ({"sides": ["SIDE_IMAGE"] * (MAX_METRICS + 1)}, "sides"),
        ({"heatmap": None}, "method"),
        ({"heatmap": {"values": plane(), "extent": 99}}, "heatmap.extent"),
        ({"heatmap": {}}, "heatmap.values.dtype"),
        ({"heatmap": {"values": plane(VALUES[0])}}, "heatmap.values.shape"),
        ({"heatmap": {"values": plane(shape=[2, 4])}}, "heatmap.values.data"),
        ({"partner_heatmap": {"values": plane(shape=[0, 0])}}, "partner_heatmap.values.shape"),
        ({"method": {}}, "method"),
        ({"pair_method": {}}, "pair_method"),
        (
            {"pair_method": {"pooled_decomposition": {"profile": 99}}},
            "pair_method.pooled_decomposition.profile",
        ),
        ({"target": {}}, "target"),
        ({"sides": ["SIDE_IMAGE", 99]}, "sides[1]"),
        ({"enlargement": 99}, "enlargement"),
        ({"metrics": [{"insertion": {"unit": 99}}]}, "metrics[0].insertion.unit"),
        ({"region": {}}, "region"),
        ({"region": {"boxes": BOXES * (MAX_BOXES + 1)}}, "region.boxes"),
        ({"region": {"mask": plane()}}, "region.mask"),
        ({"region": {"mask": plane(VALUES[0], 5)}}, "region.mask.shape"),
    ],
)
def test_what_cannot_be_read_is_named(fields, path):
    with pytest.raises(InvalidParameterError) as caught:
        command({"deletion": {}}, **fields)
    assert caught.value.field == path


def test_a_picture_by_digest_and_the_cache():
    found = command({"deletion": {}}, image=STORED, cache="CACHE_POLICY_REFRESH")
    assert (found.image, found.cache) == (DIGEST, CachePolicy.REFRESH)


def test_pictures_to_embed():
    request = explanation_service_pb2.EmbedRequest(
        model="m", images=[IMAGE, {}, STORED], cache="CACHE_POLICY_BYPASS"
    )
    # One without a source stays, to fail alone.
    assert embed_command(request, CALLER) == EmbedCommand(
        "m", (b"file", b"", DIGEST), 5.0, CachePolicy.BYPASS, "indexer"
    )


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"model": ""}, "model"),
        ({"images": [IMAGE, {"digest": {}}]}, "images[1].digest.sha256"),
        ({"cache": 99}, "cache"),
    ],
)
def test_what_cannot_be_embedded_is_named(fields, path):
    fields = {"model": "m", "images": [IMAGE], **fields}
    with pytest.raises(InvalidParameterError) as caught:
        embed_command(explanation_service_pb2.EmbedRequest(**fields), CALLER)
    assert caught.value.field == path
