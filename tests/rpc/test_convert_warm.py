"""Requests of Warm; its answers are in test_servicers.py."""

from __future__ import annotations

from typing import Any

import pytest

from pairlens.v1 import common_pb2, explanation_service_pb2
from pairlens_server.cache.policy import CachePolicy
from pairlens_server.errors import InvalidParameterError
from pairlens_server.images.sources import ImageDigest
from pairlens_server.methods.attention import RawAttention
from pairlens_server.methods.rollout import Rollout
from pairlens_server.methods.similarity import PooledDecomposition
from pairlens_server.rpc.caller import Caller
from pairlens_server.rpc.convert_images import MAX_PICTURES
from pairlens_server.rpc.convert_warm import MAX_METHODS, warm_command
from pairlens_server.service.commands import WarmCommand

IMAGE = common_pb2.Image(inline=b"file")
STORED = common_pb2.Image(digest={"sha256": bytes(range(32)), "size_bytes": 7})
DIGEST = ImageDigest(bytes(range(32)).hex(), 7)


def command(**fields: Any) -> WarmCommand:
    request = explanation_service_pb2.WarmRequest(**{"model": "m", "images": [IMAGE], **fields})
    return warm_command(request, Caller(5.0, "indexer"))


def test_what_is_left_out_stays_open():
    assert command() == WarmCommand("m", (b"file",), deadline_s=5.0, client="indexer")


def test_everything_is_read():
    found = command(
        images=[STORED, {}, IMAGE],
        methods=[{"rollout": {}}, {"raw_attention": {"block": 1, "head": 2}}],
        pair_methods=[{"pooled_decomposition": {}}],
        cache="CACHE_POLICY_REFRESH",
    )
    assert found == WarmCommand(
        "m",
        (DIGEST, b"", b"file"),
        (Rollout(), RawAttention(1, 2)),
        (PooledDecomposition(),),
        5.0,
        CachePolicy.REFRESH,
        "indexer",
    )


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"model": ""}, "model"),
        ({"images": [IMAGE, {"digest": {"sha256": b"1"}}]}, "images[1].digest.sha256"),
        ({"images": [IMAGE] * (MAX_PICTURES + 1)}, "images"),
        ({"methods": [{"rollout": {}}, {}]}, "methods[1]"),
        ({"methods": [{"rollout": {"profile": 99}}]}, "methods[0].rollout.profile"),
        ({"methods": [{"rollout": {}}] * (MAX_METHODS + 1)}, "methods"),
        ({"pair_methods": [{}]}, "pair_methods[0]"),
        ({"pair_methods": [{}] * (MAX_METHODS + 1)}, "pair_methods"),
        ({"cache": 99}, "cache"),
    ],
)
def test_what_cannot_be_read_is_named(fields, path):
    with pytest.raises(InvalidParameterError) as caught:
        command(**fields)
    assert caught.value.field == path
