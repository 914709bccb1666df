from typing import Any

import pytest

from pairlens.rendering import ColorMap, ColorScale, Interpolation
from pairlens.v1 import common_pb2, explanation_service_pb2, methods_pb2
from pairlens_server.cache.policy import CachePolicy
from pairlens_server.errors import InvalidParameterError
from pairlens_server.images.render import RenderOptions
from pairlens_server.images.sources import ImageDigest
from pairlens_server.methods.attention import RawAttention
from pairlens_server.methods.cam import GradCam
from pairlens_server.methods.parameters import Profile
from pairlens_server.methods.rollout import Rollout
from pairlens_server.methods.similarity import BiasMode, PooledDecomposition, Redistribution
from pairlens_server.rpc.caller import Caller
from pairlens_server.rpc.convert_images import MAX_PICTURES
from pairlens_server.rpc.convert_requests import explain_command, pair_command
from pairlens_server.service.commands import (
    ExplainCommand,
    PairCommand,
)

UNKNOWN = 99
IMAGE = common_pb2.Image(inline=b"file")
STORED = common_pb2.Image(digest={"sha256": bytes(range(32)), "size_bytes": 7})
DIGEST = ImageDigest(bytes(range(32)).hex(), 7)
SHORT = common_pb2.Image(digest={"sha256": bytes(31), "size_bytes": 7})
NO_SIZE = common_pb2.Image(digest={"sha256": bytes(32)})
CALLER = Caller(5.0, "indexer")


def explain(**fields: Any) -> ExplainCommand:
    fields = {"model": "m", "image": IMAGE, **fields}
    return explain_command(explanation_service_pb2.ExplainRequest(**fields), CALLER)


def pair(**fields: Any) -> PairCommand:
    fields = {"model": "m", "query": IMAGE, "candidates": [IMAGE], **fields}
    return pair_command(explanation_service_pb2.PairSimilarityRequest(**fields), CALLER)


def method(**choice: Any) -> methods_pb2.ExplanationMethod:
    return methods_pb2.ExplanationMethod(**choice)


def decomposition(**fields: Any) -> methods_pb2.PairMethod:
    chosen = methods_pb2.PooledDecomposition(**fields)
    return methods_pb2.PairMethod(pooled_decomposition=chosen)


def test_what_is_left_out_stays_open():
    assert explain() == ExplainCommand("m", b"file", deadline_s=5.0, client="indexer")
    assert pair() == PairCommand("m", b"file", (b"file",), deadline_s=5.0, client="indexer")


@pytest.mark.parametrize("command", [explain, pair])
def test_the_cache(command):
    assert command().cache is CachePolicy.DEFAULT
    for policy in CachePolicy:
        number = common_pb2.CachePolicy.Value(f"CACHE_POLICY_{policy.name}")
        assert command(cache=number).cache is policy


def test_pictures_by_digest():
    assert explain(image=STORED).image == DIGEST
    found = pair(query=STORED, candidates=[IMAGE, STORED, common_pb2.Image()])
    assert found.query == DIGEST
    assert found.candidates == (b"file", DIGEST, b"")
    target = explain(target={"similarity": {"images": [STORED, IMAGE]}}).target
    assert target.images == (DIGEST, b"file")


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
        (
            explain,
            {"target": {"similarity": {"images": [IMAGE, SHORT]}}},
            "target.similarity.images[1].digest.sha256",
        ),
        (
            explain,
            {"target": {"similarity": {"images": [IMAGE] * (MAX_PICTURES + 1)}}},
            "target.similarity.images",
        ),
        (explain, {"image": SHORT}, "image.digest.sha256"),
        (explain, {"image": NO_SIZE}, "image.digest.size_bytes"),
        (explain, {"image": {"digest": {}}}, "image.digest.sha256"),
        (explain, {"cache": UNKNOWN}, "cache"),
        (pair, {"query": SHORT}, "query.digest.sha256"),
        (pair, {"candidates": [IMAGE, {}, STORED, SHORT]}, "candidates[3].digest.sha256"),
        (pair, {"candidates": [NO_SIZE]}, "candidates[0].digest.size_bytes"),
        (pair, {"candidates": [IMAGE] * (MAX_PICTURES + 1)}, "candidates"),
        (pair, {"cache": -1}, "cache"),
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
