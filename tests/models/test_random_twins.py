"""Random twins: the same network with random weights, served right after its model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pairlens_server.demo.pairs import MODELS_FILE
from pairlens_server.models.config import load_model_configs
from pairlens_server.models.loading import load_model
from pairlens_server.models.random_twins import load_models
from pairlens_server.models.registry import ModelRegistry
from pairlens_server.recording.recorder import Recorder
from pairlens_server.rpc.model_info import model_info

from .conftest import config, pictures, source

Write = Callable[[str, Any], Path]


def shapes(network: nn.Module | None) -> dict[str, torch.Size]:
    return {} if network is None else {k: v.shape for k, v in network.state_dict().items()}


def test_the_demo_serves_twins_after_their_models() -> None:
    models = load_models(load_model_configs(MODELS_FILE))
    names = ["demo-vit", "demo-vit-random", "demo-resnet", "demo-resnet-random"]
    assert [model.name for model in models] == names
    assert [model.random_twin for model in models] == [names[1], "", names[3], ""]
    assert ModelRegistry(models).names() == tuple(names)
    for model, twin in (models[:2], models[2:]):
        same = ("architecture", "family", "pooling", "preprocessing", "layout", "embedding_size")
        same += ("blocks", "heads", "classes", "labels", "device", "dtype", "projection_first")
        for field in same:
            assert getattr(twin, field) == getattr(model, field), field
        assert len(twin.labels) == twin.classes > 0
        assert shapes(twin.network) == shapes(model.network)
        assert shapes(twin.projection) == shapes(model.projection) != {}
        assert twin.fingerprint != model.fingerprint


def test_callers_are_told_the_name() -> None:
    entry = config("resnet", random_weights=True, seed=1, classes=3, random_twin=True)
    model, twin = load_models([entry])
    assert model_info(model, Recorder(model).facts).random_twin == "m-random"
    assert model_info(twin, Recorder(twin).facts).random_twin == ""


@pytest.mark.parametrize("classes", [None, 0, 5])
@pytest.mark.parametrize("kind", ["vit", "resnet", "bit"])
def test_classes_are_those_of_the_checkpoint(write: Write, kind: str, classes: int | None) -> None:
    path = write("w.pth", source(kind).state_dict())
    entry = config(kind, checkpoint=path, classes=classes, random_twin=True)
    model, twin = load_models([entry])
    assert twin.classes == model.classes == (0 if classes == 0 else 5)
    weights, others = model.network.state_dict(), twin.network.state_dict()
    assert shapes(model.network) == shapes(twin.network)
    same = [name for name in weights if torch.equal(weights[name], others[name])]
    assert all("num_batches_tracked" in name for name in same)


def test_every_file_of_the_entry_but_the_labels_is_left_out(write: Write, tmp_path: Path) -> None:
    """The weights are those of a declared random model: seed 0, with the twin's projection."""
    state = source("resnet", classes=0).state_dict()
    head = nn.Linear(32, 4)
    labels = tmp_path / "labels.txt"
    labels.write_text("a\nb\nc\nd\n")
    fields: dict[str, Any] = {"labels": labels, "dtype": "bfloat16", "pooling": "avg"}
    entry = config(
        "resnet",
        checkpoint=write("w.pth", {"model_ema": state}),
        checkpoint_key="model_ema",
        head_checkpoint=write("h.pth", {"weight": head.weight, "bias": head.bias}),
        projection={"size": 6, "checkpoint": write("p.pth", nn.Linear(32, 6).state_dict())},
        random_twin=True,
        **fields,
    )
    _, twin = load_models([entry])
    fields |= {"classes": 4, "projection": {"size": 6}}
    declared = load_model(config("resnet", random_weights=True, seed=0, **fields))
    assert twin.fingerprint == declared.fingerprint
    assert twin.labels == ("a", "b", "c", "d")
    assert twin.dtype is torch.bfloat16


@pytest.mark.parametrize("fc_norm", [False, True])
def test_the_last_norm_is_where_the_checkpoint_has_it(write: Write, fc_norm: bool) -> None:
    """By the pooling alone timm would put it after the pooling, and pair maps need not."""
    network = source("vit", global_pool="avg", fc_norm=fc_norm)
    entry = config(
        "vit", checkpoint=write("w.pth", network.state_dict()), pooling="avg", random_twin=True
    )
    model, twin = load_models([entry])
    for loaded in (model, twin):
        assert isinstance(loaded.network.fc_norm, nn.Identity) is not fc_norm
    with torch.no_grad():
        assert not torch.allclose(model.network(pictures(32)), twin.network(pictures(32)))


def test_models_without_a_twin_are_as_before() -> None:
    entry = config("vit", random_weights=True, seed=3, classes=2)
    (model,) = load_models([entry])
    assert model.random_twin == ""
    assert model.fingerprint == load_model(entry).fingerprint
