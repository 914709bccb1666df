"""Layer-wise relevance rules of TIBAV, as pure functions on tensors.

Chefer, Gur and Wolf, "Transformer Interpretability Beyond Attention Visualization", CVPR 2021,
section 3.1, as computed by `modules/layers_ours.py` of the authors' code with alpha = 1. Unlike
that code, every sum here is over one picture, so that pictures of a batch never mix.

Softmax, normalisation layers, activations, dropout and (ours) layer scale pass relevance on
unchanged and have no function. Shapes: B pictures lead; all tensors of a call share one dtype,
float32 or float64. Relevance is signed and without unit; a whole picture's is near 1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-9

# Up to this many inputs, all terms of a sum can be of one sign by chance; see `through_linear`.
_NARROW = 64


def safe_divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide by (denominator + 1e-9), or by 1e-9 if that is 0; 0 where the denominator is 0.

    Args:
        numerator: Of any shape.
        denominator: Of that shape, or one that broadcasts to it.
    """
    shifted = denominator + EPSILON
    # Comparisons into floats, because those into booleans take a CPU seven times as long.
    flags = torch.eq(shifted, 0, out=torch.empty_like(shifted))
    shifted.add_(flags, alpha=EPSILON)
    torch.ne(denominator, 0, out=flags)
    return (numerator / shifted).mul_(flags)


def through_linear(
    inputs: Tensor, outputs: Tensor, weight: Tensor, bias: Tensor | None, relevance: Tensor
) -> Tensor:
    """z+ rule of a linear layer, both signs in one denominator: relevance at its inputs.

    R_j = Σ_i (x_j w_ij)⁺ R_i / (Σ_k (x_k w_ik)⁺ + 1e-9). The bias takes no part.

    With S the quotient, (xw)⁺ = ½(xw + |x||w|) makes this x ⊙ (½SW) + |x| ⊙ (½S|W|) and its
    denominator ½(xW + |x||W|), of which the forward pass has computed xW: three products
    instead of the four of the printed form. That is as exact in wide layers, where xW and
    |x||W| never cancel to nothing (the sum was at least 2 % of |x||W| in a trained model of
    width 256); narrow ones are computed as printed.

    Args:
        inputs: [..., in].
        outputs: [..., out], what the layer made of the inputs, bias included.
        weight: [out, in].
        bias: [out] or None.
        relevance: [..., out].

    Returns:
        [..., in].
    """
    if weight.shape[1] <= _NARROW:
        return _through_narrow(inputs, weight, relevance)
    shift = weight.new_full((len(weight),), 2 * EPSILON)
    if bias is not None:
        shift -= bias
    magnitudes, absolute = inputs.abs(), weight.abs()
    # Twice the denominator; the minimum is for what rounding takes below zero.
    share = F.linear(magnitudes, absolute, shift).add_(outputs).clamp_(min=2 * EPSILON)
    torch.div(relevance, share, out=share)
    return magnitudes.mul_(share @ absolute).addcmul_(inputs, share @ weight)


def _through_narrow(inputs: Tensor, weight: Tensor, relevance: Tensor) -> Tensor:
    positive, negative = inputs.clamp(min=0), inputs.clamp(max=0)
    excited, inhibited = weight.clamp(min=0), weight.clamp(max=0)
    total = F.linear(positive, excited) + F.linear(negative, inhibited)
    share = safe_divide(relevance, total)
    return positive * (share @ excited) + negative * (share @ inhibited)


def through_logit(inputs: Tensor, weights: Tensor, relevance: float) -> Tensor:
    """`through_linear` where a single output per picture has relevance: [B, in].

    Args:
        inputs: [B, in].
        weights: [B, in], the row of that output in the layer's weight.
        relevance: At that output.
    """
    products = (inputs * weights).relu()
    total = products.sum(dim=-1, keepdim=True)
    return products * safe_divide(torch.full_like(total, relevance), total)


def through_matmul(
    left: Tensor, right: Tensor, product: Tensor, relevance: Tensor
) -> tuple[Tensor, Tensor]:
    """Rule of a product of two activations, left @ right: relevance at both.

    R_left = ½ left ⊙ (S rightᵀ), R_right = ½ right ⊙ (leftᵀ S), S = R / product.

    Args:
        left: [..., m, k].
        right: [..., k, n].
        product: left @ right, [..., m, n].
        relevance: [..., m, n].

    Returns:
        [..., m, k] and [..., k, n].
    """
    share = safe_divide(relevance, product).mul_(0.5)
    return (share @ right.mT).mul_(left), (left.mT @ share).mul_(right)


def through_sum(
    first: Tensor, second: Tensor, total: Tensor, relevance: Tensor
) -> tuple[Tensor, Tensor]:
    """Rule of a residual sum: relevance at both branches.

    Each branch takes x / (first + second) of the relevance and is then scaled to the share
    of its absolute sum, so that the two sums add up to that of the relevance (paper, eq. 10).
    Sums are over each picture.

    Args:
        first: [B, T, C].
        second: [B, T, C].
        total: first + second.
        relevance: [B, T, C].
    """
    share = safe_divide(relevance, total)
    branches = first * share, second * share
    sums = [branch.sum(dim=(1, 2), keepdim=True) for branch in branches]
    both = sums[0].abs() + sums[1].abs()
    whole = relevance.sum(dim=(1, 2), keepdim=True)
    scales = [safe_divide(safe_divide(s.abs(), both) * whole, s) for s in sums]
    return branches[0].mul_(scales[0]), branches[1].mul_(scales[1])


def through_clone(value: Tensor, relevance: Tensor) -> Tensor:
    """Rule of a value that several branches read: 0 where the value is 0.

    Args:
        value: Any shape.
        relevance: Sum of the branches' relevances, of that shape.
    """
    return safe_divide(relevance, value).mul_(value)


def through_pooling(tokens: Tensor, relevance: Tensor) -> Tensor:
    """Rule of a mean over tokens (ours), and of picking out one token (`IndexSelect`).

    Args:
        tokens: [B, T, C], the pooled ones only.
        relevance: [B, C], at their mean.

    Returns:
        [B, T, C].
    """
    return tokens * safe_divide(relevance, tokens.sum(dim=1)).unsqueeze(1)
