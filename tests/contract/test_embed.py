"""Embed: what PairSimilarity and similarity targets compare."""

import numpy as np
import pytest
from PIL import Image

from tests.contract.scores import Scores, cosine, like, plane
from tests.contract.support import array, encoded, failure_of, noise, png

MODELS = [
    *("tiny-vit", "tiny-vit-cls", "tiny-deit", "tiny-registers"),
    *("tiny-resnet", "tiny-bit", "tiny-headless"),
]
FILES = [png(1), png(2, 30, 90), png(3, 100, 40), png(4)]


@pytest.fixture(scope="module")
def scores(server) -> Scores:
    return Scores(server.channel)


@pytest.mark.parametrize("model", MODELS)
def test_cosines_are_the_similarities_of_pairs(server, scores, model):
    vectors = scores.embeddings(model, *FILES)
    assert vectors.shape == (4, server.get_model(model).model.embedding_size)
    pairs = server.pair(model, *FILES, method={"grad_cam": {}}).results
    expected = [cosine(vectors[0], vector) for vector in vectors[1:]]
    assert [pair.match.similarity for pair in pairs] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("model", ["tiny-vit", "tiny-resnet"])
def test_embeddings_stand_for_their_pictures_in_a_target(server, scores, model):
    vectors = scores.embeddings(model, *FILES[1:])
    by_embeddings = server.explain(model, FILES[0], target=like(embeddings=plane(vectors)))
    by_pictures = server.explain(model, FILES[0], target=like(*FILES[1:]))
    similarities = list(by_embeddings.target.similarities)
    assert similarities == pytest.approx(list(by_pictures.target.similarities), abs=1e-6)
    np.testing.assert_allclose(
        array(by_embeddings.heatmap.values), array(by_pictures.heatmap.values), atol=1e-6
    )


def test_they_are_not_normalised(scores):
    norms = np.linalg.norm(scores.embeddings("tiny-vit", *FILES), axis=1)
    assert (np.abs(norms - 1) > 1e-3).all()
    assert np.ptp(norms) > 1e-3


def test_one_by_one_and_together_are_the_same(scores):
    together = scores.embeddings("tiny-resnet", *FILES, FILES[0])
    alone = np.concatenate([scores.embeddings("tiny-resnet", file) for file in FILES])
    np.testing.assert_allclose(together[:4], alone, atol=1e-5)
    np.testing.assert_array_equal(together[0], together[4])


def test_what_a_picture_is_encoded_as_does_not_matter(scores):
    files = [encoded(noise(5), kind) for kind in ("PNG", "BMP", "TIFF")]
    vectors = scores.embeddings("tiny-vit", *files)
    np.testing.assert_allclose(vectors, np.broadcast_to(vectors[0], vectors.shape), atol=1e-6)


def test_a_bad_picture_leaves_the_others_alone(scores):
    large = encoded(Image.new("RGB", (2001, 2000), "red"))
    answer = scores.embed("tiny-vit", FILES[0], b"no picture", large, FILES[1])
    outcomes = [result.WhichOneof("outcome") for result in answer.results]
    assert outcomes == ["embedding", "error", "error", "embedding"]
    for index, reason in ((1, "IMAGE_UNDECODABLE"), (2, "IMAGE_TOO_LARGE")):
        found = failure_of(answer.results[index].error)
        assert (found.code, found.reason) == ("INVALID_ARGUMENT", reason)
        assert found.field == f"images[{index}]"
    found = [array(answer.results[k].embedding) for k in (0, 3)]
    np.testing.assert_allclose(found, scores.embeddings("tiny-vit", *FILES[:2]), atol=1e-6)


def test_as_many_as_the_limit(scores):
    files = [png(seed) for seed in range(700, 764)]
    answer = scores.embed("tiny-vit", *files)
    assert len(answer.results) == 64
    (last,) = scores.embed("tiny-vit", files[-1]).results
    assert answer.results[-1] == last


def test_provenance_and_timing(server, scores):
    info = server.get_model("tiny-vit").model
    files = [png(601), png(602)]
    cold, warm = (scores.embed("tiny-vit", *files) for _ in range(2))
    provenance = cold.provenance
    assert (provenance.method, provenance.method_revision) == ("", 0)
    assert (provenance.model, provenance.model_fingerprint) == ("tiny-vit", info.fingerprint)
    assert (cold.timing.cached_images, cold.timing.images) == (0, 2)
    assert (warm.timing.cached_images, warm.timing.images) == (2, 2)
    assert cold.timing.total.ToNanoseconds() >= cold.timing.compute.ToNanoseconds() > 0
    assert warm.timing.compute.ToNanoseconds() == 0
    assert warm.results == cold.results
