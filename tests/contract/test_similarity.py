"""Similarity targets and what pairs owe to them, over the wire."""

import numpy as np
import pytest

from pairlens.v1 import methods_pb2
from tests.contract.support import array, decomposition, image, png, tensor, values

PAIR_MODELS = ["tiny-vit", "tiny-registers", "tiny-resnet", "tiny-bit", "tiny-headless"]


def like(*files: bytes, embeddings=None) -> dict:
    similarity: dict = {"images": [image(file) for file in files]}
    if embeddings is not None:
        similarity["embeddings"] = tensor(embeddings)
    return {"similarity": similarity}


@pytest.mark.parametrize("model", PAIR_MODELS)
def test_a_class_similarity_map_is_the_sum_of_the_pair_maps(server, model):
    gallery = [png(seed) for seed in range(2, 8)]
    method = {"pooled_decomposition": {}}
    summed = server.explain(model, method=method, target=like(*gallery))
    pairs = server.pair(model, png(1), *gallery, method=methods_pb2.PairMethod(**method)).results
    total = np.sum([values(result.match.query) for result in pairs], axis=0)
    np.testing.assert_allclose(values(summed), total, atol=1e-5)
    similarities = [result.match.similarity for result in pairs]
    assert list(summed.target.similarities) == pytest.approx(similarities, abs=1e-6)
    assert not summed.target.HasField("class_index")


@pytest.mark.parametrize(
    ("model", "name"),
    [
        *[("tiny-vit-cls", name) for name in ("affinity", "attention_relevance", "occlusion")],
        *[("tiny-deit", name) for name in ("transformer_attribution", "le_grad")],
        *[("tiny-resnet", name) for name in ("grad_cam", "x_grad_cam", "layer_cam")],
        *[("tiny-headless", name) for name in ("full_grad", "integrated_gradients")],
    ],
)
def test_a_pair_is_either_picture_explained_with_the_other(server, model, name):
    method = methods_pb2.PairMethod(**{name: {}})
    (result,) = server.pair(model, png(1), png(2, 30, 90), method=method).results
    match = result.match
    for side, picture, other in (
        (match.query, png(1), png(2, 30, 90)),
        (match.candidate, png(2, 30, 90), png(1)),
    ):
        answer = server.explain(model, picture, method={name: {}}, target=like(other))
        np.testing.assert_array_equal(values(side), values(answer))
        assert answer.target.similarities == pytest.approx([match.similarity], abs=1e-6)


def test_embeddings_stand_for_their_pictures(server):
    """With as many pictures as numbers, cosines to unit vectors are the embedding itself."""
    axes = np.eye(6, dtype=np.float32)
    embeddings = []
    for seed in (2, 3):
        answer = server.explain("tiny-vit", png(seed), target=like(embeddings=axes))
        embeddings.append(list(answer.target.similarities))
    by_pictures = server.explain("tiny-vit", target=like(png(2), png(3)))
    by_embeddings = server.explain("tiny-vit", target=like(embeddings=embeddings))
    np.testing.assert_allclose(values(by_embeddings), values(by_pictures), atol=1e-6)


def test_a_region_and_what_matches_it(server):
    # 40 by 56 pixels on 4 by 6 cells: the two in the middle of row 1.
    box = {"left": 2 * 56 / 6, "top": 10, "right": 4 * 56 / 6, "bottom": 20}
    inside = np.zeros((4, 6), bool)
    inside[1, 2:4] = True
    method = methods_pb2.PairMethod(correspondence={"query_region": box})
    answer = server.pair("tiny-vit", png(1), png(2), method=method)
    assert answer.method.correspondence.query_region.top == 10
    match = answer.results[0].match
    found = values(match.candidate)
    separate = server.pair(
        "tiny-vit",
        png(1),
        png(2),
        method=decomposition(
            redistribution="REDISTRIBUTION_NONE", bias_mode="BIAS_MODE_IN_TOKENS", match_matrix=True
        ),
    )
    matrix = array(separate.results[0].match.match_matrix)
    np.testing.assert_allclose(found.ravel(), matrix[inside.ravel()].sum(0), atol=1e-5)
    np.testing.assert_allclose(values(match.query)[~inside], 0, atol=1e-6)
    assert values(match.query).sum() == pytest.approx(found.sum(), abs=1e-5)


def test_numbers_besides_maps(server):
    units = server.explain("tiny-vit", method={"hidden_unit": {"strongest": 3}})
    assert len(units.units) == 3
    assert values(units.panels[0]).tolist() == values(units).tolist()
    assert [panel.unit for panel in units.panels] == [unit.unit for unit in units.units]
    semantic = server.explain("tiny-vit-cls", method={"semantic_attention": {}})
    assert len(semantic.interrelations) == 6
    counts = np.frombuffer(semantic.keypoints.data, "<i8")
    assert list(semantic.keypoints.shape) == [4, 6]
    assert counts.min() >= 0
    relevance = server.explain("tiny-vit-cls", method={"transformer_attribution": {}})
    assert relevance.diagnostics.relevance_drift >= 0
    path = server.explain("tiny-resnet", method={"integrated_gradients": {"steps": 512}})
    assert abs(path.diagnostics.completeness_error) < 0.01 * max(1, abs(path.target.logit))
    full = server.explain("tiny-vit-cls", method={"full_grad": {}})
    assert abs(full.diagnostics.completeness_error) < 1e-3
    headless = server.explain("tiny-headless", method={"full_grad": {}}, target=like(png(2)))
    assert abs(headless.diagnostics.completeness_error) < 1e-4
