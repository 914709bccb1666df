"""The ways in which trainers name the weights of one network, brought to timm's names.

Renames and drops only; no weight changes but positions of another grid.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from typing import Any

from timm.layers import resample_abs_pos_embed, resize_rel_pos_bias_table
from timm.models.convit import ConVit
from torch import Tensor

_logger = logging.getLogger(__name__)

State = dict[str, Tensor]

# What DataParallel, torch.compile and wrapping modules put before every name.
_WRAPPERS = ("module.", "_orig_mod.", "model.", "backbone.", "encoder.")
_PROJECTION = "projection."
# The projection heads of DINO and iBOT; iBOT has a second set for patches.
_DINO_HEAD = re.compile(r"(module\.)?head\.(mlp|last_layer|last_norm)2?\.")
# MoCo v3 puts an MLP in the place of the linear head.
_MOCO_HEAD = re.compile(r"(head|fc)\.\d+\.")
# Stand-ins for masked patches, only used in training.
_MASK_TOKENS = ("masked_embed", "mask_token")
_MOCO_ENCODERS = ("base_encoder.", "momentum_encoder.")
_HEADS = ("head.fc", "head", "fc")
# What stands under a head's name and is none: the norm and the hidden layer before it.
_BEFORE_HEADS = ("head.norm.", "head.pre_logits.")
# Tables that older checkpoints keep and networks make for themselves.
_DERIVED = re.compile(r"(.*\.)?(relative_position_index|relative_coords_table|attn_mask|rope\..+)")
_BIAS_TABLE = ".relative_position_bias_table"
SEPARATE_HEADS = ("linear", "fc", "head.fc", "head", "classifier")
_TORCHVISION_VIT = (
    (re.compile(r"^class_token$"), "cls_token"),
    (re.compile(r"^conv_proj\."), "patch_embed.proj."),
    (re.compile(r"^encoder\.pos_embedding$"), "pos_embed"),
    (re.compile(r"^encoder\.ln\."), "norm."),
    (re.compile(r"^heads\.head\."), "head."),
    (re.compile(r"^encoder\.layers\.encoder_layer_(\d+)\."), r"blocks.\1."),
    (re.compile(r"(?<=\.)ln_([12])\."), r"norm\1."),
    (re.compile(r"\.self_attention\.in_proj_"), ".attn.qkv."),
    (re.compile(r"\.self_attention\.out_proj\."), ".attn.proj."),
    (re.compile(r"\.mlp\.(0|linear_1)\."), ".mlp.fc1."),
    (re.compile(r"\.mlp\.(3|linear_2)\."), ".mlp.fc2."),
)


def remap(state: Mapping[str, Tensor]) -> tuple[State, str]:
    """Bring a checkpoint's names to timm's and drop what only training used.

    Args:
        state: Tensors under the checkpoint's names.

    Returns:
        The tensors under timm's names (`projection.*` kept), and the name of the layout:
        "moco-v3", "dino", "ibot", "torchvision-vit", "deit-distilled" or "timm". A
        torchvision ResNet, a plain DeiT and a bare DINO backbone have timm's names.
    """
    unwrapped = _unwrap(dict(state))
    if any(name.startswith(_MOCO_ENCODERS) for name in unwrapped):
        return _moco(unwrapped), "moco-v3"
    heads = [name for name in unwrapped if _DINO_HEAD.match(name)]
    if heads:
        # The wrapper of DINO has `backbone.` before all names but the head's.
        backbone = _unwrap({k: v for k, v in unwrapped.items() if k not in heads})
        ibot = any(".mlp2." in name or ".last_layer2." in name for name in heads)
        return _without_mask_token(backbone), "ibot" if ibot else "dino"
    if "conv_proj.weight" in unwrapped and "class_token" in unwrapped:
        return {_torchvision_name(name): v for name, v in unwrapped.items()}, "torchvision-vit"
    if "dist_token" in unwrapped:
        return unwrapped, "deit-distilled"
    return _without_mask_token(unwrapped), "timm"


def _unwrap(state: State) -> State:
    while True:
        names = [name for name in state if not name.startswith(_PROJECTION)]
        prefix = next((p for p in _WRAPPERS if all(n.startswith(p) for n in names)), None)
        if prefix is None or not names:
            return state
        state = {name.removeprefix(prefix): value for name, value in state.items()}


def _moco(state: State) -> State:
    encoder = next(p for p in _MOCO_ENCODERS if any(name.startswith(p) for name in state))
    inner = {k.removeprefix(encoder): v for k, v in state.items() if k.startswith(encoder)}
    return {name: value for name, value in inner.items() if not _MOCO_HEAD.match(name)}


def _without_mask_token(state: State) -> State:
    return {name: value for name, value in state.items() if name not in _MASK_TOKENS}


def _torchvision_name(name: str) -> str:
    for pattern, replacement in _TORCHVISION_VIT:
        name = pattern.sub(replacement, name)
    return name


def split_projection(state: State) -> tuple[State, State]:
    """Return the network's tensors, and the projection's without their prefix."""
    projection = {
        name.removeprefix(_PROJECTION): value
        for name, value in state.items()
        if name.startswith(_PROJECTION)
    }
    return {k: v for k, v in state.items() if not k.startswith(_PROJECTION)}, projection


def head_classes(state: Mapping[str, Tensor]) -> int:
    """Return the outputs of the class head in a remapped checkpoint, 0 without one."""
    for head in _HEADS:
        if f"{head}.weight" in state:
            return state[f"{head}.weight"].shape[0]
    return 0


def without_head(state: State) -> State:
    """Return a remapped checkpoint less its class head, the distilled one included."""
    heads = tuple(f"{head}." for head in (*_HEADS, "head_dist"))
    return {
        name: value
        for name, value in state.items()
        if not name.startswith(heads) or name.startswith(_BEFORE_HEADS)
    }


def linear_layer(state: Mapping[str, Tensor], names: tuple[str, ...]) -> State:
    """Return `weight` [out, in] and, where there is one, `bias` of a file with one linear layer.

    Args:
        state: Tensors under the file's names.
        names: Names that the layer may have; none at all is also taken.

    Raises:
        ValueError: There is no such layer, or more than it.
    """
    for wrapper in ("module.", "_orig_mod."):
        if all(name.startswith(wrapper) for name in state):
            state = {name.removeprefix(wrapper): value for name, value in state.items()}
    for prefix in (*(f"{name}." for name in names), ""):
        layer = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        complete = len(layer) == len(state) and layer.keys() in ({"weight"}, {"weight", "bias"})
        if complete and layer["weight"].ndim >= 2:
            return {**layer, "weight": layer["weight"].flatten(1)}
    raise ValueError(
        f"expected one linear layer ({'|'.join(names)}.weight and .bias), "
        f"found {', '.join(sorted(state)[:10])}"
    )


def without_derived(state: State, network: Any) -> State:
    """Return a remapped checkpoint less the tables that its network makes for itself.

    Indices and masks of Swin's windows and rotary embeddings follow from the input size; a
    network that learns its rotation has it as a parameter, and that is kept.
    """
    own = network.state_dict()
    return {k: v for k, v in state.items() if k in own or not _DERIVED.fullmatch(k)}


def fit_positions(state: State, network: Any) -> State:
    """Resample what a checkpoint knows of places to the network's grid, if it has another size.

    Position embeddings bicubically with antialiasing, as timm does; prefix tokens keep theirs.
    The checkpoint's grid is taken to be square, since a checkpoint does not tell (PiT's does).
    With as many tokens as the network has, the embedding stays as it is. The relative position
    biases of a Swin whose windows are cut to a smaller grid as timm resamples them.

    Args:
        state: Remapped tensors; `pos_embed` is [1, tokens, width], PiT's [1, width, rows,
            columns].
        network: The timm network to load them into.

    Returns:
        The state, with what needed it replaced.
    """
    state = {name: _fit_bias_table(name, value, network) for name, value in state.items()}
    own, given = getattr(network, "pos_embed", None), state.get("pos_embed")
    if not isinstance(own, Tensor) or given is None or given.ndim != own.ndim:
        return state
    if own.ndim == 4:
        return {**state, "pos_embed": _resampled_map(given, own)}
    if given.shape[1] == own.shape[1]:
        return state
    prefix = _positioned_prefix(network)
    side = math.isqrt(max(given.shape[1] - prefix, 0))
    if side == 0 or side * side != given.shape[1] - prefix:
        return state  # no square grid: the strict load reports the two shapes
    grid = network.patch_embed.grid_size
    return {**state, "pos_embed": _resampled(given, (side, side), grid, prefix)}


def _positioned_prefix(network: Any) -> int:
    # ConViT adds its class token long after the positions.
    if getattr(network, "no_embed_class", isinstance(network, ConVit)):
        return 0
    return int(network.num_prefix_tokens)


def _resampled_map(given: Tensor, own: Tensor) -> Tensor:
    old, new = given.shape[2:], own.shape[2:]
    if given.shape[1] != own.shape[1] or old == new:
        return given
    tokens = _resampled(given.flatten(2).mT, (old[0], old[1]), (new[0], new[1]), 0)
    return tokens.mT.reshape(own.shape)


def _resampled(given: Tensor, old: tuple[int, int], new: tuple[int, int], prefix: int) -> Tensor:
    _logger.info("position embedding resampled from %dx%d to %dx%d", *old, *new)
    resampled: Tensor = resample_abs_pos_embed(
        given, new_size=list(new), old_size=list(old), num_prefix_tokens=prefix
    )
    return resampled


def _fit_bias_table(name: str, given: Tensor, network: Any) -> Tensor:
    if not name.endswith(_BIAS_TABLE):
        return given
    try:
        attention = network.get_submodule(name.removesuffix(_BIAS_TABLE))
    except AttributeError:
        return given  # unexpected, which the strict load reports
    own = attention.relative_position_bias_table
    if own.shape == given.shape or own.shape[1:] != given.shape[1:]:
        return given
    try:
        resized: Tensor = resize_rel_pos_bias_table(
            given, new_window_size=attention.window_size, new_bias_shape=own.shape
        )
    except ValueError:
        return given  # of windows that are no squares: the strict load reports the two shapes
    return resized
