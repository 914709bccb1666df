"""Models, checkpoints and preprocessings never share a value; each can be cleared alone."""

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from pairlens_server.cache import packing
from pairlens_server.cache.keys import activation_key, picture_key
from pairlens_server.cache.memory import MemoryTier
from pairlens_server.cache.packing import Precision
from pairlens_server.cache.stats import CacheKind
from pairlens_server.cache.tiers import Cache
from pairlens_server.errors import InvalidParameterError, ModelNotFoundError
from pairlens_server.methods.affinity import Affinity
from pairlens_server.methods.attention import RawAttention
from pairlens_server.models.config import ModelConfig
from pairlens_server.models.loading import load_model
from pairlens_server.recording.primitives import Embedding
from pairlens_server.service.commands import (
    PairCommand,
    SimilarityTarget,
)
from pairlens_server.service.score_commands import EmbedCommand
from tests.service.conftest import CLS, CNN, MEAN, Bench, png
from tests.service.watching import assert_same, digest, explain, watch


async def test_clearing_a_model_leaves_the_other_ones(bench):
    for name in (MEAN, CLS):
        await explain(bench, name, RawAttention())
    await bench.use_cases.upload([(png(0), None)])
    cleared = await bench.use_cases.clear_cache(MEAN, frozenset())
    assert (cleared.memory_entries, cleared.redis_entries, cleared.redis_cleared) == (1, 0, True)
    with watch(*bench.models.values()) as seen:
        await explain(bench, CLS, RawAttention())
        assert seen.pictures == 0
        await explain(bench, MEAN, RawAttention())
        assert seen.pictures == 1
    assert (await bench.use_cases.find_missing([digest(png(0))])) == []
    for kinds, error, field in [
        ({CacheKind.IMAGE}, InvalidParameterError, "kinds"),
        ({CacheKind.IMAGE, CacheKind.ACTIVATION}, InvalidParameterError, "kinds"),
    ]:
        with pytest.raises(error) as caught:
            await bench.use_cases.clear_cache(MEAN, frozenset(kinds))
        assert caught.value.field == field
    with pytest.raises(ModelNotFoundError):
        await bench.use_cases.clear_cache("no-such-model", frozenset())
    await bench.use_cases.clear_cache("", frozenset({CacheKind.IMAGE}))
    assert picture_key(digest(png(0)).sha256) not in bench.memory
    assert (await bench.use_cases.find_missing([digest(png(0))])) == [digest(png(0))]
    assert len(bench.memory) == 2
    await bench.use_cases.clear_cache("", frozenset())
    assert len(bench.memory) == 0
    stats = await bench.use_cases.cache_stats()
    assert stats.memory[CacheKind.ACTIVATION].entries == 0


ARCHITECTURE = "vit_tiny_patch16_224"
OPTIONS = {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 8}


@pytest.fixture(scope="module")
def alike(tmp_path_factory):
    """Models that differ in one thing each: weights, one weight, preprocessing, what is pooled."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for seed in (0, 1, 2):
        torch.manual_seed(min(seed, 1))
        network = timm.create_model(ARCHITECTURE, img_size=(32, 48), num_classes=5, **OPTIONS)
        if seed == 2:
            network.blocks[0].mlp.fc1.weight.data[0, 0] += 0.25
        save_file(network.state_dict(), str(folder / f"{seed}.safetensors"))

    def load(name, seed, **changes):
        preprocessing = {"size": (32, 48), "resize": "stretch"} | changes
        return load_model(
            ModelConfig(
                name=name,
                architecture=ARCHITECTURE,
                architecture_options=OPTIONS,
                checkpoint=folder / f"{seed}.safetensors",
                preprocessing=preprocessing,
                device="cpu",
            )
        )

    return load


async def test_models_checkpoints_and_preprocessings_share_nothing(alike):
    models = [
        alike("plain", 0),
        alike("another-seed", 1),
        alike("one-weight", 2),
        alike("other-mean", 0, mean=(0.4, 0.4, 0.4)),
        alike("other-resize", 0, resize="crop"),
    ]
    bench = Bench(*models)
    await bench.start()
    try:
        keys, embeddings = set(), []
        for model in models:
            with watch(model) as seen:
                found = await bench.use_cases.embed(EmbedCommand(model.name, (png(0),)))
                assert seen.pictures == 1
                embeddings.append(found.results[0])
                await explain(bench, model.name, Affinity(), SimilarityTarget((png(1),)))
            keys.add(activation_key(model, Embedding(), "a" * 64, Precision.HALF))
        assert len(keys) == len({m.fingerprint for m in models}) == len(models)
        for index, one in enumerate(embeddings):
            for other in embeddings[index + 1 :]:
                assert not np.array_equal(one, other)
        with watch(*models) as seen:
            for model, embedding in zip(models, embeddings, strict=True):
                again = await bench.use_cases.embed(EmbedCommand(model.name, (png(0),)))
                assert again.timings.cached_images == 1
                np.testing.assert_array_equal(again.results[0], embedding)
        assert seen.pictures == 0
    finally:
        await bench.stop()


async def test_the_same_checkpoint_under_two_names_is_computed_once(alike):
    twins = [alike("one", 0), alike("two", 0)]
    bench = Bench(*twins)
    await bench.start()
    try:
        first = await bench.use_cases.embed(EmbedCommand("one", (png(0),)))
        with watch(*twins) as seen:
            second = await bench.use_cases.embed(EmbedCommand("two", (png(0),)))
        assert seen.pictures == 0
        np.testing.assert_array_equal(first.results[0], second.results[0])
    finally:
        await bench.stop()


async def test_replicas_of_different_precision_do_not_read_each_other(bench, monkeypatch):
    monkeypatch.setattr(packing, "SMALL", 0)
    memory = MemoryTier(10_000_000)
    half = bench.over(Cache(memory, MemoryTier(0), precision=Precision.HALF))
    full = bench.over(Cache(memory, MemoryTier(0), precision=Precision.FLOAT32))
    command = PairCommand(CNN, png(0), (png(1),))
    rounded = await half.pair(command)
    exact = await full.pair(command)
    assert exact.timings.cached_images == 0
    maps = [answer.results[0].query.heatmap for answer in (rounded, exact)]
    assert not np.array_equal(*maps)
    assert_same(await half.pair(command), rounded)
    assert_same(await full.pair(command), exact)
