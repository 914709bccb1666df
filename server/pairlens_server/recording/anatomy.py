"""Where each family of timm networks keeps what the recorder takes: the one place that knows.

Everything else in `recording` works on these names and functions, whatever the family.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from timm.layers import Attention, AttentionRope
from timm.models.eva import EvaAttention
from torch import nn

from pairlens_server.models.families import norm_after_pooling
from pairlens_server.models.loaded import Family, LoadedModel


@dataclass(frozen=True)
class Anatomy:
    """Names of modules and reasons of one network.

    Attributes:
        attention: Attention module of each block whose attention can be read.
        blocks: The blocks that they belong to.
        cam_layer: Module of class activation maps by default.
        pooled_norm: LayerNorm between pooling and head, or None.
        channels_last: Whether outputs of four dimensions are [B, rows, columns, channels].
        hidden: Second linear layer of every MLP, which reads the hidden units.
        first_readout_block: First of the blocks in which the readout takes part.
        no_readout, no_matrix, no_parts, no_layer_scores: Reasons, or "".
    """

    attention: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    cam_layer: str = ""
    pooled_norm: nn.LayerNorm | None = None
    channels_last: bool = False
    first_readout_block: int = 0
    no_readout: str = ""
    no_matrix: str = ""
    no_parts: str = ""
    no_layer_scores: str = ""
    hidden: tuple[str, ...] = ()


_Describe = Callable[[Any, LoadedModel], Anatomy]

_CLASS_TOKEN_PARTS = (
    "the embedding is the class token, which is no sum over patches; affinity explains it, and "
    "so does attention_relevance where there is attention between tokens"
)
_PLAIN = (Attention, AttentionRope, EvaAttention)
_LINEAR = (nn.Identity, nn.Dropout, type(None))
_NO_TOKEN_PAIRS = "attention between all tokens is needed, and "


def anatomy_of(model: LoadedModel) -> Anatomy:
    """Look a model's network over."""
    described = _FAMILIES[model.family](model.network, model)
    parts = described.no_parts or _parts_refusal(model)
    hidden = tuple(
        name
        for name, module in model.network.named_modules()
        if name.endswith(".mlp.fc2") and isinstance(module, (nn.Linear, nn.Conv2d))
    )
    return replace(described, no_parts=parts, hidden=hidden)


def _parts_refusal(model: LoadedModel) -> str:
    if getattr(model.network, "aggregate", None) is not None:
        return "its head mixes pooled tokens of several grids"
    if not isinstance(getattr(getattr(model.network, "head", None), "pre_logits", None), _LINEAR):
        return "a hidden layer between pooling and head has no exact split over places"
    if model.pooling == "token":
        return _CLASS_TOKEN_PARTS
    if model.pooling not in ("avg", "max"):
        return f"{model.pooling or 'no'} pooling has no decomposition; use avg or max"
    return ""


def _norm_after_pooling(network: nn.Module) -> tuple[nn.LayerNorm | None, str]:
    """The norm that splits exactly, or why it does not."""
    norm = norm_after_pooling(network)
    if norm is None or isinstance(norm, nn.LayerNorm):
        return norm, ""
    return None, f"the {type(norm).__name__} after pooling has no exact split over tokens"


def _cam_layer(network: Any, *names: str) -> str:
    """The first of some names that the network has, or ""."""
    modules = dict(network.named_modules())
    return next((name for name in names if name in modules), "")


def _plain(network: Any, model: LoadedModel) -> Anatomy:
    """ViT, DeiT, EVA: one stack of blocks over all tokens."""
    count = len(network.blocks)
    blocks = _stack("blocks", count)
    unreadable = next(filter(None, map(_unreadable, network.blocks)), "")
    reason = unreadable
    if not reason and model.pooling not in ("token", "avg"):
        reason = f"under {model.pooling or 'no'} pooling no token's attention is the readout's"
    norm, no_parts = _norm_after_pooling(network)
    return Anatomy(
        attention=() if unreadable else _attention(blocks),
        blocks=blocks,
        cam_layer=_cam_layer(network, f"blocks.{count - 1}.norm1"),
        pooled_norm=norm,
        no_readout=reason,
        no_matrix=unreadable,
        no_parts=no_parts,
        no_layer_scores=unreadable,
    )


def _unreadable(block: Any) -> str:
    # Exact about attention, too: a DiffAttention calls the kernel twice and subtracts.
    attention = getattr(block, "attn", None)
    if isinstance(attention, _PLAIN):
        return ""
    kind = type(block if attention is None else attention).__name__
    return f"blocks of type {kind} have no plain self-attention to read"


def _convit(network: Any, model: LoadedModel) -> Anatomy:
    blocks = _stack("blocks", len(network.blocks))
    token = model.pooling == "token"
    return Anatomy(
        blocks=blocks,
        attention=_attention(blocks),
        cam_layer=f"blocks.{len(network.blocks) - 1}.norm1",
        # The class token joins the patches there.
        first_readout_block=int(network.local_up_to_layer) if token else 0,
        no_layer_scores="LeGrad reads every block by the class token, which joins late here",
    )


def _stack(name: str, count: int) -> tuple[str, ...]:
    return tuple(f"{name}.{i}" for i in range(count))


def _attention(blocks: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{block}.attn" for block in blocks)


def _pit(network: Any, model: LoadedModel) -> Anatomy:
    stage = len(network.transformers) - 1
    stack = f"transformers.{stage}.blocks"
    count = len(network.transformers[stage].blocks)
    blocks = _stack(stack, count)
    return Anatomy(
        blocks=blocks,
        attention=_attention(blocks),
        cam_layer=f"{stack}.{count - 1}.norm1",
        no_layer_scores="pooling between its stages changes the tokens",
    )


def _xcit(network: Any, model: LoadedModel) -> Anatomy:
    count = len(network.cls_attn_blocks)
    blocks = _stack("cls_attn_blocks", count)
    token = model.pooling == "token"
    reason = "" if token else "its blocks attend over channels, and its readout is no class token"
    return Anatomy(
        blocks=blocks,
        attention=_attention(blocks),
        cam_layer=f"cls_attn_blocks.{count - 1}.norm1",
        no_readout=reason,
        no_matrix=_NO_TOKEN_PAIRS + "XCiT's blocks attend over channels",
        no_layer_scores="XCiT's blocks attend over channels",
    )


def _hierarchical(reason: str, *cam_layers: str, channels_last: bool = False) -> _Describe:
    """A family without attention between all tokens."""

    def describe(network: Any, model: LoadedModel) -> Anatomy:
        norm, no_parts = _norm_after_pooling(network)
        return Anatomy(
            cam_layer=_cam_layer(network, *(name.format(**_last(network)) for name in cam_layers)),
            pooled_norm=norm,
            channels_last=channels_last,
            no_readout=reason,
            no_matrix=reason,
            no_parts=no_parts,
            no_layer_scores=reason,
        )

    return describe


def _last(network: Any) -> dict[str, int]:
    """Numbers that the default layers' names hold."""
    serial = getattr(network, "serial_blocks4", ())
    parallel = getattr(network, "parallel_blocks", None) or ()
    stages = getattr(network, "stages", ())
    return {"serial": len(serial) - 1, "parallel": len(parallel) - 1, "stage": len(stages) - 1}


def _resnet(network: Any, model: LoadedModel) -> Anatomy:
    reason = "a ResNet has no attention"
    return Anatomy(
        cam_layer=f"layer4.{len(network.layer4) - 1}",
        no_readout=reason,
        no_matrix=reason,
        no_layer_scores=reason,
    )


_FAMILIES: Mapping[Family, _Describe] = {
    Family.VIT: _plain,
    Family.EVA: _plain,
    Family.CONVIT: _convit,
    Family.PIT: _pit,
    Family.XCIT: _xcit,
    Family.SWIN: _hierarchical(
        "Swin attends inside windows, not between all tokens", "norm", channels_last=True
    ),
    Family.TWINS: _hierarchical(
        "Twins attends inside windows and to subsampled keys, not between all tokens", "norm"
    ),
    Family.COAT: _hierarchical(
        "CoaT's attention is factorised and holds no matrix between tokens",
        "parallel_blocks.{parallel}.norm14",
        "serial_blocks4.{serial}.norm1",
    ),
    Family.CONVNEXT: _hierarchical("a ConvNeXt has no attention", "stages.{stage}"),
    Family.RESNETV2: _hierarchical("a ResNet has no attention", "norm"),
    Family.RESNET: _resnet,
}
