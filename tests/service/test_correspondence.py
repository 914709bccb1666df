"""Correspondence against the match matrix, whose rows and columns it sums."""

import numpy as np
import pytest

from pairlens.rendering import Box
from pairlens_server.errors import ImageUndecodableError, InvalidParameterError
from pairlens_server.methods.correspondence import Correspondence
from pairlens_server.methods.similarity import BiasMode, PooledDecomposition, Redistribution
from pairlens_server.service.commands import PairCommand, PairMatch
from tests.service.conftest import CLS, CNN, MEAN, png

# Stretched to 32 by 48 input pixels, so that cells are 10 by 14 of these.
SIZE = (40, 84)
QUERY = png(1, SIZE)
CANDIDATES = (png(2, SIZE), png(3, (80, 168)), png(4, SIZE))
EVERYTHING = Box(0, 0, 1000, 1000)
IN_TOKENS = PooledDecomposition(
    redistribution=Redistribution.NONE, bias_mode=BiasMode.IN_TOKENS, match_matrix=True
)


async def matches(bench, method, candidates=CANDIDATES, model=MEAN):
    outcome = await bench.use_cases.pair(PairCommand(model, QUERY, candidates, method))
    return outcome.results


async def matrices(bench):
    return [match.match_matrix for match in await matches(bench, IN_TOKENS)]


async def test_a_region_of_the_query_sums_rows_of_the_match_matrix(bench):
    # Rows 1 and 2, columns 3 to 5 of the grid of 4 by 6.
    box = Box(3 * 14, 10, 6 * 14, 30)
    inside = np.zeros((4, 6), bool)
    inside[1:3, 3:6] = True
    found = await matches(bench, Correspondence(query_region=box))
    for match, matrix in zip(found, await matrices(bench), strict=True):
        np.testing.assert_allclose(
            match.candidate.heatmap.ravel(), matrix[inside.ravel()].sum(0), atol=1e-6
        )
        # The region's own picture shows what each of its cells adds.
        rows = matrix.sum(1).reshape(4, 6)
        np.testing.assert_allclose(match.query.heatmap, np.where(inside, rows, 0), atol=1e-6)
        assert match.query.heatmap.sum() == pytest.approx(match.candidate.heatmap.sum(), abs=1e-5)
        assert match.match_matrix is None
        assert match.query.bias_share == match.candidate.prefix_share == 0


async def test_a_region_of_the_candidate_sums_columns(bench):
    # Of a picture twice as large, other cells.
    box = Box(14, 20, 3 * 14, 40)
    inside = np.zeros((3, 4, 6), bool)
    inside[:, 2:4, 1:3] = True
    inside[1] = False
    inside[1, 1, 0] = True  # half of it, and half of the one beside
    weights = inside.astype(np.float32)
    weights[1, 1] = [0.5, 0.5, 0, 0, 0, 0]
    found = await matches(bench, Correspondence(candidate_region=box))
    for match, matrix, weight in zip(found, await matrices(bench), weights, strict=True):
        np.testing.assert_allclose(match.query.heatmap.ravel(), matrix @ weight.ravel(), atol=1e-6)
        columns = matrix.sum(0).reshape(4, 6)
        np.testing.assert_allclose(match.candidate.heatmap, weight * columns, atol=1e-6)


async def test_cells_count_by_the_part_of_them_inside(bench):
    (quarter, *_) = await matches(bench, Correspondence(query_region=Box(0, 0, 7, 5)))
    (whole, *_) = await matches(bench, Correspondence(query_region=Box(0, 0, 14, 10)))
    np.testing.assert_allclose(quarter.candidate.heatmap, whole.candidate.heatmap / 4, atol=1e-6)


@pytest.mark.parametrize("model", [MEAN, CNN])
@pytest.mark.parametrize("field", ["query_region", "candidate_region"])
async def test_the_whole_picture_is_the_map_without_redistribution(bench, model, field):
    plain = PooledDecomposition(redistribution=Redistribution.NONE, bias_mode=BiasMode.IN_TOKENS)
    expected = await matches(bench, plain, model=model)
    found = await matches(bench, Correspondence(**{field: EVERYTHING}), model=model)
    for match, other in zip(found, expected, strict=True):
        assert match.similarity == pytest.approx(other.similarity, abs=1e-6)
        np.testing.assert_allclose(match.candidate.heatmap, other.candidate.heatmap, atol=1e-6)
        np.testing.assert_allclose(match.query.heatmap, other.query.heatmap, atol=1e-6)


async def test_a_bad_candidate_fails_alone(bench):
    method = Correspondence(candidate_region=EVERYTHING)
    results = await matches(bench, method, (CANDIDATES[0], b"no picture", CANDIDATES[2]))
    assert [type(r) for r in results] == [PairMatch, ImageUndecodableError, PairMatch]
    alone = await matches(bench, method, (CANDIDATES[2],))
    np.testing.assert_allclose(results[2].query.heatmap, alone[0].query.heatmap, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "field", "words"),
    [
        (Correspondence(), "method.correspondence", "either"),
        (Correspondence(EVERYTHING, EVERYTHING), "method.correspondence", "either"),
        (Correspondence(Box(5, 0, 5, 9)), "method.correspondence.query_region", "is empty"),
        (Correspondence(Box(9, 0, 5, 9)), "method.correspondence.query_region", "is empty"),
        (Correspondence(Box(0, 9, 5, 1)), "method.correspondence.query_region", "is empty"),
        (
            Correspondence(candidate_region=Box(float("nan"), 0, 5, 9)),
            "method.correspondence.candidate_region",
            "is empty",
        ),
        (
            Correspondence(Box(84, 0, 90, 9)),
            "method.correspondence.query_region",
            "covers nothing of query",
        ),
        (
            Correspondence(Box(-5, -5, 0, 0)),
            "method.correspondence.query_region",
            "covers nothing of query",
        ),
    ],
)
async def test_regions_that_are_none(bench, method, field, words):
    with pytest.raises(InvalidParameterError, match=words) as caught:
        await matches(bench, method)
    assert caught.value.field == field


async def test_a_class_token_has_no_match_matrix_to_sum(bench):
    with pytest.raises(Exception, match="class token") as caught:
        await matches(bench, Correspondence(EVERYTHING), model=CLS)
    assert caught.value.field == "method"


async def test_a_candidate_that_the_region_misses_fails_alone(bench):
    # Inside the larger one of the candidates alone.
    first, second, *_ = await matches(bench, Correspondence(candidate_region=Box(100, 50, 120, 70)))
    assert isinstance(first, InvalidParameterError)
    assert first.field == "method.correspondence.candidate_region"
    assert "covers nothing of candidates[0]" in first.message
    assert second.candidate.heatmap.any()
