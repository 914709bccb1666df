"""Small random models and facts that several test folders share."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch import nn

from pairlens_server.methods.base import ExplanationMethod, Findings
from pairlens_server.models.config import ModelConfig
from pairlens_server.models.loaded import Family, LoadedModel, TokenLayout
from pairlens_server.models.loading import load_model
from pairlens_server.models.preprocessing import Interpolation, Preprocessing, ResizeMode
from pairlens_server.recording.activations import Activation, evaluate, primitives
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.recorder import Recorder
from pairlens_server.recording.targets import ScoreTarget
from tests.zoo import zoo

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def preprocessing(height: int, width: int) -> Preprocessing:
    return Preprocessing(
        height=height,
        width=width,
        resize_mode=ResizeMode.STRETCH,
        crop_fraction=1.0,
        interpolation=Interpolation.BILINEAR,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


def facts(
    rows: int,
    columns: int,
    *,
    prefix: int = 0,
    readout: tuple[int, ...] | None = None,
    constant: torch.Tensor | None = None,
    blocks: int = 2,
    heads: int = 2,
    classes: int = 3,
    **changes: Any,
) -> ModelFacts:
    """Facts of a made-up model; all patches are read out and pooled unless told otherwise."""
    patches = tuple(range(prefix, prefix + rows * columns))
    fixed = torch.zeros(2) if constant is None else constant
    return ModelFacts(
        layout=TokenLayout(rows, columns, prefix, readout or patches),
        blocks=blocks,
        heads=heads,
        classes=classes,
        embedding_size=len(fixed),
        embedding_constant=fixed,
        **{"pooled": patches, **changes},
    )


def zoo_model(name: str, dtype: str = "float32", pooling: str | None = None) -> LoadedModel:
    """A model of the zoo, loaded as the server does, the same at every call; never change it.

    Args:
        name: Of the entry.
        dtype: What it computes in.
        pooling: Other than the entry's.
    """
    return _loaded_from_zoo(name, dtype, pooling)


def zoo_recorder(name: str, dtype: str = "float32", pooling: str | None = None) -> Recorder:
    """The recorder of `zoo_model`, the same at every call."""
    return _recorder_of(zoo_model(name, dtype, pooling))


@cache
def _loaded_from_zoo(name: str, dtype: str, pooling: str | None) -> LoadedModel:
    entry = zoo()[name]
    if pooling is not None:
        entry = replace(entry, pooling=pooling)
    with TemporaryDirectory() as folder:
        path = str(Path(folder) / "weights.safetensors")
        save_file(entry.state(), path)
        return load_model(ModelConfig(**entry.fields(path), dtype=dtype))


@cache
def _recorder_of(model: LoadedModel) -> Recorder:
    return Recorder(model)


def recorded(
    recorder: Recorder, images: torch.Tensor, *activations: Activation
) -> dict[Activation, torch.Tensor]:
    """Primitive activations of every picture."""
    return recorder.record(images, {a: list(range(len(images))) for a in activations})


def explained(
    recorder: Recorder,
    images: torch.Tensor,
    method: ExplanationMethod,
    target: ScoreTarget | None = None,
) -> list[Findings]:
    """What a method that needs no probe finds in each picture, as the service runs it."""
    model = recorder.facts
    method = method.resolve(model)
    needed = method.needs(model, target)
    found = recorded(recorder, images, *primitives(needed, model))
    values = {a: evaluate(a, found, model).cpu() for a in needed}
    return [
        method.explain({a: value[i] for a, value in values.items()}, model, target)
        for i in range(len(images))
    ]


def _wild(network: nn.Module, seed: int) -> None:
    """Make every parameter count: timm starts some at zero or so small that all maps are flat."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        scale = 0.3 if parameter.ndim == 1 else 1.5 / max(1, parameter[0].numel()) ** 0.5
        offset = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
        parameter.data.copy_(offset + scale * noise)


def vit(
    *,
    pooling: str = "avg",
    size: tuple[int, int] = (32, 48),
    projection: int | None = 6,
    classes: int = 5,
    architecture: str = "vit_tiny_patch16_224",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **options: object,
) -> LoadedModel:
    """A random ViT of two heads, width 16 and three blocks, with 8-pixel patches."""
    settings: dict[str, object] = {"depth": 3, "embed_dim": 16, "num_heads": 2, "patch_size": 8}
    settings |= options
    if pooling != "token" and "class_token" not in settings and "distilled" not in architecture:
        settings["class_token"] = False
    network = timm.create_model(
        architecture, img_size=size, global_pool=pooling, num_classes=classes, **settings
    )
    torch.manual_seed(seed)
    linear = None if projection is None else nn.Linear(network.num_features, projection)
    _wild(network, seed)
    rows, columns = network.patch_embed.grid_size
    prefix = network.num_prefix_tokens
    patches = tuple(range(prefix, prefix + rows * columns))
    readout = patches
    if pooling == "token":
        readout = (0, 1) if "distilled" in architecture else (0,)
    elif network.pool_include_prefix:
        readout = tuple(range(prefix + rows * columns))
    return _loaded(
        network,
        linear,
        architecture,
        Family.VIT,
        pooling,
        size,
        TokenLayout(rows, columns, prefix, readout),
        blocks=len(network.blocks),
        heads=network.blocks[0].attn.num_heads if hasattr(network.blocks[0], "attn") else 0,
        dtype=dtype,
    )


def resnet(
    *,
    pooling: str = "avg",
    size: tuple[int, int] = (64, 96),
    projection: int | None = 6,
    classes: int = 5,
    architecture: str = "resnet10t",
    seed: int = 0,
    **options: object,
) -> LoadedModel:
    """A random small ResNet or ResNetV2."""
    network = timm.create_model(architecture, global_pool=pooling, num_classes=classes, **options)
    torch.manual_seed(seed)
    linear = None if projection is None else nn.Linear(network.num_features, projection)
    _wild(network, seed)
    network.eval()
    with torch.no_grad():
        rows, columns = network.forward_features(torch.zeros(1, 3, *size)).shape[2:]
    family = Family.RESNETV2 if "resnetv2" in architecture else Family.RESNET
    return _loaded(
        network,
        linear,
        architecture,
        family,
        pooling,
        size,
        TokenLayout(rows, columns, 0, tuple(range(rows * columns))),
        blocks=0,
        heads=0,
    )


def _loaded(
    network: nn.Module,
    projection: nn.Linear | None,
    architecture: str,
    family: Family,
    pooling: str,
    size: tuple[int, int],
    layout: TokenLayout,
    *,
    blocks: int,
    heads: int,
    dtype: torch.dtype = torch.float32,
) -> LoadedModel:
    network.eval().requires_grad_(False).to(dtype)
    if projection is not None:
        projection.requires_grad_(False).to(dtype)
    features = network.num_features
    return LoadedModel(
        name=f"{architecture}-{pooling}",
        architecture=architecture,
        family=family,
        network=network,
        projection=projection,
        pooling=pooling,
        preprocessing=preprocessing(*size),
        layout=layout,
        embedding_size=features if projection is None else projection.out_features,
        blocks=blocks,
        heads=heads,
        classes=network.num_classes,
        fingerprint=f"{architecture}-{pooling}-{id(network)}",
        device=torch.device("cpu"),
        dtype=dtype,
    )


def pixels(model: LoadedModel, count: int = 2, seed: int = 1) -> torch.Tensor:
    """Random input of a model: [count, 3, H, W]."""
    size = (model.preprocessing.height, model.preprocessing.width)
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(seed))
