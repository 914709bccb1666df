"""timm's networks: how they want their pictures, building one, running it once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from difflib import get_close_matches
from typing import Any

import timm
import torch
from timm.data.config import resolve_data_config
from timm.models import get_pretrained_cfg
from torch import Tensor, nn

from pairlens_server.errors import ConfigurationError
from pairlens_server.models.config import PreprocessingConfig
from pairlens_server.models.families import (
    family_of,
    forward_features,
    forward_head,
    pooled_width,
    pooling_of,
)
from pairlens_server.models.grids import check_grid
from pairlens_server.models.loaded import Family
from pairlens_server.models.preprocessing import Interpolation, Preprocessing, ResizeMode

# The argument that puts the last norm after the pooling (True) or before it.
_NORM_ARGUMENTS = {Family.VIT: "fc_norm", Family.EVA: "use_fc_norm"}
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
        state: The remapped checkpoint to come. The last norm of a ViT or an Eva is put before
            or after the pooling as the checkpoint has it (timm would go by the pooling), so
            that a class token model read by mean pooling keeps its normed tokens.

    Raises:
        ConfigurationError: timm refuses the arguments, the network is of no family of ours, or
            it does not have the pooling or would misread the input size.
    """
    _, fixed_size = _data_config(architecture)
    arguments = dict(options)
    if fixed_size:
        arguments["img_size"] = (preprocessing.height, preprocessing.width)
    if classes is not None:
        arguments["num_classes"] = classes
    if pooling is not None:
        arguments["global_pool"] = pooling
    network = _create_pooled(architecture, arguments)
    argument = _NORM_ARGUMENTS.get(family_of(network))
    if argument is not None and state is not None and argument not in options:
        given, own = _last_norm(state), _last_norm(network.state_dict())
        if given and own and given != own:
            network = _create(architecture, {**arguments, argument: given == "fc_norm"})
    check_grid(network, preprocessing.height, preprocessing.width)
    network.set_grad_checkpointing(False)
    frozen: nn.Module = network.eval().requires_grad_(False)
    return frozen


def _create_pooled(architecture: str, arguments: dict[str, Any]) -> Any:
    try:
        return _create(architecture, arguments)
    except ConfigurationError as error:
        others = {name: value for name, value in arguments.items() if name != "global_pool"}
        if len(others) == len(arguments):
            raise
        _create(architecture, others)  # raises what is wrong beside the pooling
        raise ConfigurationError(f"field pooling: {error}") from error


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


def try_out(network: Any, preprocessing: Preprocessing, device: torch.device) -> Tensor:
    """Move a network to its device and run it once, so that what cannot run is told at once.

    Args:
        network: In eval mode and its dtype.
        preprocessing: Gives the input size.
        device: Where the network is to run.

    Returns:
        The last features, as `families.forward_features` gives them.

    Raises:
        ConfigurationError: It does not fit on the device, does not run at the input size or
            does not pool.
    """
    height, width = preprocessing.height, preprocessing.width
    try:
        network.to(device)
        dtype = next(network.parameters()).dtype
        pixels = torch.zeros(1, 3, height, width, device=device, dtype=dtype)
        # Not inference_mode: ConViT keeps positions that it makes on the way, and an inference
        # tensor could not take part in a later backward pass.
        with torch.no_grad():
            features = forward_features(network, pixels)
            pooled = forward_head(network, features, pre_logits=True)
            forward_head(network, features)
    # An architecture's options bring about AssertionError, RuntimeError and others.
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise ConfigurationError(f"cannot run at {height} x {width}: {reason}") from error
    # Older timm takes poolings that the class does not have, and leaves the tokens as they are.
    if pooled.shape[1] != pooled_width(network):
        raise ConfigurationError(
            f"field pooling: {type(network).__name__} has no pooling {pooling_of(network)!r}"
        )
    return features
