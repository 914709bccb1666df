"""What a request wants explained; targets that are refused are also in test_convert_requests.py."""

from typing import Any

import numpy as np
import pytest

from pairlens.v1 import common_pb2, methods_pb2
from pairlens_server.errors import InvalidParameterError
from pairlens_server.rpc.convert_requests import read_target
from pairlens_server.service.commands import ClassTarget, SimilarityTarget

IMAGE = common_pb2.Image(inline=b"file")


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ({"class_index": 0}, ClassTarget(class_index=0)),
        ({"label": "newt"}, ClassTarget(label="newt")),
        ({"predicted": True}, ClassTarget()),
    ],
)
def test_targets(target, expected):
    assert read_target(methods_pb2.Target(**target)) == expected


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
    target = read_target(methods_pb2.Target(similarity=similarity))
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
        read_target(methods_pb2.Target(similarity={"embeddings": embeddings}))
    assert caught.value.field == "target.similarity.embeddings"
