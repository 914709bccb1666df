"""Pair methods that explain either picture with the similarity to the other one."""

import numpy as np
import pytest

from pairlens_server.errors import ImageUndecodableError
from pairlens_server.methods.affinity import Affinity
from pairlens_server.methods.cam import GradCam, LayerCam, XGradCam
from pairlens_server.methods.catalogue import PAIR_METHODS
from pairlens_server.methods.correspondence import Correspondence
from pairlens_server.methods.full_grad import FullGrad
from pairlens_server.methods.perturbation import IntegratedGradients, Occlusion
from pairlens_server.methods.relevance import (
    AttentionRelevance,
    LeGrad,
    TransformerAttribution,
)
from pairlens_server.methods.similarity import PooledDecomposition
from pairlens_server.service.commands import (
    ExplainCommand,
    PairCommand,
    PairMatch,
    SimilarityTarget,
)
from tests.service.conftest import CLS, CNN, HEADLESS, Bench, png

METHODS = {
    Affinity(): CLS,
    AttentionRelevance(): CLS,
    TransformerAttribution(): CLS,
    LeGrad(): HEADLESS,
    GradCam(): CNN,
    XGradCam(): CNN,
    LayerCam(): CLS,
    FullGrad(): CNN,
    IntegratedGradients(steps=3): CLS,
    Occlusion(): HEADLESS,
}


def test_every_targeted_method_is_tried():
    split = {PooledDecomposition, Correspondence}
    assert {type(method) for method in METHODS} == set(PAIR_METHODS) - split


@pytest.fixture
async def unbatched():
    """Every picture in a pass of its own: the same numbers to the last bit."""
    made = Bench(max_batch=1)
    await made.start()
    yield made
    await made.stop()


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
async def test_either_side_is_explain_with_the_other_as_target(unbatched, method):
    bench = unbatched
    model, query, candidates = METHODS[method], png(1), (png(2, (30, 90)), png(3))
    outcome = await bench.use_cases.pair(PairCommand(model, query, candidates, method))
    assert len(outcome.results) == 2
    for match, candidate in zip(outcome.results, candidates, strict=True):
        for side, picture, other in (
            (match.query, query, candidate),
            (match.candidate, candidate, query),
        ):
            explained = await bench.use_cases.explain(
                ExplainCommand(model, picture, method, SimilarityTarget((other,)))
            )
            np.testing.assert_array_equal(side.heatmap, explained.heatmap)
            assert side.geometry == explained.geometry
            assert (match.similarity,) == pytest.approx(explained.target.similarities, abs=1e-6)
            assert side.bias_share == side.prefix_share == 0
        assert match.match_matrix is None
    assert outcome.method == explained.method
    first, second = outcome.results
    assert not np.allclose(first.candidate.heatmap, second.candidate.heatmap, atol=1e-5)


async def test_a_broken_candidate_fails_alone(bench):
    candidates = (png(2), b"no picture", png(3), b"")
    outcome = await bench.use_cases.pair(PairCommand(CNN, png(1), candidates, GradCam()))
    kinds = [type(result) for result in outcome.results]
    assert kinds == [PairMatch, ImageUndecodableError, PairMatch, ImageUndecodableError]
    assert [outcome.results[i].field for i in (1, 3)] == ["candidates[1]", "candidates[3]"]
    alone = await bench.use_cases.pair(PairCommand(CNN, png(1), (png(3),), GradCam()))
    np.testing.assert_allclose(
        outcome.results[2].query.heatmap, alone.results[0].query.heatmap, atol=1e-5
    )


@pytest.mark.parametrize("method", [GradCam(), Occlusion(), PooledDecomposition()])
async def test_each_picture_counts_once(bench, method):
    command = PairCommand(CNN, png(1), (png(2), png(3)), method)
    cold = (await bench.use_cases.pair(command)).timings
    warm = (await bench.use_cases.pair(command)).timings
    assert (cold.cached_images, cold.images) == (0, 3)
    assert (warm.cached_images, warm.images) == (3, 3)
    assert cold.compute_s > 0
    assert warm.compute_s == warm.queue_s == 0


async def test_the_class_token_gets_a_default_that_explains_pairs(bench):
    outcome = await bench.use_cases.pair(PairCommand(CLS, png(1), (png(2),)))
    assert outcome.method == AttentionRelevance(0)
    (match,) = outcome.results
    assert match.query.heatmap.min() >= 0
