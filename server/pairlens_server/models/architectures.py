"""timm's networks: building one, its family, where its tokens lie, how it wants its pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from difflib import get_close_matches
from typing import Any

import timm
import torch
from timm.data.config import resolve_data_config
from timm.models import get_pretrained_cfg
from timm.models.deit import VisionTransformerDistilled
from timm.models.resnet import ResNet
from timm.models.resnetv2 import ResNetV2
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from pairlens_server.errors import ConfigurationError
from pairlens_server.models.config import PreprocessingConfig
from pairlens_server.models.loaded import Family, TokenLayout
from pairlens_server.models.preprocessing import Interpolation, Preprocessing, ResizeMode

# Exact classes: a subclass may run another forward pass than the recorders split.
_FAMILIES: dict[type[nn.Module], Family] = {
    VisionTransformer: Family.VIT,
    VisionTransformerDistilled: Family.VIT,
    ResNet: Family.RESNET,
    ResNetV2: Family.RESNETV2,
}
_CLASSIFIERS = {Family.VIT: "head", Family.RESNET: "fc", Family.RESNETV2: "head.fc"}
# timm's crop_mode; "border" pads what remains of the shorter side.
_RESIZE_MODES = {
    "center": ResizeMode.CROP,
    "squash": ResizeMode.STRETCH,
    "border": ResizeMode.PAD,
}


def _data_config(architecture: str) -> tuple[dict[str, Any], bool]:
    # timm.create_model would also take "hf-hub:..." and download; the configuration's pattern
    # for names and this check keep it to the architectures that are installed.
    if not timm.is_model(architecture):
        near = get_close_matches(architecture.split(".")[0], timm.list_models(), n=5)
        hint = f"; near: {', '.join(near)}" if near else ""
        raise ConfigurationError(f"timm has no architecture {architecture!r}{hint}")
    try:
        pretrained = get_pretrained_cfg(architecture)
    except RuntimeError as error:
        base = architecture.split(".")[0]
        tags = timm.list_pretrained(f"{base}.*")
        raise ConfigurationError(
            f"timm knows {base} but not as {architecture!r}; known: {', '.join(tags) or base}"
        ) from error
    fixed = bool(pretrained.fixed_input_size) if pretrained else False
    settings = asdict(pretrained) if pretrained else {}
    # timm asserts that some argument is not empty.
    resolve: Any = resolve_data_config
    return resolve(args={"crop_mode": None}, pretrained_cfg=settings), fixed


def resolve_preprocessing(architecture: str, config: PreprocessingConfig) -> Preprocessing:
    """Fill what the configuration leaves open with timm's settings for the architecture.

    Raises:
        ConfigurationError: timm has no such architecture, or its setting is none of ours.
    """
    timm_config, _ = _data_config(architecture)
    _, height, width = timm_config["input_size"]
    if config.size is not None:
        height, width = config.size
    try:
        interpolation = config.interpolation or Interpolation(timm_config["interpolation"])
        resize_mode = config.resize or _RESIZE_MODES[timm_config["crop_mode"]]
    except (ValueError, KeyError) as error:
        raise ConfigurationError(
            f"field preprocessing: timm's setting {error} for {architecture} is not among ours; "
            "set resize and interpolation"
        ) from error
    return Preprocessing(
        height=height,
        width=width,
        resize_mode=resize_mode,
        crop_fraction=float(config.crop_fraction or timm_config["crop_pct"]),
        interpolation=interpolation,
        mean=_triple(config.mean or timm_config["mean"]),
        std=_triple(config.std or timm_config["std"]),
    )


def _triple(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def build_network(
    architecture: str,
    options: Mapping[str, Any],
    preprocessing: Preprocessing,
    classes: int | None,
    pooling: str | None,
    state: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """Build an untrained network in eval mode, whose parameters need no gradient.

    Args:
        architecture: timm's name.
        options: Further arguments of `timm.create_model`.
        preprocessing: Gives the input size.
        classes: Outputs of the class head; None is the architecture's.
        pooling: timm's `global_pool`; None is the architecture's.
        state: The remapped checkpoint to come. A ViT's last norm is put before or after the
            pooling as the checkpoint has it (timm would go by the pooling), so that a class
            token model read by mean pooling keeps its normed tokens.

    Raises:
        ConfigurationError: timm refuses the arguments, or the network is of no family of ours.
    """
    _, fixed_size = _data_config(architecture)
    arguments = dict(options)
    if fixed_size:
        arguments["img_size"] = (preprocessing.height, preprocessing.width)
    if classes is not None:
        arguments["num_classes"] = classes
    if pooling is not None:
        arguments["global_pool"] = pooling
    network = _create(architecture, arguments)
    family = family_of(network)
    if family is Family.VIT and state is not None and "fc_norm" not in options:
        given, own = _last_norm(state), _last_norm(network.state_dict())
        if given and own and given != own:
            network = _create(architecture, {**arguments, "fc_norm": given == "fc_norm"})
    network.set_grad_checkpointing(False)
    frozen: nn.Module = network.eval().requires_grad_(False)
    return frozen


def _last_norm(state: Mapping[str, Tensor]) -> str | None:
    found = [name for name in ("norm", "fc_norm") if f"{name}.weight" in state]
    return found[0] if len(found) == 1 else None


def _create(architecture: str, arguments: dict[str, Any]) -> Any:
    try:
        return timm.create_model(architecture, pretrained=False, **arguments)
    # timm checks its arguments by assert, TypeError, ValueError, KeyError, as it comes.
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise ConfigurationError(f"timm cannot build {architecture}: {reason}") from error


def family_of(network: nn.Module) -> Family:
    """Return the network's family.

    Raises:
        ConfigurationError: It has none; the message names the class and what we take.
    """
    family = _FAMILIES.get(type(network))
    if family is None:
        taken = ", ".join(sorted(cls.__name__ for cls in _FAMILIES))
        raise ConfigurationError(
            f"timm's {type(network).__name__} is of no family that pairlens explains ({taken})"
        )
    return family


def classifier_name(network: nn.Module) -> str:
    """Return the name of the class head's linear layer."""
    return _CLASSIFIERS[family_of(network)]


def pooling_of(network: Any) -> str:
    """Return timm's `global_pool` of a network as text.

    Raises:
        ConfigurationError: It has none, so that it gives no embedding.
    """
    vit = family_of(network) is Family.VIT
    pooling = network.global_pool if vit else _pool(network).pool_type
    if not pooling:
        raise ConfigurationError("the architecture has no pooling; set pooling")
    return str(pooling)


def pooled_width(network: Any) -> int:
    """Return the length of the pooled features, which the class head reads."""
    if family_of(network) is Family.VIT:
        return int(network.num_features)
    # Not head_hidden_size, which leaves out catavgmax's two halves in older timm.
    return int(network.num_features * _pool(network).feat_mult())


def _pool(network: Any) -> Any:
    owner = network.head if family_of(network) is Family.RESNETV2 else network
    return owner.global_pool


def try_out(network: Any, preprocessing: Preprocessing, device: torch.device) -> Tensor:
    """Move a network to its device and run it once, so that what cannot run is told at once.

    Args:
        network: In eval mode and its dtype.
        preprocessing: Gives the input size.
        device: Where the network is to run.

    Returns:
        The last features: [1, tokens, width] of a ViT, [1, channels, rows, columns] of a CNN.

    Raises:
        ConfigurationError: It does not fit on the device or does not run at the input size.
    """
    height, width = preprocessing.height, preprocessing.width
    try:
        network.to(device)
        dtype = next(network.parameters()).dtype
        pixels = torch.zeros(1, 3, height, width, device=device, dtype=dtype)
        with torch.inference_mode():
            features: Tensor = network.forward_features(pixels)
            network.forward_head(features)
    # An architecture's options bring about AssertionError, RuntimeError and others.
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise ConfigurationError(f"cannot run at {height} x {width}: {reason}") from error
    return features


def token_layout(network: Any, preprocessing: Preprocessing, features: Tensor) -> TokenLayout:
    """Find the grid, the prefix and the tokens that the head reads.

    Args:
        network: In eval mode.
        preprocessing: Gives the input size.
        features: What `try_out` returned.
    """
    if family_of(network) is not Family.VIT:
        rows, columns = features.shape[-2:]
        return TokenLayout(rows, columns, 0, tuple(range(rows * columns)))
    rows, columns = network.patch_embed.grid_size
    prefix = int(network.num_prefix_tokens)
    tokens = prefix + rows * columns
    if isinstance(network, VisionTransformerDistilled):
        readout: tuple[int, ...] = (0, 1)
    elif network.global_pool == "token":
        readout = (0,)
    else:
        first = 0 if network.pool_include_prefix else prefix
        readout = tuple(range(first, tokens))
    patch_height, patch_width = network.patch_embed.patch_size
    return TokenLayout(
        int(rows),
        int(columns),
        prefix,
        readout,
        unseen_bottom=preprocessing.height - rows * patch_height,
        unseen_right=preprocessing.width - columns * patch_width,
    )


def blocks_and_heads(network: Any) -> tuple[int, int]:
    """Return the transformer blocks and the heads per block; zeros for a CNN."""
    if family_of(network) is not Family.VIT:
        return 0, 0
    first = next(iter(network.blocks))
    heads = next((m.num_heads for m in first.modules() if hasattr(m, "num_heads")), 0)
    return len(network.blocks), int(heads)
