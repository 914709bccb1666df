"""The formulas of class activation maps: features weighed by what a score owes them.

Every function takes features A_k and, but for ScoreCAM, the gradients g = ∂score/∂A_k at
them, and returns maps on the features' own grid that are not normalised. The score is a
logit before the softmax, or any other scalar. With `relu=False` the last ReLU is left out,
so that evidence against the score stays visible as negative values.

The small constants in the denominators are those of the authors' code; with them a channel
that is zero everywhere gets a finite weight.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GRAD_CAM_PLUS_PLUS_EPSILON = 1e-6
_X_GRAD_CAM_EPSILON = 1e-7


def _weighted(features: Tensor, weights: Tensor, relu: bool) -> Tensor:
    """Σ_k w_k A_k: [B, u, v] from features [B, K, u, v] and weights [B, K, 1 or u, 1 or v]."""
    signed = (weights * features).sum(dim=1)
    return signed.relu() if relu else signed


def grad_cam(features: Tensor, gradients: Tensor, *, relu: bool = True) -> Tensor:
    """ReLU(Σ_k w_k A_k), w_k the mean gradient of channel k (Selvaraju et al. 2017, eqs 1-2).

    Args:
        features: [B, channels, rows, columns].
        gradients: [B, channels, rows, columns], of the score by the features.
        relu: Whether evidence against the score is cut off.

    Returns:
        [B, rows, columns]; at least 0 with `relu`.
    """
    return _weighted(features, gradients.mean(dim=(2, 3), keepdim=True), relu)


def grad_cam_plus_plus(features: Tensor, gradients: Tensor, *, relu: bool = True) -> Tensor:
    """GradCAM++ (Chattopadhay et al. 2018, eq. 19, as in pytorch-grad-cam).

    w_k = Σ_xy a·max(g, 0), with a = g² / (2g² + (Σ_xy A_k) g³ + 1e-6), and 0 where g = 0.
    On features that can be negative, such as those of a LayerNorm, the denominator can be
    near 0 or below, and the weight large or negative.

    Args:
        features: [B, channels, rows, columns].
        gradients: [B, channels, rows, columns], of the score by the features.
        relu: Whether evidence against the score is cut off.

    Returns:
        [B, rows, columns]; at least 0 with `relu`.
    """
    squares = gradients**2
    sums = features.sum(dim=(2, 3), keepdim=True)
    denominators = 2 * squares + sums * squares * gradients + _GRAD_CAM_PLUS_PLUS_EPSILON
    # Where g = 0 the numerator is 0, and the denominator the constant: a is 0 by itself.
    shares = squares / denominators
    weights = (shares * gradients.relu()).sum(dim=(2, 3), keepdim=True)
    return _weighted(features, weights, relu)


def x_grad_cam(features: Tensor, gradients: Tensor, *, relu: bool = True) -> Tensor:
    """XGradCAM: w_k = Σ_xy g·A_k / (Σ_xy A_k + 1e-7) (Fu et al. 2020, as in pytorch-grad-cam).

    The mean gradient, weighed by where the channel is active. Unstable where a channel
    sums to about 0, which is usual for features of a LayerNorm.

    Args:
        features: [B, channels, rows, columns].
        gradients: [B, channels, rows, columns], of the score by the features.
        relu: Whether evidence against the score is cut off.

    Returns:
        [B, rows, columns]; at least 0 with `relu`.
    """
    owed = (gradients * features).sum(dim=(2, 3), keepdim=True)
    sums = features.sum(dim=(2, 3), keepdim=True)
    return _weighted(features, owed / (sums + _X_GRAD_CAM_EPSILON), relu)


def layer_cam(features: Tensor, gradients: Tensor, *, relu: bool = True) -> Tensor:
    """LayerCAM: ReLU(Σ_k max(g, 0)·A_k), a weight for each place (Jiang et al. 2021).

    Without the paper's tanh scaling, which serves to fuse maps of several layers.

    Args:
        features: [B, channels, rows, columns].
        gradients: [B, channels, rows, columns], of the score by the features.
        relu: Whether the last ReLU runs; negative gradients are dropped in any case.

    Returns:
        [B, rows, columns]; at least 0 with `relu`.
    """
    return _weighted(features, gradients.relu(), relu)


def channel_masks(features: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct masks of ScoreCAM, so that equal ones cost one forward pass.

    Channels that differ by nothing but an offset give one mask; after a ReLU these are
    mostly the dead ones. The offset is taken off because scaling to 0..1 does so anyway, and
    because a constant channel is then 0 exactly: enlarged as it is, its rounding errors
    would be scaled up to that range.

    Args:
        features: [channels, rows, columns] of one picture.

    Returns:
        Masks [M, rows, columns], M ≤ channels, at least 0, neither enlarged nor scaled to 1,
        which `MaskedScores` does; and int64 [channels], the mask of each channel.
    """
    offsets = features.amin(dim=(1, 2), keepdim=True)
    masks, index = torch.unique(features - offsets, dim=0, return_inverse=True)
    return masks, index


def score_cam_weights(scores: Tensor) -> Tensor:
    """Softmax of the channels' scores (Wang et al. 2020, as in their code).

    The scores are raw logits, not probabilities, and the clean picture's score is not
    subtracted: the softmax would cancel it.

    Args:
        scores: [..., channels]: the score of the picture under each channel's mask.

    Returns:
        [..., channels], summing to 1.
    """
    return scores.softmax(dim=-1)


def score_cam(features: Tensor, weights: Tensor, *, relu: bool = True) -> Tensor:
    """ScoreCAM: ReLU(Σ_k w_k A_k) (Wang et al. 2020).

    Args:
        features: [B, channels, rows, columns].
        weights: [B, channels] from `score_cam_weights`.
        relu: Whether negative values are cut off.

    Returns:
        [B, rows, columns]; at least 0 with `relu`.
    """
    return _weighted(features, weights[:, :, None, None], relu)
