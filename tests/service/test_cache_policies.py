"""What calls read, compute and keep under each policy, and that models never share a value."""

import dataclasses

import pytest

from pairlens_server.cache.keys import activation_key
from pairlens_server.cache.memory import MemoryTier
from pairlens_server.cache.packing import Precision
from pairlens_server.cache.policy import CachePolicy
from pairlens_server.cache.stats import CacheKind
from pairlens_server.cache.tiers import Cache
from pairlens_server.fidelity.erasures import Deletion
from pairlens_server.methods.affinity import Affinity
from pairlens_server.methods.attention import RawAttention
from pairlens_server.methods.cam import GradCam, ScoreCam
from pairlens_server.methods.perturbation import IntegratedGradients, Occlusion
from pairlens_server.methods.relevance import AttentionRelevance, LeGrad
from pairlens_server.methods.similarity import PooledDecomposition
from pairlens_server.recording.primitives import FeatureGradient, FeatureMap, Logits
from pairlens_server.recording.targets import ClassLogit
from pairlens_server.service.commands import (
    ClassTarget,
    ExplainCommand,
    PairCommand,
    SimilarityTarget,
)
from pairlens_server.service.score_commands import EmbedCommand, ScoreCommand
from tests.service.conftest import CLS, CNN, MEAN, png
from tests.service.watching import assert_same, digest, explain, watch

DEFAULT, BYPASS, REFRESH = CachePolicy.DEFAULT, CachePolicy.BYPASS, CachePolicy.REFRESH
OTHERS = (png(1), png(2))
CALLS = {
    "no target": ("explain", ExplainCommand(MEAN, png(0), RawAttention())),
    "predicted class": ("explain", ExplainCommand(CNN, png(0), GradCam())),
    "predicted class first": ("explain", ExplainCommand(CLS, png(0), LeGrad())),
    "class": ("explain", ExplainCommand(CLS, png(0), AttentionRelevance(), ClassTarget(3))),
    "similarity": (
        "explain",
        ExplainCommand(CLS, png(0), AttentionRelevance(), SimilarityTarget(OTHERS)),
    ),
    "probe of a class": ("explain", ExplainCommand(CLS, png(0), ScoreCam())),
    "probe of a similarity": (
        "explain",
        ExplainCommand(CLS, png(0), IntegratedGradients(steps=3), SimilarityTarget(OTHERS)),
    ),
    "pair": ("pair", PairCommand(MEAN, png(0), OTHERS, PooledDecomposition())),
    "targeted pair": ("pair", PairCommand(CNN, png(0), OTHERS, GradCam("layer4"))),
    "probed pair": ("pair", PairCommand(CLS, png(0), OTHERS, Occlusion())),
    "embed": ("embed", EmbedCommand(MEAN, (png(0), *OTHERS))),
    "score": ("score", ScoreCommand(CLS, png(0), (Deletion(),), method=LeGrad())),
}


async def ask(bench, call, policy=DEFAULT):
    """The answer of a call, and how many pictures the models saw for it.

    A score's copies do not count: they are seen whatever the cache holds.
    """
    name, command = CALLS[call]
    with watch(*bench.models.values()) as seen:
        answer = await getattr(bench.use_cases, name)(dataclasses.replace(command, cache=policy))
    copies = answer.forward_passes - 1 if name == "score" else 0
    return answer, seen.pictures - copies


def stored(bench):
    return bench.memory.stats()[CacheKind.ACTIVATION].stored


@pytest.mark.parametrize("call", CALLS)
async def test_default_computes_once_and_keeps_each_value_under_one_name(alone, call):
    cold, passes = await ask(alone, call)
    assert passes > 0
    assert cold.timings.cached_images == 0
    kept = alone.memory.stats()[CacheKind.ACTIVATION]
    # Nothing is written twice, and nothing but sizes besides.
    assert kept.stored == kept.entries > 0
    sizes = alone.memory.stats()[CacheKind.IMAGE]
    assert sizes.stored == sizes.entries == cold.timings.images
    warm, passes = await ask(alone, call)
    assert passes == 0
    assert warm.timings.cached_images == warm.timings.images > 0
    assert_same(warm, cold)
    assert alone.memory.stats()[CacheKind.ACTIVATION].stored == kept.stored
    assert alone.memory.stats()[CacheKind.IMAGE].stored == sizes.stored


@pytest.mark.parametrize("call", CALLS)
async def test_bypass_reads_nothing_and_keeps_nothing(alone, call):
    for _ in range(2):
        answer, passes = await ask(alone, call, BYPASS)
        assert passes > 0
        assert answer.timings.cached_images == 0
    assert len(alone.memory) == 0
    before = alone.memory.stats()
    assert before[CacheKind.ACTIVATION].misses == before[CacheKind.ACTIVATION].hits == 0
    kept, cold_passes = await ask(alone, call)
    before = alone.memory.stats()
    again, passes = await ask(alone, call, BYPASS)
    # Not fewer passes than with a cache that holds nothing.
    assert passes >= cold_passes
    assert alone.memory.stats() == before
    assert_same(again, kept)


@pytest.mark.parametrize("call", CALLS)
async def test_refresh_computes_everything_and_writes_it_over(alone, call):
    cold, cold_passes = await ask(alone, call)
    before = alone.memory.stats()
    again, passes = await ask(alone, call, REFRESH)
    assert passes >= cold_passes
    assert again.timings.cached_images == 0
    assert_same(again, cold)
    after = alone.memory.stats()
    for kind in CacheKind:
        assert after[kind].hits == before[kind].hits
        assert after[kind].misses == before[kind].misses
        assert after[kind].entries == before[kind].entries
        assert after[kind].stored >= 2 * before[kind].stored
    warm, passes = await ask(alone, call)
    assert passes == 0
    assert_same(warm, cold)


async def test_the_predicted_class_is_found_in_the_very_pass_and_kept_by_its_index(alone):
    model = alone.models[MEAN]
    with watch(model) as seen:
        found = await explain(alone, MEAN, GradCam("blocks.1"))
    assert seen.pictures == 1
    index = found.target.class_index
    sha256 = digest(png(0)).sha256

    def held(activation):
        return activation_key(model, activation, sha256, Precision.HALF) in alone.memory

    assert held(Logits())
    assert held(FeatureMap("blocks.1"))
    assert held(FeatureGradient("blocks.1", ClassLogit(index)))
    assert not held(FeatureGradient("blocks.1", ClassLogit()))
    assert len(alone.memory) == 3 + 1
    with watch(model) as seen:
        named = await explain(alone, MEAN, GradCam("blocks.1"), ClassTarget(index))
        label = await explain(alone, MEAN, GradCam("blocks.1"), ClassTarget())
        # Of another class, only the gradient is computed; it is kept beside.
        await explain(alone, MEAN, GradCam("blocks.1"), ClassTarget((index + 1) % 5))
    assert seen.pictures == 1
    assert_same(named, found)
    assert_same(label, found)
    assert len(alone.memory) == 4 + 1


async def test_what_is_cached_is_not_computed_along_with_what_is_not(bench):
    await explain(bench, MEAN, GradCam("blocks.1"))
    before = stored(bench)
    await explain(bench, MEAN, GradCam("blocks.1"), SimilarityTarget((png(1),)))
    # The two embeddings and the gradient, not the feature map.
    assert stored(bench) == before + 3


async def test_a_targeted_pair_looks_at_a_picture_no_oftener_than_it_must(alone):
    """Affinity needs nothing that depends on the partner: one pass a picture."""
    for method, passes in ((Affinity(), 3), (AttentionRelevance(), 3 + 4)):
        with watch(alone.models[CLS]) as seen:
            await alone.use_cases.pair(
                PairCommand(CLS, png(0), OTHERS, method, cache=CachePolicy.BYPASS)
            )
        assert seen.pictures == passes


async def test_a_lost_class_costs_a_pass_and_is_not_called_cached(alone):
    model, sha256 = alone.models[CLS], digest(png(0)).sha256
    cold = await explain(alone, CLS, LeGrad())
    alone.memory.clear(activation_key(model, Logits(), sha256, Precision.HALF))
    with watch(model) as seen:
        again = await explain(alone, CLS, LeGrad())
    assert seen.pictures == 1
    assert again.timings.cached_images == 0
    assert again.timings.compute_s > 0
    assert_same(again, cold)


async def test_what_a_call_has_met_stays_though_the_cache_drops_it(alone):
    """A cache of a single value: every value that is kept drops another one."""
    tiny = Cache(MemoryTier(4000), MemoryTier(0))
    use_cases = alone.over(tiny)
    for name, command in CALLS.values():
        expected = await getattr(alone.use_cases, name)(dataclasses.replace(command, cache=BYPASS))
        for _ in range(2):
            assert_same(await getattr(use_cases, name)(command), expected)
