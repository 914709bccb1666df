"""Clients that know an older contract, and nothing newer, against today's server."""

from __future__ import annotations

import base64
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.message import Message

from tests.compat import descriptors
from tests.compat.descriptors import FileSet
from tests.compat.dynamic import Contract
from tests.contract.support import png

TIMEOUT_S = 60
SDK = "client/pairlens"
PICTURE, OTHER = ({"inline": base64.b64encode(png(number)).decode()} for number in (1, 2))
DIGEST = {"sha256": base64.b64encode(bytes(32)).decode(), "size_bytes": 7}
# What was asked of the first release, and what an answer to it holds.
REQUESTS: dict[str, tuple[dict[str, object], str]] = {
    "ListModels": ({}, "models"),
    "GetModel": ({"model": "tiny-vit"}, "limits"),
    "Explain": ({"model": "tiny-vit", "image": PICTURE}, "heatmap"),
    "PairSimilarity": ({"model": "tiny-vit", "query": PICTURE, "candidates": [OTHER]}, "results"),
    "ScoreSaliency": (
        {
            "model": "tiny-vit",
            "image": PICTURE,
            "method": {"grad_cam": {}},
            "metrics": [{"deletion": {}}],
        },
        "results",
    ),
    "Embed": ({"model": "tiny-vit", "images": [PICTURE, OTHER]}, "results"),
    "Warm": ({"model": "tiny-vit", "images": [PICTURE]}, "results"),
    "FindMissingImages": ({"digests": [DIGEST]}, "missing"),
    "UploadImages": ({"images": [{"digest": DIGEST, "data": "AAAA"}]}, "results"),
    "GetCacheStats": ({}, "memory"),
    "ClearCache": ({"model": "tiny-vit"}, "redis_cleared"),
}


def test_each_call_of_the_older_contract(older: FileSet, server_target: str):
    rpcs = {rpc.name: rpc for rpc in Contract(older).rpcs()}
    assert set(REQUESTS) <= set(rpcs)
    with grpc.insecure_channel(server_target) as channel:
        for name, (fields, holds) in REQUESTS.items():
            rpc = rpcs[name]
            request = json_format.ParseDict(fields, rpc.request())
            answer = channel.unary_unary(
                rpc.path,
                request_serializer=rpc.request.SerializeToString,
                response_deserializer=rpc.response.FromString,
            )(request, timeout=TIMEOUT_S)
            assert holds in {field.name for field, _ in answer.ListFields()}, name
            if name == "Explain":
                check_map(answer)


def check_map(answer: Message) -> None:
    values = answer.heatmap.values
    assert list(values.shape) == [4, 6]
    assert len(values.data) == 4 * 6 * 4
    assert answer.provenance.model == "tiny-vit"
    assert answer.timing.images == 1


PROGRAM = """
import pathlib, sys
import pairlens

assert pathlib.Path(pairlens.__file__).is_relative_to(sys.argv[1]), pairlens.__file__
picture = pathlib.Path(sys.argv[3])
with pairlens.Client(sys.argv[2], timeout=60) as client:
    client.wait_ready()
    assert client.list_models()
    made = client.explain(picture, model="tiny-vit")
    assert made.heatmap.shape == (4, 6) and made.heatmap.max() > made.heatmap.min()
    (match,) = client.pair_similarity(picture, [picture], model="tiny-vit").matches
    assert abs(match.similarity - 1) < 1e-4
    try:
        client.explain(picture, model="tiny-resnet", method="rollout")
    except pairlens.MethodUnsupportedError as error:
        assert error.reason == "METHOD_UNSUPPORTED"
    else:
        raise AssertionError("no error")
    assert client.cache_stats().memory
"""


def previous_sdk() -> bytes:
    """The newest committed client that is not the one under test, as a tar file."""
    git = ("git", "-C", str(descriptors.ROOT))
    for revision in descriptors.revisions(SDK):
        same = subprocess.run(
            [*git, "diff", "--quiet", revision, "--", SDK], capture_output=True, check=False
        )
        if same.returncode == 1:
            return subprocess.run(
                [*git, "archive", revision, SDK], capture_output=True, check=True
            ).stdout
    pytest.skip("this clone has no commit with another client")


def test_the_sdk_of_the_previous_commit(server_target: str, tmp_path: Path):
    with tarfile.open(fileobj=io.BytesIO(previous_sdk())) as packed:
        packed.extractall(tmp_path, filter="data")
    picture = tmp_path / "cat.png"
    picture.write_bytes(png(1))
    client = tmp_path / "client"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(client), server_target, str(picture)],
        env={**os.environ, "PYTHONPATH": str(client)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
