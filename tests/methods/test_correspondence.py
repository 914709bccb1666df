"""Correspondence: rows and columns of the match matrix, summed over a region."""

import pytest
import torch

from pairlens.rendering import Box
from pairlens_server.errors import InvalidParameterError
from pairlens_server.methods.correspondence import Correspondence
from pairlens_server.methods.similarity import BiasMode, PooledDecomposition, Redistribution
from pairlens_server.recording.activations import evaluate, primitives
from pairlens_server.recording.facts import Refusals
from pairlens_server.recording.primitives import Embedding
from tests.support import facts, pixels, recorded, zoo_model, zoo_recorder

BOX = Box(left=0, top=0, right=4, bottom=4)
OF_QUERY, OF_CANDIDATE = Correspondence(query_region=BOX), Correspondence(candidate_region=BOX)
MATCH = PooledDecomposition(
    redistribution=Redistribution.NONE, bias_mode=BiasMode.IN_TOKENS, match_matrix=True
)


def sides(name):
    """Activations of one query, and of three candidates as a batch."""
    model, recorder = zoo_model(name), zoo_recorder(name)
    known, match = recorder.facts, MATCH.resolve(recorder.facts)
    needed = {*match.pair_needs(), *OF_QUERY.pair_needs()}
    found = recorded(recorder, pixels(model, 4), *primitives(needed, known))
    values = {a: evaluate(a, found, known) for a in needed}
    return {a: v[0] for a, v in values.items()}, {a: v[1:] for a, v in values.items()}, known


@pytest.mark.parametrize("name", ["vit-avg", "vit-avg-fcnorm", "swin", "resnet-max", "resnetv2"])
def test_maps_are_sums_of_the_match_matrix(name):
    query, candidates, known = sides(name)
    match = MATCH.resolve(known).maps(query, candidates, known).match  # [M, cells, cells]
    weights = torch.rand(3, known.layout.cells, generator=torch.Generator().manual_seed(0))
    grid = (-1, known.layout.rows, known.layout.columns)

    found = OF_QUERY.maps(query, candidates, known, weights[:1].expand(3, -1))
    region = match * weights[0][None, :, None]
    for maps, expected in (
        (found.candidate_maps, region.sum(1)),
        (found.query_maps, region.sum(2)),
    ):
        torch.testing.assert_close(maps, expected.reshape(grid), atol=1e-6, rtol=1e-4)

    found = OF_CANDIDATE.maps(query, candidates, known, weights)
    region = match * weights[:, None, :]
    for maps, expected in (
        (found.query_maps, region.sum(2)),
        (found.candidate_maps, region.sum(1)),
    ):
        torch.testing.assert_close(maps, expected.reshape(grid), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("method", [OF_QUERY, OF_CANDIDATE])
def test_the_whole_picture_matches_with_the_whole_similarity(method):
    query, candidates, known = sides("vit-avg")
    found = method.maps(query, candidates, known, torch.ones(3, known.layout.cells))
    cosines = torch.nn.functional.cosine_similarity(
        query[Embedding()][None], candidates[Embedding()], dim=1
    )
    torch.testing.assert_close(found.similarity, cosines)
    # Mean pooling leaves the class token out, so that the patches own all of it.
    torch.testing.assert_close(found.query_maps.sum((1, 2)), cosines, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.candidate_maps.sum((1, 2)), cosines, atol=1e-5, rtol=0)
    for share in (found.query_bias, found.candidate_bias, found.query_prefix):
        assert not share.any()


def test_regions_add_up():
    query, candidates, known = sides("swin")
    halves = torch.zeros(2, 3, known.layout.cells)
    halves[0, :, :10] = 1
    halves[1, :, 10:] = 1
    one, other = (OF_QUERY.maps(query, candidates, known, half) for half in halves)
    whole = OF_QUERY.maps(query, candidates, known, halves.sum(0))
    torch.testing.assert_close(one.candidate_maps + other.candidate_maps, whole.candidate_maps)
    assert not one.query_maps.flatten(1)[:, 10:].any()


def test_two_patches_by_hand():
    # methods.md A1: i = (1,0),(0,1) and j = (1,0),(1,0); s = .7071, half of γ in each column.
    known = facts(1, 2)
    parts, embedding = OF_QUERY.pair_needs()
    first = torch.tensor([[0.5, 0], [0, 0.5], [0, 0]])  # the last row is the prefix's
    second = torch.tensor([[0.5, 0], [0.5, 0], [0, 0]])
    query = {parts: first, embedding: torch.tensor([0.5, 0.5])}
    candidates = {parts: second[None], embedding: torch.tensor([[1.0, 0]])}
    found = OF_QUERY.maps(query, candidates, known, torch.tensor([[1.0, 0]]))
    torch.testing.assert_close(
        found.candidate_maps[0], torch.tensor([[0.35355, 0.35355]]), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(found.query_maps[0], torch.tensor([[0.70711, 0]]), atol=1e-5, rtol=0)
    nothing = OF_QUERY.maps(query, candidates, known, torch.tensor([[0.0, 1]]))
    assert not nothing.candidate_maps.any()


@pytest.mark.parametrize(
    ("method", "field", "text"),
    [
        (Correspondence(), "", "either query_region or candidate_region"),
        (Correspondence(BOX, BOX), "", "either query_region or candidate_region"),
        (Correspondence(Box(4, 0, 4, 4)), ".query_region", "is empty"),
        (Correspondence(Box(5, 0, 4, 4)), ".query_region", "left is less than right"),
        (Correspondence(None, Box(0, 4, 4, 3)), ".candidate_region", "top less than bottom"),
        (Correspondence(Box(float("nan"), 0, 4, 4)), ".query_region", "is empty"),
    ],
)
def test_regions_that_are_none_are_refused(method, field, text):
    with pytest.raises(InvalidParameterError, match=text) as caught:
        method.resolve(facts(1, 2))
    assert caught.value.field == f"method.correspondence{field}"


def test_refusal_is_the_models_own():
    assert Correspondence.refusal(facts(1, 2, refusals=Refusals(parts="class token"))) == (
        "class token"
    )
    assert OF_QUERY.resolve(facts(1, 2)) is OF_QUERY
