"""What a map explains: classes, and similarity to pictures or embeddings."""

import dataclasses

import numpy as np
import pytest
import torch

from pairlens_server.errors import (
    ImageUndecodableError,
    InvalidParameterError,
    MethodUnsupportedError,
)
from pairlens_server.methods.affinity import Affinity
from pairlens_server.methods.cam import GradCam, ScoreCam
from pairlens_server.methods.full_grad import FullGrad
from pairlens_server.methods.parameters import Profile
from pairlens_server.methods.perturbation import IntegratedGradients, Occlusion
from pairlens_server.methods.relevance import AttentionRelevance, TransformerAttribution
from pairlens_server.methods.rollout import Rollout
from pairlens_server.methods.similarity import PooledDecomposition
from pairlens_server.recording.baselines import Fill
from pairlens_server.service.commands import (
    ClassTarget,
    ExplainCommand,
    PairCommand,
    SimilarityTarget,
)
from tests.service.conftest import (
    CLS,
    CNN,
    HEADLESS,
    MAX_TARGET_EMBEDDINGS,
    MEAN,
    png,
)

OF_SIMILARITY = [
    (MEAN, PooledDecomposition()),
    (CLS, Affinity()),
    (CLS, AttentionRelevance()),
    (HEADLESS, TransformerAttribution()),
    (CNN, GradCam()),
    (CNN, FullGrad()),
    (MEAN, Occlusion()),
    (CLS, IntegratedGradients(steps=4)),
]


def named(cases):
    return [pytest.param(*case, id=f"{case[0]}-{case[1].name}") for case in cases]


async def explain(bench, model, method, target=None, picture=None):
    file = png(0) if picture is None else picture
    return await bench.use_cases.explain(ExplainCommand(model, file, method, target))


async def embeddings(bench, model, *files):
    return np.stack([await bench.embedding(model, file) for file in files])


@pytest.mark.parametrize(("model", "method"), named(OF_SIMILARITY))
async def test_pictures_and_their_embeddings_are_one_target(bench, model, method):
    files = (png(1), png(2), png(3))
    vectors = await embeddings(bench, model, *files)
    by_pictures = await explain(bench, model, method, SimilarityTarget(files))
    by_vectors = await explain(bench, model, method, SimilarityTarget(embeddings=vectors))
    by_both = await explain(bench, model, method, SimilarityTarget(files[:1], vectors[1:]))
    for other in (by_vectors, by_both):
        np.testing.assert_allclose(other.heatmap, by_pictures.heatmap, atol=1e-5)
        assert other.target.similarities == pytest.approx(by_pictures.target.similarities, abs=1e-6)
    assert by_pictures.target.class_index is None
    alone = await explain(bench, model, method, SimilarityTarget(files[:1]))
    assert not np.allclose(alone.heatmap, by_pictures.heatmap, atol=1e-4)


async def test_the_similarities_are_the_cosines_of_pictures_then_embeddings(bench):
    own = await bench.embedding(MEAN, png(0))
    others = await embeddings(bench, MEAN, png(1), png(2), png(3))
    outcome = await explain(bench, MEAN, None, SimilarityTarget((png(1), png(2)), others[2:]))
    cosines = [own @ e / np.linalg.norm(own) / np.linalg.norm(e) for e in others]
    assert outcome.target.similarities == pytest.approx(cosines, abs=1e-6)
    assert (outcome.target.logit, outcome.target.probability, outcome.target.label) == (0, 0, "")


@pytest.mark.parametrize(("model", "method"), named(OF_SIMILARITY[:4]))
@pytest.mark.parametrize("length", [1e-30, 7.0, 1e30])
async def test_embeddings_may_have_any_length(bench, model, method, length):
    vectors = await embeddings(bench, model, png(1), png(2))
    plain = await explain(bench, model, method, SimilarityTarget(embeddings=vectors))
    scaled = vectors * np.array([[length], [1.0]], np.float32)
    stretched = await explain(bench, model, method, SimilarityTarget(embeddings=scaled))
    np.testing.assert_allclose(stretched.heatmap, plain.heatmap, atol=1e-6)
    assert stretched.target.similarities == pytest.approx(plain.target.similarities, abs=1e-6)


@pytest.mark.parametrize("profile", Profile)
async def test_the_class_similarity_map_is_the_sum_of_the_pair_maps(bench, profile):
    method, gallery = PooledDecomposition(profile), tuple(png(seed) for seed in range(1, 6))
    for model in (MEAN, CNN):
        summed = await explain(bench, model, method, SimilarityTarget(gallery))
        pairs = await bench.use_cases.pair(PairCommand(model, png(0), gallery, method))
        total = np.sum([match.query.heatmap for match in pairs.results], axis=0)
        np.testing.assert_allclose(summed.heatmap, total, atol=1e-5)
        assert summed.target.similarities == pytest.approx(
            [match.similarity for match in pairs.results], abs=1e-6
        )
        for name in ("bias_share", "prefix_share"):
            shares = sum(getattr(match.query, name) for match in pairs.results)
            assert getattr(summed, name) == pytest.approx(shares, abs=1e-5)
        if profile is Profile.STRICT:
            whole = summed.heatmap.sum() + summed.bias_share + summed.prefix_share
            assert whole == pytest.approx(sum(summed.target.similarities), abs=1e-5)
        shares = [(m.query.bias_share, m.query.prefix_share) for m in pairs.results]
        both = (summed.bias_share, summed.prefix_share)
        np.testing.assert_allclose(both, np.sum(shares, axis=0), atol=1e-5)
        if profile is Profile.STRICT:
            parts = summed.heatmap.sum() + sum(both)
            assert parts == pytest.approx(sum(summed.target.similarities), abs=1e-4)


@pytest.mark.parametrize(
    ("model", "method"),
    [(MEAN, AttentionRelevance), (CNN, PooledDecomposition), (HEADLESS, AttentionRelevance)],
)
async def test_a_similarity_has_a_default_method(bench, model, method):
    outcome = await explain(bench, model, None, SimilarityTarget((png(1),)))
    assert isinstance(outcome.method, method)
    assert outcome.timings.images == 2


def occluded(model, picture):
    """Copies of an input with each of its cells at the mean colour, by a plain loop."""
    rows, columns = model.layout.rows, model.layout.columns
    height, width = picture.shape[1] // rows, picture.shape[2] // columns
    copies = []
    for row in range(rows):
        for column in range(columns):
            copy = picture.clone()
            down, across = row * height, column * width
            copy[:, down : down + height, across : across + width] = 0
            copies.append(copy)
    return torch.stack(copies)


async def test_the_predicted_class_is_that_of_the_clean_picture(bench):
    """A changed copy may be predicted as something else; the map stays of one class."""
    model, network = bench.models[CLS], bench.models[CLS].network
    changed = False
    for seed in range(20):
        recorded = await explain(bench, CLS, Occlusion(), ClassTarget(), png(seed))
        picture = bench.pixels(CLS, png(seed))
        with torch.no_grad():
            clean, copies = network(picture[None])[0], network(occluded(model, picture))
        predicted = int(clean.argmax())
        drops = (clean[predicted] - copies[:, predicted]).reshape(recorded.heatmap.shape)
        assert recorded.target.class_index == predicted
        np.testing.assert_allclose(recorded.heatmap, drops.numpy(), atol=1e-4)
        changed |= bool((copies.argmax(1) != predicted).any())
    assert changed, "no copy is predicted as something else, so this shows nothing"


@pytest.mark.parametrize("method", [Occlusion(), ScoreCam(), IntegratedGradients(steps=3)])
async def test_the_predicted_class_by_its_index_is_no_further_work(bench, method):
    predicted = await explain(bench, CNN, method, ClassTarget())
    index = predicted.target.class_index
    by_index = await explain(bench, CNN, method, ClassTarget(index))
    assert by_index.timings.cached_images == 1
    np.testing.assert_array_equal(by_index.heatmap, predicted.heatmap)
    other = await explain(bench, CNN, method, ClassTarget((index + 1) % 5))
    assert not np.allclose(other.heatmap, predicted.heatmap)


def similar(count=1, size=6, value=1.0):
    return SimilarityTarget(embeddings=np.full((count, size), value, np.float32))


def one_zero():
    vectors = np.ones((3, 6), np.float32)
    vectors[1] = 0
    return SimilarityTarget(embeddings=vectors)


@pytest.mark.parametrize(
    ("model", "method", "target", "field", "words"),
    [
        (HEADLESS, GradCam(), ClassTarget(), "target", "no class head"),
        (HEADLESS, GradCam(), ClassTarget(0), "target", "give grad_cam a similarity target"),
        (HEADLESS, Occlusion(), None, "target", "no class head"),
        (HEADLESS, AttentionRelevance(), None, "target", "no class head"),
        (HEADLESS, None, ClassTarget(0), "target", "rollout takes no target"),
        (CLS, Rollout(), ClassTarget(0), "target", "rollout takes no target"),
        (CLS, Rollout(), similar(), "target.similarity", "rollout takes no similarity target"),
        (MEAN, PooledDecomposition(), ClassTarget(0), "target", "a similarity target alone"),
        (MEAN, PooledDecomposition(), None, "target", "needs a similarity target"),
        (CLS, Affinity(), None, "target", "needs a similarity target"),
        (CLS, GradCam(), ClassTarget(5), "target.class_index", "classes 0 to 4"),
        (MEAN, None, similar(size=5), "target.similarity.embeddings", "length 5.*length 6"),
        (MEAN, None, one_zero(), "target.similarity.embeddings", "embedding 1 is zero"),
        (
            MEAN,
            None,
            similar(MAX_TARGET_EMBEDDINGS + 1),
            "target.similarity.embeddings",
            f"{MAX_TARGET_EMBEDDINGS + 1} embeddings; at most {MAX_TARGET_EMBEDDINGS}",
        ),
        (
            MEAN,
            None,
            SimilarityTarget((png(1),) * 9),
            "target.similarity.images",
            "9 pictures; a call takes at most 8",
        ),
        (
            MEAN,
            PooledDecomposition(match_matrix=True),
            similar(),
            "method.pooled_decomposition.match_matrix",
            "ask PairSimilarity",
        ),
    ],
)
async def test_targets_that_do_not_fit(bench, model, method, target, field, words):
    with pytest.raises(InvalidParameterError, match=words) as caught:
        await explain(bench, model, method, target)
    assert caught.value.field == field


async def test_a_target_up_to_its_bounds_is_taken(bench):
    full = SimilarityTarget((png(1),) * 8, np.ones((MAX_TARGET_EMBEDDINGS, 6), np.float32))
    outcome = await explain(bench, MEAN, None, full)
    assert len(outcome.target.similarities) == 8 + MAX_TARGET_EMBEDDINGS


async def test_a_broken_picture_of_a_target_is_named(bench):
    target = SimilarityTarget((png(1), b"no picture"))
    with pytest.raises(ImageUndecodableError) as caught:
        await explain(bench, MEAN, None, target)
    assert caught.value.field == "target.similarity.images[1]"


async def test_a_refused_method_is_refused_whatever_the_target(bench):
    for target in (None, ClassTarget(0), similar()):
        with pytest.raises(MethodUnsupportedError) as caught:
            await explain(bench, CNN, AttentionRelevance(), target)
        assert caught.value.field == "method"


BLACK = png(0, black=True)
# From noise: the mean colour is black here, where the path would start without an embedding.
PATH = IntegratedGradients(steps=2, baseline=Fill.NOISE)
METHODS = [PooledDecomposition(), GradCam(), FullGrad(), Occlusion(), PATH]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
async def test_a_picture_without_an_embedding_has_no_similarity(vanishing, method):
    assert not (await vanishing.embedding("vanishing", BLACK)).any()
    vectors = await embeddings(vanishing, "vanishing", png(1))
    for picture, target, field in (
        (BLACK, SimilarityTarget(embeddings=vectors), "image"),
        (png(2), SimilarityTarget((png(1), BLACK)), "target.similarity.images[1]"),
    ):
        with pytest.raises(InvalidParameterError, match="no cosine exists") as caught:
            await explain(vanishing, "vanishing", method, target, picture)
        assert caught.value.field == field
    if method.takes_class:
        await explain(vanishing, "vanishing", method, ClassTarget(0), BLACK)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
async def test_a_pair_with_a_picture_without_an_embedding(vanishing, method):
    pair = PairCommand("vanishing", png(1), (png(2), BLACK, png(3)), method)
    results = (await vanishing.use_cases.pair(pair)).results
    assert isinstance(results[1], InvalidParameterError)
    assert results[1].field == "candidates[1]"
    alone = await vanishing.use_cases.pair(dataclasses.replace(pair, candidates=(png(3),)))
    np.testing.assert_allclose(
        results[2].candidate.heatmap, alone.results[0].candidate.heatmap, atol=1e-5
    )
    with pytest.raises(InvalidParameterError, match="no cosine exists") as caught:
        await vanishing.use_cases.pair(dataclasses.replace(pair, query=BLACK))
    assert caught.value.field == "query"
