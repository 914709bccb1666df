"""A projection before the pooling: the embedding pools what it gives, and still splits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pairlens_server.errors import ConfigurationError
from pairlens_server.models.loading import load_model
from pairlens_server.recording.primitives import Embedding, PooledParts
from pairlens_server.recording.recorder import Recorder
from tests.models.conftest import config
from tests.support import pixels, resnet, vit


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_the_embedding_pools_projected_cells_and_is_the_sum_of_its_parts(pooling):
    model = replace(resnet(pooling=pooling), projection_first=True)
    images = pixels(model, 2)
    recorder = Recorder(model)
    found = recorder.record(images, {Embedding(): [0, 1], PooledParts(): [0, 1]})
    cells = model.projection(model.network.forward_features(images).flatten(2).mT)
    expected = cells.mean(dim=1) if pooling == "avg" else cells.amax(dim=1)
    torch.testing.assert_close(found[Embedding()], expected, atol=1e-5, rtol=1e-5)
    summed = found[PooledParts()].sum(dim=1) + recorder.facts.embedding_constant
    torch.testing.assert_close(summed, expected, atol=1e-5, rtol=1e-5)


def test_the_order_matters_under_max_pooling_and_not_under_mean_pooling():
    for pooling, differs in (("avg", False), ("max", True)):
        after = resnet(pooling=pooling)
        images = pixels(after, 1)
        before = Recorder(replace(after, projection_first=True))
        one = Recorder(after).record(images, {Embedding(): [0]})[Embedding()]
        other = before.record(images, {Embedding(): [0]})[Embedding()]
        assert bool((one - other).abs().max() > 1e-3) is differs


def test_a_vit_projects_tokens():
    model = replace(vit(pooling="avg", fc_norm=False), projection_first=True)
    images = pixels(model, 1)
    found = Recorder(model).record(images, {Embedding(): [0]})[Embedding()]
    expected = model.projection(model.network.forward_features(images)).mean(dim=1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_it_is_declared_in_the_models_file_and_part_of_the_fingerprint():
    plain, first = (
        load_model(
            config(
                "resnet",
                random_weights=True,
                seed=0,
                pooling="max",
                projection={"size": 3, "before_pooling": before},
            )
        )
        for before in (False, True)
    )
    assert (plain.projection_first, first.projection_first) == (False, True)
    assert plain.fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("kind", "pooling", "reason"),
    [("vit", "token", "needs pooling avg or max, not token"), ("vit", "avg", "a norm after")],
)
def test_where_it_makes_no_sense_it_is_refused(kind, pooling, reason):
    declared = config(
        kind,
        random_weights=True,
        seed=0,
        pooling=pooling,
        projection={"size": 3, "before_pooling": True},
    )
    with pytest.raises(ConfigurationError, match=f"projection.before_pooling.*{reason}"):
        load_model(declared)
