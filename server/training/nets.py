"""The two demo networks: a timm backbone with a class head, and a linear projection for retrieval.

Both describe a picture by the mean of its tokens. Class logits and the retrieval embedding are
linear in that mean, so either can be read at every location of the grid, which is what the maps
of pairlens do.
"""

from __future__ import annotations

from pathlib import Path

import timm
import timm.data
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

CLASSES = 200
EMBEDDING = 128  # dimensions
INPUT_SIZE = 128  # pixels, both sides

ARCHITECTURES: dict[str, tuple[str, dict]] = {
    "demo-resnet": ("resnet10t", {"output_stride": 16}),
    "demo-vit": (
        "vit_tiny_patch16_224",
        {
            "patch_size": 8,
            "img_size": INPUT_SIZE,
            "embed_dim": 256,
            "depth": 6,
            "num_heads": 4,
            "class_token": False,
            "global_pool": "avg",
            "fc_norm": False,
        },
    ),
}


class DemoNet(nn.Module):
    """A timm classifier and a projection of its pooled features."""

    def __init__(self, name: str, **overrides: object) -> None:
        """Build `name` of ARCHITECTURES; `overrides` go to timm (`img_size`, `patch_drop_rate`)."""
        super().__init__()
        architecture, kwargs = ARCHITECTURES[name]
        self.name = name
        self.backbone = timm.create_model(
            architecture, pretrained=False, num_classes=CLASSES, **{**kwargs, **overrides}
        )
        self.projection = nn.Linear(self.backbone.num_features, EMBEDDING)

    @property
    def is_vit(self) -> bool:
        """Whether the backbone is a vision transformer (else it is a ResNet)."""
        return hasattr(self.backbone, "pos_embed")

    def tokens(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Return the features before pooling [B, N, C], N the grid row by row, of [B, 3, H, W].

        With `keep` [B, K], a ViT sees those K patches alone and returns [B, K, C].
        """
        if keep is not None:
            vit = self.backbone
            tokens = vit.norm_pre(vit._pos_embed(vit.patch_embed(images)))
            return vit.norm(vit.blocks(gather_tokens(tokens, keep)))
        features = self.backbone.forward_features(images)
        return features if self.is_vit else features.flatten(2).transpose(1, 2)

    def read(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Return class logits [..., 200] and embedding [..., 128] (no unit norm) of [..., C]."""
        return self.backbone.get_classifier()(pooled), self.projection(pooled)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return tokens [B, N, C], class logits [B, 200] and embedding [B, 128]."""
        tokens = self.tokens(images)
        logits, embedding = self.read(tokens.mean(1))
        return tokens, logits, embedding

    def export_state(self) -> dict[str, Tensor]:
        """Return timm's keys plus `projection.weight` and `projection.bias`."""
        state = dict(self.backbone.state_dict())
        state.update({f"projection.{k}": v for k, v in self.projection.state_dict().items()})
        return state

    def load_exported(self, state: dict[str, Tensor]) -> None:
        """Load strictly what `export_state` made, in any precision."""
        state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
        head = {k: state.pop(f"projection.{k}") for k in ("weight", "bias")}
        self.backbone.load_state_dict(state, strict=True)
        self.projection.load_state_dict(head, strict=True)


def gather_tokens(tokens: Tensor, keep: Tensor) -> Tensor:
    """Return the tokens [B, K, C] at the places `keep` [B, K] of [B, N, C]."""
    return tokens.gather(1, keep.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def random_keep(count: int, total: int, drop: float, gen: torch.Generator) -> Tensor | None:
    """Return places [count, K] that leave a share `drop` of `total` out, or None to keep all."""
    if not drop:
        return None
    kept = round(total * (1 - drop))
    return torch.rand((count, total), generator=gen).argsort(1)[:, :kept]


def resize_positions(
    state: dict[str, Tensor], side: int, key: str = "pos_embed"
) -> dict[str, Tensor]:
    """Return `state` with its positions [1, N, C] resampled to a grid of side x side patches."""
    positions = state[key]
    old = int(positions.shape[1] ** 0.5)
    if old == side:
        return state
    grid = positions.float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, (side, side), mode="bicubic", antialias=True)
    return {**state, key: grid.permute(0, 2, 3, 1).reshape(1, side * side, -1)}


def sub_state(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the entries under `prefix`, without it."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def load_trained(path: Path, name: str, size: int = INPUT_SIZE) -> DemoNet:
    """Return the network in a checkpoint of any training step, in eval mode.

    A ViT's positions are resampled to views of `size` pixels.
    """
    saved = torch.load(path, weights_only=True)
    state = saved.get("average", saved["net"])  # distill.py's running checkpoint has both
    state = sub_state(state, "student.") or sub_state(state, "net.") or state
    net = DemoNet(name, **({"img_size": size} if name == "demo-vit" else {}))
    if net.is_vit:
        side = size // net.backbone.patch_embed.patch_size[0]
        state = resize_positions(state, side, key="backbone.pos_embed")
    net.load_state_dict(state)
    return net.eval()


def save_half(net: DemoNet, path: Path, metadata: dict[str, str]) -> None:
    """Write `net` as a half-precision safetensors file; integer buffers stay integer."""
    state = {
        key: (value.half() if value.is_floating_point() else value).contiguous().clone()
        for key, value in net.export_state().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, str(path), metadata={"architecture": net.name, **metadata})
    path.chmod(0o644)


def load_half(path: Path) -> DemoNet:
    """Load a shipped file strictly into the network that its metadata names, in eval mode."""
    with safe_open(str(path), framework="pt") as file:
        name = (file.metadata() or {})["architecture"]
    net = DemoNet(name)
    net.load_exported(load_file(str(path)))
    return net.eval()


def normalise(pixels: Tensor) -> Tensor:
    """Return [B, 3, H, W] in 0..1 shifted and scaled by the ImageNet mean and deviation."""
    mean = torch.tensor(timm.data.IMAGENET_DEFAULT_MEAN).view(3, 1, 1)
    std = torch.tensor(timm.data.IMAGENET_DEFAULT_STD).view(3, 1, 1)
    return (pixels - mean) / std
