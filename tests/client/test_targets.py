import os
import time
from pathlib import Path

import numpy as np
import pytest

from pairlens import Client, EncodedImage, SimilarTo
from pairlens.errors import (
    DeadlineExceededError,
    ImageFileError,
    InvalidParameterError,
    MethodUnsupportedError,
)
from pairlens.v1 import common_pb2, explanation_service_pb2
from tests.client.scripted import Scripted, png

EXPLAIN = explanation_service_pb2.ExplainRequest


def test_one_picture_or_several(tmp_path: Path):
    (tmp_path / "cat.png").write_bytes(png())
    assert SimilarTo(tmp_path / "cat.png").images == (EncodedImage(png(), "cat.png"),)
    several = SimilarTo([png(), np.zeros((8, 8), np.uint8)])
    assert [type(image) for image in several.images] == [EncodedImage] * 2
    assert several.embeddings is None


@pytest.mark.parametrize("given", [[1.0, 0, -2], [[1, 0, -2]], np.array([[1, 0, -2]], np.float64)])
def test_embeddings_become_rows_of_float32(given: object):
    embeddings = SimilarTo(embeddings=given).embeddings
    assert (embeddings.dtype, embeddings.tolist()) == (np.float32, [[1, 0, -2]])
    with pytest.raises(ValueError, match="read-only"):
        embeddings[0, 0] = 2


def test_embeddings_are_a_copy():
    mine = np.ones((1, 3), np.float32)
    target = SimilarTo(embeddings=mine)
    mine[:] = 0
    assert target.embeddings.tolist() == [[1, 1, 1]]


@pytest.mark.parametrize(
    ("embeddings", "message", "field"),
    [
        ([[1, 2], [0, 0]], r"embeddings\[1\] is zero or not finite", "embeddings[1]"),
        ([1, float("nan")], r"embeddings\[0\] is zero or not", "embeddings[0]"),
        ([1, 1e300], r"embeddings\[0\] is zero or not", "embeddings[0]"),
        (np.zeros((2, 2, 2)), r"not of shape \(2, 2, 2\)", "embeddings"),
        (np.zeros((0, 4)), r"not of shape \(0, 4\)", "embeddings"),
        ("text", "embeddings are numbers", "embeddings"),
        ([[1, 2], [3]], "embeddings are numbers", "embeddings"),
    ],
)
def test_bad_embeddings(embeddings: object, message: str, field: str):
    with pytest.raises(InvalidParameterError, match=message) as caught:
        SimilarTo(embeddings=embeddings)
    assert caught.value.field == f"target.similarity.{field}"


def test_nothing_to_be_similar_to():
    with pytest.raises(InvalidParameterError, match="needs images or embeddings"):
        SimilarTo()
    with pytest.raises(ImageFileError) as caught:
        SimilarTo([png(), "no.png"])
    assert caught.value.field == "target.similarity.images[1]"


def test_it_is_sent_whole_and_answered(client: Client, service: Scripted):
    target = SimilarTo([png(), png(8, 8)], embeddings=[[1, 2, 3]])
    made = client.explain(png(), model="cnn", method="grad_cam", target=target)
    sent = service.calls[-1].target.similarity
    assert [image.inline for image in sent.images] == [png(), png(8, 8)]
    assert sent.embeddings == common_pb2.Tensor(
        dtype=common_pb2.DATA_TYPE_FLOAT32,
        shape=[1, 3],
        data=np.array([1, 2, 3], "<f4").tobytes(),
    )
    assert made.target.similarities == (0.25,) * 3
    assert (made.target.class_index, made.target.logit, made.target.probability) == (None,) * 3
    assert made.score == 0.75
    assert str(made.target) == "similarity to 3 pictures"


def test_the_default_method_is_that_of_similarities(client: Client, service: Scripted):
    target = SimilarTo(png())
    assert client.explain(png(), model="vit", target=target).method.name == "affinity"
    assert not service.calls[-1].HasField("method")  # the server's own choice
    # Without a model, the first one with a default for such a target.
    assert client.explain(png(), target=target).provenance.model == "vit"
    del service.models[0]
    client.list_models()
    with pytest.raises(MethodUnsupportedError, match="no model gives a method"):
        client.explain(png(), target=target)


class SlowPath(os.PathLike):
    """A path on a disk that takes its time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        time.sleep(0.4)
        return str(self.path)


def test_reading_the_gallery_counts(client: Client, tmp_path: Path):
    (tmp_path / "cat.png").write_bytes(png())
    gallery = [SlowPath(tmp_path / "cat.png")]
    client.list_models()
    with pytest.raises(DeadlineExceededError, match=r"within 0\.3 s"):
        client.class_similarity(png(), gallery, model="cnn", timeout=0.3)


def test_class_similarity(client: Client, service: Scripted):
    made = client.class_similarity(png(), [png(8, 8), png(9, 9)], profile="paper")
    (sent,) = service.requests(EXPLAIN)
    assert sent.model == "cnn"
    assert sent.method.pooled_decomposition.profile == common_pb2.PROFILE_PAPER
    assert len(sent.target.similarity.images) == 2
    assert made.method.name == "pooled_decomposition"
    assert made.score == 0.5
