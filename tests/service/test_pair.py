import asyncio
import dataclasses

import numpy as np
import pytest

from pairlens.rendering import ColorScale
from pairlens_server.errors import (
    ImageUndecodableError,
    InvalidParameterError,
    MethodUnsupportedError,
)
from pairlens_server.images.render import RenderOptions
from pairlens_server.methods.parameters import Profile
from pairlens_server.methods.similarity import BiasMode, PooledDecomposition, Redistribution
from pairlens_server.service.commands import PairCommand, PairMatch
from pairlens_server.service.gathering import gather_or_cancel
from tests.service.conftest import CLS, CNN, MEAN, png


def total(side):
    return side.heatmap.sum() + side.bias_share + side.prefix_share


@pytest.mark.parametrize("model", [MEAN, CNN])
async def test_strict_maps_add_up_and_the_score_is_the_embeddings_cosine(bench, model):
    pictures = (png(1), png(2, (30, 90)), png(3))
    outcome = await bench.use_cases.pair(PairCommand(model, pictures[0], pictures[1:]))
    for match in outcome.results:
        assert isinstance(match, PairMatch)
        assert total(match.query) == pytest.approx(match.similarity, abs=1e-5)
        assert total(match.candidate) == pytest.approx(match.similarity, abs=1e-5)
        assert match.query.bias_share != 0
    back = await bench.use_cases.pair(PairCommand(model, pictures[1], pictures[:1]))
    forth = outcome.results[0]
    assert back.results[0].similarity == pytest.approx(forth.similarity, abs=1e-6)
    np.testing.assert_allclose(back.results[0].candidate.heatmap, forth.query.heatmap, atol=1e-6)


@pytest.mark.parametrize("model", [MEAN, CNN])
async def test_a_picture_matches_itself_with_one_and_the_same_map(bench, model):
    outcome = await bench.use_cases.pair(PairCommand(model, png(4), (png(4),)))
    (match,) = outcome.results
    assert match.similarity == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(match.query.heatmap, match.candidate.heatmap, atol=1e-6)


async def test_a_bad_candidate_fails_alone(bench):
    candidates = (png(2), b"no picture", png(3), b"")
    outcome = await bench.use_cases.pair(PairCommand(MEAN, png(1), candidates))
    kinds = [type(result) for result in outcome.results]
    assert kinds == [PairMatch, ImageUndecodableError, PairMatch, ImageUndecodableError]
    assert [outcome.results[i].field for i in (1, 3)] == ["candidates[1]", "candidates[3]"]
    alone = await bench.use_cases.pair(PairCommand(MEAN, png(1), (png(3),)))
    np.testing.assert_allclose(
        outcome.results[2].query.heatmap, alone.results[0].query.heatmap, atol=1e-5
    )


async def test_all_candidates_bad_is_still_an_answer(bench):
    outcome = await bench.use_cases.pair(PairCommand(MEAN, png(1), (b"", b"x")))
    assert all(isinstance(r, ImageUndecodableError) for r in outcome.results)


async def test_warm_pairs_run_no_forward_pass_and_agree(bench):
    command = PairCommand(MEAN, png(1), (png(2), png(3)))
    cold = await bench.use_cases.pair(command)
    warm = await bench.use_cases.pair(command)
    assert (cold.timings.cached_images, warm.timings.cached_images) == (0, 3)
    assert warm.timings.compute_s == 0
    for first, second in zip(cold.results, warm.results, strict=True):
        np.testing.assert_array_equal(first.query.heatmap, second.query.heatmap)


async def test_equal_pictures_of_one_call_are_computed_once(bench):
    outcome = await bench.use_cases.pair(PairCommand(MEAN, png(1), (png(1), png(2), png(2))))
    assert outcome.timings.images == 4
    assert outcome.results[1].similarity == outcome.results[2].similarity
    needs = len(outcome.method.pair_needs())
    assert len(bench.memory) == 2 * (needs + 1)  # and each picture's size


async def test_options_resolve_and_reach_the_answer(bench):
    method = PooledDecomposition(profile=Profile.REFERENCE, match_matrix=True)
    outcome = await bench.use_cases.pair(PairCommand(MEAN, png(1), (png(2),), method))
    assert outcome.method == PooledDecomposition(
        Profile.REFERENCE, Redistribution.ROLLOUT, BiasMode.IN_TOKENS, True
    )
    assert outcome.results[0].match_matrix.shape == (24, 24)


async def test_pair_drawings_share_a_scale_on_request(bench):
    options = RenderOptions(overlay=True, upsampled=True, scale=ColorScale.PAIR, max_side=32)
    outcome = await bench.use_cases.pair(
        PairCommand(CNN, png(1), (png(2, (30, 90)),), rendering=options)
    )
    (match,) = outcome.results
    assert match.query.rendered.upsampled.shape == (23, 32)
    assert match.candidate.rendered.upsampled.shape == (11, 32)


@pytest.mark.parametrize(
    ("command", "error", "field"),
    [
        (PairCommand(MEAN, png(0), ()), InvalidParameterError, "candidates"),
        (PairCommand(MEAN, png(0), (png(1),) * 9), InvalidParameterError, "candidates"),
        (PairCommand(MEAN, b"", (png(1),)), ImageUndecodableError, "query"),
        (
            PairCommand(CLS, png(0), (png(1),), PooledDecomposition()),
            MethodUnsupportedError,
            "method",
        ),
        (
            PairCommand(
                CNN, png(0), (png(1),), PooledDecomposition(redistribution=Redistribution.ROLLOUT)
            ),
            MethodUnsupportedError,
            "method.pooled_decomposition.redistribution",
        ),
        (
            PairCommand(MEAN, png(0), (png(1),) * 4, PooledDecomposition(match_matrix=True)),
            InvalidParameterError,
            "method.pooled_decomposition.match_matrix",
        ),
        (
            PairCommand(
                MEAN,
                png(0, (600, 600)),
                (png(1, (600, 600)),) * 2,
                rendering=RenderOptions(overlay=True),
            ),
            InvalidParameterError,
            "rendering.max_side",
        ),
    ],
)
async def test_mistakes_fail_the_call_with_their_field(bench, command, error, field):
    with pytest.raises(error) as caught:
        await bench.use_cases.pair(command)
    assert caught.value.field == field
    await bench.use_cases.pair(
        dataclasses.replace(
            command, model=MEAN, query=png(0), candidates=(png(1),), method=None, rendering=None
        )
    )


async def test_one_failure_cancels_the_others():
    states = []

    async def slow():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            states.append("cancelled")
            raise

    async def fail():
        await asyncio.sleep(0)
        raise ImageUndecodableError("broken")

    with pytest.raises(ImageUndecodableError, match="broken"):
        await gather_or_cancel([slow(), fail(), slow()])
    await asyncio.sleep(0)
    assert states == ["cancelled", "cancelled"]
