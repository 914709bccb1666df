from typing import Any

import numpy as np
import pytest

from pairlens.rendering import ColorMap, ColorScale, Interpolation
from pairlens.v1 import common_pb2, explanation_service_pb2, methods_pb2
from pairlens_server.errors import InvalidParameterError
from pairlens_server.images.render import RenderOptions
from pairlens_server.methods.attention import RawAttention
from pairlens_server.methods.cam import GradCam
from pairlens_server.methods.parameters import Profile
from pairlens_server.methods.rollout import Rollout
from pairlens_server.methods.similarity import BiasMode, PooledDecomposition, Redistribution
from pairlens_server.rpc.convert_requests import explain_command, pair_command
from pairlens_server.service.commands import (
    ClassTarget,
    ExplainCommand,
    PairCommand,
    SimilarityTarget,
)

UNKNOWN = 99
IMAGE = common_pb2.Image(inline=b"file")


def explain(**fields: Any) -> ExplainCommand:
    fields = {"model": "m", "image": IMAGE, **fields}
    return explain_command(explanation_service_pb2.ExplainRequest(**fields), 5.0)


def pair(**fields: Any) -> PairCommand:
    fields = {"model": "m", "query": IMAGE, "candidates": [IMAGE], **fields}
    return pair_command(explanation_service_pb2.PairSimilarityRequest(**fields), None)


def method(**choice: Any) -> methods_pb2.ExplanationMethod:
    return methods_pb2.ExplanationMethod(**choice)


def decomposition(**fields: Any) -> methods_pb2.PairMethod:
    chosen = methods_pb2.PooledDecomposition(**fields)
    return methods_pb2.PairMethod(pooled_decomposition=chosen)


def test_what_is_left_out_stays_open():
    assert explain() == ExplainCommand("m", b"file", deadline_s=5.0)
    assert pair() == PairCommand("m", b"file", (b"file",))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (method(raw_attention={}), RawAttention()),
        (method(raw_attention={"block": 0, "head": 3}), RawAttention(0, 3)),
        (method(rollout={}), Rollout()),
        (
            method(rollout={"start_block": 0, "end_block": 2, "profile": "PROFILE_PAPER"}),
            Rollout(0, 2, Profile.PAPER),
        ),
        (method(grad_cam={}), GradCam()),
    ],
)
def test_methods_of_explain(message, expected):
    assert explain(method=message).method == expected


def test_methods_of_pair_similarity():
    assert pair(method=decomposition()).method == PooledDecomposition()
    chosen = decomposition(
        profile="PROFILE_REFERENCE",
        redistribution="REDISTRIBUTION_NONE",
        bias_mode="BIAS_MODE_SEPARATE",
        match_matrix=True,
    )
    assert pair(method=chosen).method == PooledDecomposition(
        Profile.REFERENCE, Redistribution.NONE, BiasMode.SEPARATE, match_matrix=True
    )


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ({"class_index": 0}, ClassTarget(class_index=0)),
        ({"label": "newt"}, ClassTarget(label="newt")),
        ({"predicted": True}, ClassTarget()),
    ],
)
def test_targets(target, expected):
    assert explain(target=target).target == expected


def tensor(values: np.ndarray, **changes: Any) -> common_pb2.Tensor:
    fields = {
        "dtype": common_pb2.DATA_TYPE_FLOAT32,
        "shape": values.shape,
        "data": values.astype("<f4").tobytes(),
    }
    return common_pb2.Tensor(**{**fields, **changes})


VECTORS = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
FILES = [IMAGE, common_pb2.Image(inline=b"other")]


@pytest.mark.parametrize(
    ("similarity", "files", "vectors"),
    [
        ({"images": FILES}, (b"file", b"other"), None),
        ({"embeddings": tensor(VECTORS)}, (), VECTORS),
        ({"images": FILES[:1], "embeddings": tensor(VECTORS[:1])}, (b"file",), VECTORS[:1]),
        # How many and how long they may be, the model and the limits say.
        ({"embeddings": tensor(np.zeros((1, 1), np.float32))}, (), np.zeros((1, 1), np.float32)),
    ],
)
def test_similarity_targets(similarity, files, vectors):
    target = explain(target={"similarity": similarity}).target
    assert isinstance(target, SimilarityTarget)
    assert target.images == files
    if vectors is None:
        assert target.embeddings is None
    else:
        np.testing.assert_array_equal(target.embeddings, vectors)
        assert target.embeddings.dtype == np.float32
        assert target.embeddings.flags.writeable  # torch shares its memory


FLAWED = VECTORS.copy()
FLAWED[1, 2] = np.nan
ENDLESS = VECTORS.copy()
ENDLESS[0, 0] = np.inf


@pytest.mark.parametrize(
    ("embeddings", "words"),
    [
        (tensor(FLAWED), "not finite"),
        (tensor(ENDLESS), "not finite"),
        (tensor(-ENDLESS), "not finite"),
        (common_pb2.Tensor(), "float32 tensor of shape"),
        (tensor(VECTORS, dtype=common_pb2.DATA_TYPE_FLOAT16), "float32 tensor of shape"),
        (tensor(VECTORS, dtype=common_pb2.DATA_TYPE_INT64), "float32 tensor of shape"),
        (tensor(VECTORS, dtype=77), "float32 tensor of shape"),
        (tensor(VECTORS, shape=[6]), "float32 tensor of shape"),
        (tensor(VECTORS, shape=[1, 2, 3]), "float32 tensor of shape"),
        (tensor(VECTORS, shape=[2, 4]), r"\[2, 4\] has 24 bytes, not 32"),
        (tensor(VECTORS, data=b"\0" * 23), "has 23 bytes, not 24"),
        (tensor(VECTORS, shape=[-2, -3]), "at least one row"),
        (tensor(VECTORS[:0]), "at least one row"),
        (tensor(VECTORS[:, :0]), "at least one row"),
        (tensor(VECTORS, shape=[2**62, 2**62]), "has 24 bytes"),
    ],
)
def test_embeddings_that_are_none(embeddings, words):
    with pytest.raises(InvalidParameterError, match=words) as caught:
        explain(target={"similarity": {"embeddings": embeddings}})
    assert caught.value.field == "target.similarity.embeddings"


def test_rendering():
    assert explain(rendering={}).rendering == RenderOptions()
    asked = {
        "upsampled": True,
        "overlay": True,
        "color_map": "COLOR_MAP_JET",
        "scale": "COLOR_SCALE_FIXED",
        "fixed_min": -1,
        "fixed_max": 0,
        "opacity": 0,
        "interpolation": "INTERPOLATION_NEAREST",
        "max_side": 16,
    }
    assert pair(rendering=asked).rendering == RenderOptions(
        upsampled=True,
        overlay=True,
        color_map=ColorMap.JET,
        scale=ColorScale.FIXED,
        fixed=(-1.0, 0.0),
        opacity=0.0,
        interpolation=Interpolation.NEAREST,
        max_side=16,
    )


@pytest.mark.parametrize(
    ("path", "enum", "kind"),
    [
        ("color_map", common_pb2.ColorMap, ColorMap),
        ("interpolation", common_pb2.Interpolation, Interpolation),
    ],
)
def test_every_choice_of_rendering_is_known(path, enum, kind):
    known = [explain(rendering={path: number}).rendering for number in enum.values()[1:]]
    assert [getattr(options, path) for options in known] == list(kind)


@pytest.mark.parametrize("number", [n for n in common_pb2.Profile.values() if n])
def test_every_profile_is_known(number):
    name = common_pb2.Profile.Name(number).removeprefix("PROFILE_").lower()
    assert explain(method=method(rollout={"profile": number})).method == Rollout(
        profile=Profile(name)
    )


@pytest.mark.parametrize("name", ["redistribution", "bias_mode"])
def test_every_choice_of_a_pair_method_is_known(name):
    kind = {"redistribution": Redistribution, "bias_mode": BiasMode}[name]
    enum = {"redistribution": methods_pb2.Redistribution, "bias_mode": methods_pb2.BiasMode}[name]
    asked = [pair(method=decomposition(**{name: n})).method for n in enum.values()[1:]]
    assert [getattr(chosen, name) for chosen in asked] == list(kind)


@pytest.mark.parametrize(
    ("call", "fields", "path"),
    [
        (explain, {"model": ""}, "model"),
        (explain, {"image": None}, "image"),
        (explain, {"image": common_pb2.Image()}, "image.inline"),
        (pair, {"model": ""}, "model"),
        (pair, {"query": None}, "query"),
        (pair, {"query": common_pb2.Image()}, "query.inline"),
        (explain, {"method": {}}, "method"),
        (pair, {"method": {}}, "method"),
        (explain, {"method": method(rollout={"profile": UNKNOWN})}, "method.rollout.profile"),
        (
            pair,
            {"method": decomposition(profile=UNKNOWN)},
            "method.pooled_decomposition.profile",
        ),
        (
            pair,
            {"method": decomposition(redistribution=UNKNOWN)},
            "method.pooled_decomposition.redistribution",
        ),
        (
            pair,
            {"method": decomposition(bias_mode=UNKNOWN)},
            "method.pooled_decomposition.bias_mode",
        ),
        (explain, {"target": {}}, "target"),
        (explain, {"target": {"predicted": False}}, "target.predicted"),
        (explain, {"target": {"similarity": {}}}, "target.similarity"),
        (
            explain,
            {"target": {"similarity": {"images": [IMAGE, common_pb2.Image()]}}},
            "target.similarity.images[1].inline",
        ),
        (explain, {"rendering": {"color_map": UNKNOWN}}, "rendering.color_map"),
        (explain, {"rendering": {"color_map": -1}}, "rendering.color_map"),
        (explain, {"rendering": {"scale": UNKNOWN}}, "rendering.scale"),
        (explain, {"rendering": {"interpolation": UNKNOWN}}, "rendering.interpolation"),
        (explain, {"rendering": {"fixed_max": 0}}, "rendering.fixed_max"),
        (
            explain,
            {"rendering": {"scale": "COLOR_SCALE_FIXED", "fixed_max": 1}},
            "rendering.fixed_min",
        ),
    ],
)
def test_refusals_name_the_field(call, fields, path):
    with pytest.raises(InvalidParameterError) as caught:
        call(**fields)
    assert caught.value.field == path
    assert caught.value.message


def test_a_candidate_without_a_source_stays_to_fail_alone():
    assert pair(candidates=[IMAGE, common_pb2.Image()]).candidates == (b"file", b"")
