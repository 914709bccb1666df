"""Tiny networks of each family, and the fields that declare them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pairlens_server.errors import ConfigurationError
from pairlens_server.models.config import ModelConfig
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.models.loading import load_model

VIT_OPTIONS: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}
RESNET_OPTIONS: dict[str, Any] = {"channels": [8, 16, 16, 32]}
# Not narrower: the 32 groups of the norms divide the width, and a quarter of it in a bottleneck.
BIT_OPTIONS: dict[str, Any] = {"channels": [128, 128, 128, 128]}
FIELDS: dict[str, dict[str, Any]] = {
    "vit": {
        "architecture": "vit_tiny_patch16_224",
        "architecture_options": VIT_OPTIONS,
        "preprocessing": {"size": 32},
    },
    "deit": {
        "architecture": "deit_tiny_distilled_patch16_224",
        "architecture_options": VIT_OPTIONS,
        "preprocessing": {"size": 32},
    },
    "resnet": {
        "architecture": "resnet10t",
        "architecture_options": RESNET_OPTIONS,
        "preprocessing": {"size": 64},
    },
    "bit": {
        "architecture": "resnetv2_50x1_bit",
        "architecture_options": BIT_OPTIONS,
        "preprocessing": {"size": 64},
    },
}


def fields(kind: str, **changes: Any) -> dict[str, Any]:
    """Fields of a model of `kind` served as "m" on the CPU; `options` are merged in."""
    options = {**FIELDS[kind]["architecture_options"], **changes.pop("options", {})}
    return {
        "name": "m",
        "device": "cpu",
        **FIELDS[kind],
        "architecture_options": options,
        **changes,
    }


def config(kind: str, **changes: Any) -> ModelConfig:
    return ModelConfig(**fields(kind, **changes))


def randomise(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give every weight and statistic a value that a wrong mapping would show."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator) * 0.2
            value.copy_(noise.abs() + 0.5 if name.endswith("running_var") else noise)
    return network.eval()


def source(kind: str, classes: int = 5, **options: Any) -> nn.Module:
    """A network of `kind` with random weights, as a trainer would hold it."""
    arguments = {**FIELDS[kind]["architecture_options"], **options}
    if kind in ("vit", "deit"):
        arguments.setdefault("img_size", FIELDS[kind]["preprocessing"]["size"])
    return randomise(
        timm.create_model(FIELDS[kind]["architecture"], num_classes=classes, **arguments)
    )


def pictures(height: int, width: int | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(2, 3, height, width or height, generator=generator)


def random_model(kind: str, **changes: Any) -> LoadedModel:
    return load_model(config(kind, random_weights=True, seed=0, **changes))


def refusal(entry: ModelConfig) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_model(entry)
    message = str(caught.value)
    assert message.startswith("model 'm': ")
    return message


def features(model: LoadedModel, size: int) -> torch.Tensor:
    network: Any = model.network
    with torch.no_grad():
        return network.forward_head(network.forward_features(pictures(size)), pre_logits=True)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Networks this small are slower on several threads, much so beside other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, Any], Path]:
    """Write a checkpoint into the test's folder; the name decides on the format."""

    def write_file(name: str, content: Any) -> Path:
        path = tmp_path / name
        if name.endswith(".safetensors"):
            save_file({k: v.contiguous().clone() for k, v in content.items()}, path)
        else:
            torch.save(content, path)
        return path

    return write_file
