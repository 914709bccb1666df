"""Tiny random models of every family and variant, and a models file that serves them.

    path = zoo.write(folder)              # checkpoints and models.yaml, all entries
    path = zoo.write(folder, ["pit"])     # some
    network = zoo.zoo()["pit"].network()  # the same weights, as timm computes with them

Every parameter is random and large enough to matter: timm starts some at zero or so small that
every map would be flat.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from pairlens_server.models.loaded import Family

_VIT = {"embed_dim": 16, "depth": 3, "num_heads": 2, "patch_size": 8}
_EVA = {"embed_dim": 32, "depth": 3, "num_heads": 2, "patch_size": 8}
_TWINS = {"embed_dims": [16, 32], "num_heads": [2, 4], "mlp_ratios": [2, 2], "depths": [2, 2]}
_COAT = {"serial_depths": [1, 1, 1, 1], "mlp_ratios": [2, 2, 2, 2]}
_PIT = {"base_dims": [8, 8], "depth": [2, 2], "heads": [2, 4]}


@dataclass(frozen=True)
class Entry:
    """One model of the zoo.

    Attributes:
        name: Name under which it is served.
        family: Its family.
        architecture, options: timm's name, and arguments that make it tiny.
        size: Input height and width in pixels.
        pooling: As the models file has it; None is the architecture's own.
        classes: Outputs of the class head, 0 for none.
        projection: Length of the embedding, or None for no projection.
        grid: Rows and columns of the last features, counted by hand.
        prefix: Tokens before them.
        seed: Of its weights.
    """

    name: str
    family: Family
    architecture: str
    options: dict[str, Any]
    size: tuple[int, int]
    grid: tuple[int, int]
    prefix: int = 0
    pooling: str | None = None
    classes: int = 5
    projection: int | None = None
    takes_size: bool = True
    seed: int = field(default=0, compare=False)

    def network(self) -> Any:
        """Build it as timm does, with its random weights, in eval mode."""
        arguments = dict(self.options)
        if self.takes_size:
            arguments["img_size"] = self.size
        if self.pooling is not None:
            arguments["global_pool"] = self.pooling
        network = timm.create_model(self.architecture, num_classes=self.classes, **arguments)
        return wild(network, self.seed).eval().requires_grad_(False)

    def projection_layer(self, width: int) -> nn.Linear | None:
        """Build the projection from pooled features of `width`, or None."""
        if self.projection is None:
            return None
        layer = nn.Linear(width, self.projection)
        wild(layer, self.seed + 1)
        return layer.requires_grad_(False)

    def state(self) -> dict[str, Tensor]:
        """Tensors of its checkpoint, the projection's included."""
        network = self.network()
        state = network.state_dict()
        with torch.no_grad():
            features = network(torch.zeros(1, 3, *self.size))
            if self.classes:
                network.reset_classifier(0)
                features = network(torch.zeros(1, 3, *self.size))
        layer = self.projection_layer(features.shape[-1])
        if layer is not None:
            state |= {f"projection.{key}": value for key, value in layer.state_dict().items()}
        return {key: value.contiguous().clone() for key, value in state.items()}

    def fields(self, checkpoint: str, device: str = "cpu") -> dict[str, Any]:
        """Its entry in a models file, or arguments of `ModelConfig`."""
        fields: dict[str, Any] = {
            "name": self.name,
            "architecture": self.architecture,
            "architecture_options": self.options,
            "checkpoint": checkpoint,
            "classes": self.classes,
            "device": device,
            # A picture of the input's size is then the input, so that places are easy to tell.
            "preprocessing": {"size": list(self.size), "resize": "stretch"},
        }
        if self.pooling is not None:
            fields["pooling"] = self.pooling
        if self.projection is not None:
            fields["projection"] = {"size": self.projection}
        return fields


def _entries() -> Iterable[Entry]:
    yield from _vits()
    yield from _evas()
    yield from _of_several_grids()
    yield from _others()


def _vits() -> Iterable[Entry]:
    def vit(name: str, architecture: str, prefix: int = 1, **settings: Any) -> Entry:
        options = {**_VIT, **settings.pop("options", {})}
        size, grid = settings.pop("size", (32, 48)), (4, 6)
        return Entry(name, Family.VIT, architecture, options, size, grid, prefix, **settings)

    plain = "vit_tiny_patch16_224"
    yield vit("vit", plain)
    yield vit("vit-avg", plain, pooling="avg", options={"fc_norm": False}, projection=6)
    yield vit("vit-avg-fcnorm", plain, pooling="avg", options={"fc_norm": True})
    yield vit("vit-max", plain, 0, pooling="max", options={"class_token": False})
    yield vit("vit-registers", plain, 5, options={"reg_tokens": 4})
    yield vit("deit", "deit_tiny_patch16_224")
    yield vit("deit-distilled", "deit_tiny_distilled_patch16_224", 2)
    yield vit("deit3", "deit3_small_patch16_224")
    yield vit("clip", "vit_base_patch32_clip_224", projection=6)
    yield vit("clip-quickgelu", "vit_base_patch32_clip_quickgelu_224", classes=0, projection=6)
    yield vit("siglip", "vit_base_patch16_siglip_224", 0)
    yield vit("dino", "vit_small_patch16_224.dino", classes=0)
    dinov2 = {"options": {"patch_size": 7}, "size": (28, 42), "classes": 0}
    yield vit("dinov2", "vit_small_patch14_dinov2", **dinov2)
    yield vit("dinov2-registers", "vit_small_patch14_reg4_dinov2", 5, **dinov2)


def _evas() -> Iterable[Entry]:
    def eva(name: str, architecture: str, prefix: int = 1, **settings: Any) -> Entry:
        return Entry(name, Family.EVA, architecture, _EVA, (32, 48), (4, 6), prefix, **settings)

    yield eva("eva", "eva_giant_patch14_224")
    yield eva("eva02", "eva02_base_patch14_448")  # SwiGLU of three layers, q, k, v apart
    yield eva("eva02-token", "eva02_tiny_patch14_224", pooling="token")  # SwiGLU of two layers
    yield eva("dinov3", "vit_small_patch16_dinov3", 5, classes=0)
    yield eva("dinov3-token", "vit_small_patch16_dinov3_qkvb", 5, pooling="token", projection=6)


def _of_several_grids() -> Iterable[Entry]:
    small, large = (32, 48), (64, 96)
    swin = {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
    yield Entry("swin", Family.SWIN, "swin_tiny_patch4_window7_224", swin, small, (4, 6))
    yield Entry("swinv2", Family.SWIN, "swinv2_tiny_window8_256", swin, small, (4, 6))
    yield Entry("pit", Family.PIT, "pit_ti_224", _PIT, large, (4, 6), 1)
    yield Entry("pit-distilled", Family.PIT, "pit_ti_distilled_224", _PIT, large, (4, 6), 2)
    pcpvt, svt = {**_TWINS, "sr_ratios": [2, 1]}, {**_TWINS, "sr_ratios": [2, 1], "wss": [2, 2]}
    yield Entry("twins-pcpvt", Family.TWINS, "twins_pcpvt_small", pcpvt, small, (4, 6))
    yield Entry("twins-svt", Family.TWINS, "twins_svt_small", svt, small, (4, 6))
    parallel = {**_COAT, "embed_dims": [16, 16, 16, 16], "parallel_depth": 1}
    yield Entry("coat", Family.COAT, "coat_tiny", parallel, large, (2, 3), 1)
    lite = {**_COAT, "embed_dims": [16, 16, 32, 32]}
    yield Entry("coat-lite", Family.COAT, "coat_lite_tiny", lite, large, (2, 3), 1)


def _others() -> Iterable[Entry]:
    # ConViT multiplies its width by the heads, and takes only square grids.
    convit = {
        **{"embed_dim": 8, "num_heads": 4, "patch_size": 8},
        **{"depth": 3, "local_up_to_layer": 1},
    }
    yield Entry("convit", Family.CONVIT, "convit_tiny", convit, (32, 32), (4, 4), 1)
    xcit = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    yield Entry("xcit", Family.XCIT, "xcit_nano_12_p16_224", xcit, (64, 96), (4, 6), 1)
    convnext = {"dims": [8, 16, 16, 32], "depths": [1, 1, 1, 1]}
    large, cells = (64, 96), (2, 3)
    cnn: dict[str, Any] = {"takes_size": False}
    yield Entry("convnext", Family.CONVNEXT, "convnext_atto", convnext, large, cells, **cnn)
    yield Entry("convnextv2", Family.CONVNEXT, "convnextv2_atto", convnext, large, cells, **cnn)
    resnet = {"channels": [8, 16, 16, 32]}
    yield Entry("resnet", Family.RESNET, "resnet10t", resnet, large, cells, **cnn)
    yield Entry(
        "resnet-max", Family.RESNET, "resnet10t", resnet, large, cells, pooling="max", **cnn
    )
    # Not narrower: the 32 groups of the norms divide the width, and a quarter of it.
    bit = {"channels": [128, 128, 128, 128]}
    yield Entry(
        "resnetv2", Family.RESNETV2, "resnetv2_50x1_bit", bit, large, cells, projection=6, **cnn
    )


def zoo() -> dict[str, Entry]:
    """All entries by name, the same weights at every call."""
    return {entry.name: entry for entry in _entries()}


def write(folder: Path, names: Iterable[str] | None = None, device: str = "cpu") -> Path:
    """Write checkpoints and a models file.

    Args:
        folder: An existing folder.
        names: Entries to write; None is all.
        device: As the models file has it.

    Returns:
        Path of the models file.
    """
    entries = zoo()
    models = []
    for name in entries if names is None else names:
        entry = entries[name]
        save_file(entry.state(), folder / f"{name}.safetensors")
        models.append(entry.fields(f"{name}.safetensors", device))
    path = folder / "models.yaml"
    path.write_text(yaml.safe_dump({"models": models}, sort_keys=False), encoding="utf-8")
    return path


def wild(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter and running statistic a random value that matters; in place."""
    generator = torch.Generator().manual_seed(seed)

    def noise(value: Tensor) -> Tensor:
        return torch.randn(value.shape, generator=generator)

    for name, parameter in network.named_parameters():
        scale = 0.3 if parameter.ndim == 1 else 1.5 / max(1, parameter[0].numel()) ** 0.5
        offset = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
        parameter.data.copy_(offset + scale * noise(parameter))
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(0.3 * noise(buffer))
        elif name.endswith("running_var"):
            buffer.copy_(0.5 + noise(buffer).abs())
    return network
