"""Gradients of one class's logit per picture, for a whole batch at once."""

from __future__ import annotations

import torch
from torch import Tensor

from pairlens_server.recording.activations import Activation, FeatureGradient


def class_indices(classes: list[int | None], logits: Tensor) -> Tensor:
    """Resolve None to the class with the largest logit: int64 [B] from logits [B, classes]."""
    given = torch.tensor([-1 if c is None else c for c in classes], device=logits.device)
    return torch.where(given < 0, logits.argmax(dim=1), given)


def rounds(wanted: dict[FeatureGradient, list[int]]) -> list[dict[int, FeatureGradient]]:
    """Share gradients out over backward passes, one class per picture and pass."""
    passes: list[dict[int, FeatureGradient]] = []
    for gradient, pictures in wanted.items():
        for picture in pictures:
            free = next((p for p in passes if picture not in p), None)
            if free is None:
                free = {}
                passes.append(free)
            free[picture] = gradient
    return passes


def backward(
    features: Tensor, logits: Tensor, wanted: dict[FeatureGradient, list[int]]
) -> dict[Activation, list[Tensor]]:
    """Differentiate the wanted logits by the features.

    The gradient of a sum of per-picture logits is, picture by picture, the gradient of
    that picture's own logit, so pictures with different classes share one pass.

    Args:
        features: [B, ...], a leaf in the graph of `logits`.
        logits: [B, classes].
        wanted: Pictures by gradient.

    Returns:
        For each gradient, one tensor [...] for each of its pictures, in order.
    """
    found: dict[tuple[FeatureGradient, int], Tensor] = {}
    passes = rounds(wanted)
    for number, assignment in enumerate(passes, start=1):
        pictures = sorted(assignment)
        classes = class_indices([assignment[p].class_index for p in pictures], logits[pictures])
        total = logits[pictures, classes].sum()
        (slopes,) = torch.autograd.grad(total, features, retain_graph=number < len(passes))
        found.update({(assignment[p], p): slopes[p] for p in pictures})
    return {g: [found[g, p] for p in pictures] for g, pictures in wanted.items()}
