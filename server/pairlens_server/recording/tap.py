"""Reading attention where the fused kernel is called, whatever module calls it.

A `TorchFunctionMode` sees every call of `scaled_dot_product_attention` on its own
thread with the queries and keys as the kernel gets them: q/k norm, rotary embeddings
and biases are in, for every timm module, without a line of code for each. Which layer
calls is known from hooks on the attention modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pairlens_server.recording.attention import (
    AttentionReading,
    DotProductReading,
    GatedReading,
)
from pairlens_server.recording.modes import HookedMode

OnAttention = Callable[[int, AttentionReading, Callable[[], Tensor]], Tensor]
"""Called with the layer's number, its reading, and what computes its output [B, heads, T,
head_dim] before the projection; what it returns goes on in the output's place."""


class AttentionTap(HookedMode):
    """Calls back at each of some attention layers while a pass runs.

    Args:
        layers: The attention modules, by number.
        wanted: Numbers of those that are read.
        on_attention: See `OnAttention`.
    """

    def __init__(
        self, layers: Sequence[nn.Module], wanted: Sequence[int], on_attention: OnAttention
    ):
        super().__init__()
        self._layers = layers
        self._wanted = wanted
        self._on_attention = on_attention
        self._inside: int | None = None

    def hooks(self) -> Iterator[RemovableHandle]:
        """See `HookedMode.hooks`."""
        for number in self._wanted:
            yield from self._hooks(number, self._layers[number])

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """See `TorchFunctionMode`."""
        if function is not F.scaled_dot_product_attention or self._inside is None:
            return function(*args, **(kwargs or {}))
        others = dict(kwargs or {})
        attend = partial(function, *args, **others)
        queries, keys, values = args[:3]
        scale = others.pop("scale", None) or queries.shape[-1] ** -0.5
        # A mask, dropout or causality, by place or by name.
        is_plain = not (any(map(_is_set, args[3:])) or any(map(_is_set, others.values())))
        reading = DotProductReading(queries, keys, values, float(scale), is_plain=is_plain)
        return self._on_attention(self._inside, reading, attend)

    def _hooks(self, number: int, layer: Any) -> list[Any]:
        if hasattr(layer, "get_attention") or not hasattr(layer, "fused_attn"):
            return self._unfused_hooks(number, layer)

        def enter(*_: object) -> None:
            self._inside = number

        def leave(*_: object) -> None:
            self._inside = None

        return [
            layer.register_forward_pre_hook(enter),
            layer.register_forward_hook(leave, always_call=True),
        ]

    def _unfused_hooks(self, number: int, layer: Any) -> list[Any]:
        readings: list[AttentionReading] = []

        def before(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            readings[:] = [_read_convit(layer, inputs[0])]

        def project(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            (merged,) = inputs  # [B, T, heads · head_dim]
            batch, tokens, width = merged.shape
            split = merged.view(batch, tokens, layer.num_heads, -1).transpose(1, 2)
            output = self._on_attention(number, readings.pop(), lambda: split)
            return (output.transpose(1, 2).reshape(batch, tokens, width),)

        return [
            layer.register_forward_pre_hook(before),
            layer.proj.register_forward_pre_hook(project),
        ]


def _is_set(argument: object) -> bool:
    return isinstance(argument, Tensor) or bool(argument)


def _read_convit(layer: Any, tokens: Tensor) -> AttentionReading:
    """ConViT's layers hold their attention in the open: read it again from their input."""
    batch, count, width = tokens.shape
    split = (batch, count, -1, layer.num_heads, width // layer.num_heads)
    inputs = tokens.detach()
    if hasattr(layer, "get_attention"):  # gated positional self-attention
        _, keys = layer.qk(inputs).view(split).permute(2, 0, 3, 1, 4)
        values = layer.v(inputs).view(split).permute(2, 0, 3, 1, 4)[0]
        return GatedReading(layer.get_attention(inputs), keys, values)
    queries, keys, values = layer.qkv(inputs).view(split).permute(2, 0, 3, 1, 4)
    return DotProductReading(queries, keys, values, float(layer.scale))
