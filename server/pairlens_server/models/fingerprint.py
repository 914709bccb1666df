"""One hash for everything that decides what a model computes; part of every cache key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from pairlens_server.models.preprocessing import Preprocessing


def fingerprint(
    network: nn.Module,
    projection: nn.Linear | None,
    architecture: str,
    options: Mapping[str, Any],
    preprocessing: Preprocessing,
    dtype: torch.dtype,
    pooling: str,
    *,
    projection_first: bool = False,
) -> str:
    """Hash a model's settings and weights, not its served name and device.

    Args:
        network: The network, cast to `dtype`; cheapest while it is on the CPU.
        projection: Linear layer to the embedding, or None.
        architecture: timm's name.
        options: Further arguments of `timm.create_model`, as JSON has them.
        preprocessing: How pictures become inputs.
        dtype: What the network computes in.
        pooling: timm's `global_pool`.
        projection_first: Whether the projection comes before the pooling.

    Returns:
        32 hex digits of a SHA-256, the same in every process.
    """
    settings = {
        "architecture": architecture,
        "options": dict(options),
        "preprocessing": asdict(preprocessing),
        "dtype": str(dtype),
        "pooling": pooling,
        "projection_first": projection_first,
    }
    digest = hashlib.sha256(_canonical(settings))
    tensors = network.state_dict(prefix="network.")
    if projection is not None:
        tensors |= projection.state_dict(prefix="projection.")
    for name in sorted(tensors):
        value = tensors[name]
        # The header fixes the length of the bytes, so no two models share a byte stream.
        digest.update(_canonical([name, str(value.dtype), list(value.shape)]))
        digest.update(_bytes(value))
    return digest.hexdigest()[:32]


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _bytes(value: Tensor) -> memoryview:
    # numpy has no bfloat16, so every dtype goes through bytes.
    flat = value.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
