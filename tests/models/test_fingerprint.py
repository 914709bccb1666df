"""One hash for all that decides on the numbers, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from pairlens_server.models.fingerprint import fingerprint
from pairlens_server.models.loading import load_model
from pairlens_server.models.preprocessing import Interpolation, Preprocessing, ResizeMode

from .conftest import config

PREPROCESSING = Preprocessing(
    height=32,
    width=32,
    resize_mode=ResizeMode.STRETCH,
    crop_fraction=0.9,
    interpolation=Interpolation.BICUBIC,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def base() -> dict[str, Any]:
    return {
        "network": network(),
        "projection": None,
        "architecture": "resnet50",
        "options": {"b": 1, "a": [2]},
        "preprocessing": PREPROCESSING,
        "dtype": torch.float32,
        "pooling": "avg",
    }


def test_same_model_same_hash() -> None:
    digest = fingerprint(**base())
    assert digest == fingerprint(**base() | {"options": {"a": [2], "b": 1}})
    assert len(digest) == 32
    int(digest, 16)


@pytest.mark.parametrize(
    "change",
    [
        {"projection": nn.Linear(4, 2)},
        {"architecture": "resnet101"},
        {"options": {"a": [2], "b": 2}},
        {"preprocessing": replace(PREPROCESSING, crop_fraction=0.91)},
        {"preprocessing": replace(PREPROCESSING, resize_mode=ResizeMode.PAD)},
        {"dtype": torch.bfloat16},
        {"pooling": "max"},
        {"network": network().to(torch.bfloat16)},
        {"network": network().half()},
    ],
)
def test_every_setting_counts(change: dict[str, Any]) -> None:
    assert fingerprint(**base() | change) != fingerprint(**base())


@pytest.mark.parametrize("name", list(network().state_dict()))
def test_every_weight_counts(name: str) -> None:
    changed = network()
    value = changed.state_dict()[name].view(-1)
    value[-1] = value[-1] + 1
    assert fingerprint(**base() | {"network": changed}) != fingerprint(**base())


def test_memory_layout_does_not_count() -> None:
    strided = network()
    weight = strided[0].weight  # type: ignore[index]
    weight.data = weight.data.T.contiguous().T
    assert not weight.is_contiguous()
    assert fingerprint(**base() | {"network": strided}) == fingerprint(**base())


def test_name_and_device_do_not_count() -> None:
    entry = config("vit", random_weights=True, seed=3, classes=2)
    digest = load_model(entry).fingerprint
    assert load_model(entry.model_copy(update={"name": "other"})).fingerprint == digest
    assert load_model(entry.model_copy(update={"seed": 4})).fingerprint != digest
    if torch.cuda.is_available():
        assert load_model(entry.model_copy(update={"device": "cuda"})).fingerprint == digest


def test_the_same_in_another_process() -> None:
    code = (
        "import torch; from torch import nn\n"
        "from pairlens_server.models.fingerprint import fingerprint\n"
        "from pairlens_server.models.preprocessing import *\n"
        f"p = {PREPROCESSING!r}\n"
        "n = nn.Linear(2, 2); nn.init.ones_(n.weight); nn.init.zeros_(n.bias)\n"
        "print(fingerprint(n, None, 'a', {'x': None}, p, torch.float32, 'avg'))"
    )
    for enum in (ResizeMode.STRETCH, Interpolation.BICUBIC):
        code = code.replace(repr(enum), f"{type(enum).__name__}({enum.value!r})")
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    layer = nn.Linear(2, 2)
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    own = fingerprint(layer, None, "a", {"x": None}, PREPROCESSING, torch.float32, "avg")
    assert output.strip() == own
