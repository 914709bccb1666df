"""Warm: afterwards the calls that it stands for run no pass."""

import dataclasses

import pytest

from pairlens.rendering import Box
from pairlens_server.cache.policy import CachePolicy
from pairlens_server.errors import (
    ImageUndecodableError,
    InvalidParameterError,
    MethodUnsupportedError,
    ModelNotFoundError,
)
from pairlens_server.methods.affinity import Affinity
from pairlens_server.methods.attention import RawAttention
from pairlens_server.methods.cam import GradCam, ScoreCam
from pairlens_server.methods.correspondence import Correspondence
from pairlens_server.methods.parameters import Profile
from pairlens_server.methods.perturbation import IntegratedGradients, Occlusion
from pairlens_server.methods.relevance import LeGrad, TransformerAttribution
from pairlens_server.methods.rollout import Rollout
from pairlens_server.methods.similarity import PooledDecomposition
from pairlens_server.service.commands import (
    ClassTarget,
    ExplainCommand,
    PairCommand,
    SimilarityTarget,
    WarmCommand,
)
from pairlens_server.service.score_commands import EmbedCommand
from tests.service.conftest import CLS, CNN, HEADLESS, MEAN, png
from tests.service.watching import watch

FILES = (png(0), png(1), png(2))


async def warm(bench, model, *arguments, files=FILES, **options):
    return await bench.use_cases.warm(WarmCommand(model, files, *arguments, **options))


@pytest.mark.parametrize("model", [MEAN, CNN, CLS, HEADLESS])
async def test_by_default_pairs_and_embeddings_are_warm(bench, model):
    found = await warm(bench, model)
    assert found.results == (False,) * 3
    assert (found.timings.images, found.timings.cached_images) == (3, 0)
    with watch(*bench.models.values()) as seen:
        again = await warm(bench, model)
        await bench.use_cases.embed(EmbedCommand(model, FILES))
        if model in (MEAN, CNN):
            await bench.use_cases.pair(PairCommand(model, FILES[0], FILES[1:]))
    assert seen.pictures == 0
    assert again.results == (True,) * 3
    assert (again.timings.images, again.timings.cached_images) == (3, 3)
    assert again.timings.compute_s == again.timings.method_s == 0


REGION = Box(left=0, top=0, right=20, bottom=20)
METHODS = [
    (MEAN, (RawAttention(), Rollout(), GradCam("blocks.1"))),
    (CLS, (LeGrad(), TransformerAttribution(), Occlusion(), ScoreCam())),
    (CNN, (GradCam(), IntegratedGradients(steps=2))),
    (HEADLESS, (Rollout(1), RawAttention(block=1))),
]


@pytest.mark.parametrize(("model", "methods"), METHODS, ids=lambda v: v if v in (MEAN,) else "")
async def test_after_warm_explain_runs_no_pass(bench, model, methods):
    assert (await warm(bench, model, methods)).results == (False,) * 3
    with watch(*bench.models.values()) as seen:
        assert (await warm(bench, model, methods)).results == (True,) * 3
        for method in methods:
            for file in FILES:
                found = await bench.use_cases.explain(ExplainCommand(model, file, method))
                assert found.timings.cached_images == 1
                if found.target is not None:
                    named = ClassTarget(found.target.class_index)
                    await bench.use_cases.explain(ExplainCommand(model, file, method, named))
    assert seen.pictures == 0


@pytest.mark.parametrize(
    ("model", "method"),
    [
        (MEAN, PooledDecomposition()),
        (MEAN, PooledDecomposition(match_matrix=True)),
        (CNN, PooledDecomposition(Profile.PAPER)),
        (MEAN, Correspondence(query_region=REGION)),
        (CLS, Affinity()),
    ],
    ids=lambda v: getattr(v, "name", v),
)
async def test_after_warm_pairs_run_no_pass(bench, model, method):
    assert (await warm(bench, model, (), (method,))).results == (False,) * 3
    pair = PairCommand(model, FILES[0], FILES[1:], method)
    with watch(bench.models[model]) as seen:
        found = await bench.use_cases.pair(pair)
        if isinstance(method, PooledDecomposition):
            method = dataclasses.replace(method, match_matrix=False)
        if not isinstance(method, Correspondence):
            target = SimilarityTarget(FILES[1:])
            await bench.use_cases.explain(ExplainCommand(model, FILES[0], method, target))
    assert seen.pictures == 0
    assert found.timings.cached_images == 3


async def test_of_a_targeted_pair_method_what_needs_no_partner_is_warm(bench):
    await warm(bench, CLS, (), (Occlusion(), GradCam("blocks.1")))
    with watch(bench.models[CLS]) as seen:
        await bench.use_cases.embed(EmbedCommand(CLS, FILES))
        assert seen.pictures == 0
        await bench.use_cases.pair(PairCommand(CLS, FILES[0], FILES[1:2], Occlusion()))
    # Only the copies: embeddings were there.
    assert seen.pictures == 2 * (1 + 4 * 6)


async def test_a_picture_is_cached_only_if_all_of_it_is(bench):
    await warm(bench, CLS, (Rollout(),), files=FILES[:2])
    await warm(bench, CLS, (LeGrad(),), files=FILES[:1])
    both = await warm(bench, CLS, (Rollout(), LeGrad()))
    assert both.results == (True, False, False)
    assert (both.timings.images, both.timings.cached_images) == (3, 1)
    refreshed = await warm(bench, CLS, (Rollout(), LeGrad()), cache=CachePolicy.REFRESH)
    assert refreshed.results == (False,) * 3
    assert (await warm(bench, CLS, (Rollout(), LeGrad()))).results == (True,) * 3


async def test_a_bad_picture_fails_alone(bench):
    files = (FILES[0], b"", FILES[1][:200], FILES[1])
    found = await warm(bench, MEAN, (GradCam("blocks.1"),), files=files)
    assert (found.results[0], found.results[3]) == (False, False)
    for index in (1, 2):
        assert isinstance(found.results[index], ImageUndecodableError)
        assert found.results[index].field == f"images[{index}]"
    assert found.timings.images == 2
    assert (await warm(bench, MEAN, (GradCam("blocks.1"),), files=files)).results[0] is True


CORRESPONDENCE = Correspondence(query_region=REGION, candidate_region=REGION)


@pytest.mark.parametrize(
    ("command", "error", "field"),
    [
        (WarmCommand("no-such-model", FILES), ModelNotFoundError, "model"),
        (WarmCommand(CLS, ()), InvalidParameterError, "images"),
        (WarmCommand(CLS, FILES * 3), InvalidParameterError, "images"),
        (WarmCommand(CLS, FILES, cache=CachePolicy.BYPASS), InvalidParameterError, "cache"),
        (WarmCommand(CNN, FILES, (GradCam(), Rollout())), MethodUnsupportedError, "methods[1]"),
        (
            WarmCommand(CLS, FILES, (Rollout(), Occlusion(window=2))),
            InvalidParameterError,
            "methods[1].occlusion.window",
        ),
        (
            WarmCommand(CLS, FILES, (RawAttention(block=3),)),
            InvalidParameterError,
            "methods[0].raw_attention.block",
        ),
        # These explain nothing but a similarity, and Warm has no target.
        (WarmCommand(CLS, FILES, (Rollout(), Affinity())), InvalidParameterError, "methods[1]"),
        (WarmCommand(MEAN, FILES, (PooledDecomposition(),)), InvalidParameterError, "methods[0]"),
        (WarmCommand(HEADLESS, FILES, (GradCam(),)), InvalidParameterError, "methods[0]"),
        (
            WarmCommand(MEAN, FILES, (PooledDecomposition(match_matrix=True),)),
            InvalidParameterError,
            "methods[0].pooled_decomposition.match_matrix",
        ),
        (
            WarmCommand(CLS, FILES, (), (PooledDecomposition(),)),
            MethodUnsupportedError,
            "pair_methods[0]",
        ),
        (
            WarmCommand(MEAN, FILES, (), (Affinity(), CORRESPONDENCE)),
            InvalidParameterError,
            "pair_methods[1].correspondence",
        ),
        (
            WarmCommand(CNN, FILES, (), (GradCam("no.such.layer"),)),
            InvalidParameterError,
            "pair_methods[0].grad_cam.layer",
        ),
    ],
)
async def test_mistakes_are_told_with_their_field_before_any_pass(bench, command, error, field):
    with watch(*bench.models.values()) as seen, pytest.raises(error) as caught:
        await bench.use_cases.warm(command)
    assert caught.value.field == field
    assert seen.pictures == 0
