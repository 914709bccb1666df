"""How attention relates patches with SIFT keypoints (K) and without (U): pure functions.

"Demystify Self-Attention in Vision Transformers from a Semantic Perspective" (arXiv
2211.08543). The text that we have lost its equations and no code was published: equations
2 to 5 are reconstructions that agree with every property that the prose states, and the
parameters are the choices that it leaves open.

Attention is float [B, heads, N, N] without prefix rows and columns, the patch itself kept;
rows are the patches that attend. `counts` is [B, N], keypoints in each patch. Undefined
numbers are NaN.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor


class LineRule(str, Enum):
    """Height of the detection line h_i (eq. 2), which attended patches rise above.

    The text gives one parameter λ, `line`, and no statistic.
    """

    MEAN = "mean"  # λ · mean_j a_ij; needs no retuning for another N or a sharper peak
    MAX = "max"  # λ · max_j a_ij
    RANGE = "range"  # min_j a_ij + λ · (max_j a_ij - min_j a_ij)
    MEAN_STD = "mean_std"  # mean_j a_ij + λ · std_j a_ij, of the row as a whole population


class PatchWeighting(str, Enum):
    """What an attended patch with n keypoints counts for in eq. 3."""

    COUNT = "count"  # n, or 1 without keypoints
    COUNT_PLUS_ONE = "count_plus_one"  # n + 1


class Interrelations(NamedTuple):
    """Equation 4: mean share of attention by kind of start and target, float [B, heads].

    In [0, 1]; NaN where the picture has no start patch of the kind with a defined share.

    Attributes:
        kk, kn: From patches with keypoints to patches with and without; kk + kn = 1.
        nk, nn: From patches without keypoints; nk + nn = 1.
    """

    kk: Tensor
    kn: Tensor
    nk: Tensor
    nn: Tensor


def attended(attention: Tensor, rule: LineRule, line: float) -> Tensor:
    """P_i, the patches above the detection line: bool, shaped like attention [..., N, N]."""
    return attention > _line_heights(attention, rule, line)


def keypoint_shares(
    attention: Tensor,
    counts: Tensor,
    *,
    rule: LineRule = LineRule.MEAN,
    line: float = 1.0,
    weighting: PatchWeighting = PatchWeighting.COUNT,
    attention_weighted: bool = False,
) -> Tensor:
    """φ_i, the weighted share of keypoint patches among the attended (eq. 3).

    φ_i = Σ_{j ∈ P_i ∩ K} w_j / Σ_{j ∈ P_i} w_j; with `COUNT` and one keypoint in each patch
    of K it is |P_i ∩ K| / |P_i|.

    Args:
        attention: [B, heads, N, N].
        counts: [B, N], on any device.
        rule: Statistic of the detection line.
        line: λ >= 0.
        weighting: w_j.
        attention_weighted: Take w_j · a_ij instead of w_j.

    Returns:
        [B, heads, N] in [0, 1]; NaN where nothing is attended.
    """
    counts = counts.to(attention.device)
    extra = 1 if weighting is PatchWeighting.COUNT_PLUS_ONE else 0
    weights = (counts + extra).clamp(min=1).to(attention.dtype)
    # Column 0 sums over the attended patches of K, column 1 over all attended ones.
    columns = torch.stack([weights * (counts > 0), weights], dim=-1)
    shares = []
    # Head by head: temporaries of all heads at once cost heads times the memory.
    for head in attention.unbind(dim=1):
        chosen = attended(head, rule, line)
        sums = (head * chosen if attention_weighted else chosen.to(head.dtype)) @ columns
        shares.append(sums[..., 0] / sums[..., 1])  # 0 / 0 is NaN: nothing attended
    return torch.stack(shares, dim=1)


def interrelations(shares: Tensor, counts: Tensor) -> Interrelations:
    """KK, KN, NK and NN of each head (eq. 4).

    Args:
        shares: φ of `keypoint_shares`, [B, heads, N]; undefined ones are left out.
        counts: [B, N].
    """
    starts = (counts > 0).to(shares.device).unsqueeze(1)
    kk = shares.masked_fill(~starts, torch.nan).nanmean(dim=-1)
    nk = shares.masked_fill(starts, torch.nan).nanmean(dim=-1)
    return Interrelations(kk, 1 - kk, nk, 1 - nk)


def focus_index(attention: Tensor, *, renormalised: bool = False) -> Tensor:
    """Attention focus index (eq. 5): mean over rows of the entropy of min-max scaled rows.

    E_i = -Σ_j ã_ij ln ã_ij with ã = (a - min) / (max - min), in nats: larger is broader (the
    paper also says the opposite once). The rows ã do not sum to 1, as printed. A constant
    row counts as 0.

    Args:
        attention: [B, heads, N, N].
        renormalised: Divide ã by its sum first, which makes E_i an entropy in [0, ln N].

    Returns:
        [B, heads], >= 0.
    """
    return torch.stack([_entropy(h, renormalised) for h in attention.unbind(dim=1)], dim=1)


def patch_scores(shares: Tensor) -> Tensor:
    """S_i, the mean over a block's heads of φ_i (section 5.1): [B, heads, N] to [B, N].

    Undefined shares are left out; NaN where no head attends to anything.
    """
    return shares.nanmean(dim=1)


def _line_heights(attention: Tensor, rule: LineRule, line: float) -> Tensor:
    """h_i as float64 [..., N, 1].

    In float64 the mean of equal float32 numbers is that number, so that no patch of a
    constant row is above its mean.
    """
    if rule is LineRule.MEAN:
        return line * attention.mean(dim=-1, keepdim=True, dtype=torch.float64)
    if rule is LineRule.MAX:
        return line * attention.amax(dim=-1, keepdim=True).double()
    if rule is LineRule.RANGE:
        low = attention.amin(dim=-1, keepdim=True).double()
        return low + line * (attention.amax(dim=-1, keepdim=True).double() - low)
    mean = attention.mean(dim=-1, keepdim=True, dtype=torch.float64)
    return mean + line * (attention - mean).square().mean(dim=-1, keepdim=True).sqrt()


def _entropy(head: Tensor, renormalised: bool) -> Tensor:
    """Mean over rows of the entropy of one head: [B, N, N] to [B]."""
    low = head.amin(dim=-1, keepdim=True)
    spread = head.amax(dim=-1, keepdim=True) - low
    scaled = (head - low) / spread.masked_fill(spread == 0, 1)
    if renormalised:
        total = scaled.sum(dim=-1, keepdim=True)
        scaled = scaled / total.masked_fill(total == 0, 1)
    entropy: Tensor = torch.special.entr(scaled)
    return entropy.sum(dim=-1).mean(dim=-1)
