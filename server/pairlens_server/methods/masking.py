"""Masks for masked image modelling, made of any attention map: pure functions.

AttMask (Kakogeorgiou et al. 2022, `attmask.py`) hides the k = int(r·N) most (High) or
least (Low) attended of N patches, and may show some of the top tenth again (Hint). It
draws r ~ U(.1, .5) once for a batch. The thesis (Reppas 2022, chapter 4) makes masks of
other maps (raw of any block, log, power, rollout) and draws r for each picture, as here.
Both then drop the mask of half the pictures in training; here every picture keeps its own.

Rows are pictures and no row sees another. In the thesis' code the log and power maps add
up over the pictures of a batch; that is a bug, and the published rows may carry it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum

import torch
from torch import Tensor

HINT_POOL_RATIO = 0.1  # `show_max` of the reference: hints come from the top tenth

# Far below the spacing of ratios that anyone means, above the rounding of a float32.
_RATIO_TOLERANCE = 1e-7


class MaskSource(str, Enum):
    """Which attention map a mask is made of."""

    RAW = "raw"  # the readout's attention, mean over heads
    LOG = "log"  # mean over heads of its logarithm
    POWER = "power"  # mean over heads of its power
    ROLLOUT = "rollout"  # the readout's row of the rollout


class MaskSelection(str, Enum):
    """Which patches are hidden."""

    HIGH = "high"  # the most attended
    LOW = "low"  # the least attended


def raw_scores(attention: Tensor) -> Tensor:
    """Mean over heads: [B, heads, N] to [B, N]."""
    return attention.mean(dim=1)


def log_scores(log_attention: Tensor) -> Tensor:
    """Mean over heads of the logarithm: [B, heads, N] to [B, N].

    Args:
        log_attention: Logarithm of attention, best from a log-softmax: the logarithm of
            an attention that underflowed to 0 is -inf and ties with all others.
    """
    return log_attention.mean(dim=1)


def power_scores(attention: Tensor, power: float) -> Tensor:
    """Mean over heads of attention to a power: [B, heads, N] to [B, N].

    Args:
        attention: Attention of the readout to each patch, in [0, 1].
        power: In (0, 1]; the power is taken before the mean.
    """
    return attention.pow(power).mean(dim=1)


def patch_count(ratio: float, patches: int) -> int:
    """Patches that a ratio stands for: int(ratio · patches), as in both codes.

    A product that misses a whole number by the rounding of a float32 counts as that
    number: 0.7, which is 0.699999988 in float32, of 10 patches is 7.
    """
    return min(patches, math.floor((ratio + _RATIO_TOLERANCE) * patches))


def extreme_mask(scores: Tensor, counts: Sequence[int], selection: MaskSelection) -> Tensor:
    """Mark the highest or lowest scores of each row: bool [B, N].

    Args:
        scores: [B, N]; of equal scores the one of lower index goes first.
        counts: How many to mark in each row.
        selection: HIGH or LOW.
    """
    order = _order(scores, selection)
    places = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    limits = torch.tensor(list(counts), device=scores.device).unsqueeze(1)
    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, order, places < limits)


def attention_mask(
    scores: Tensor,
    ratio: float,
    *,
    seeds: Sequence[int],
    max_ratio: float | None = None,
    selection: MaskSelection = MaskSelection.HIGH,
    hint_ratio: float = 0.0,
) -> Tensor:
    """Mask of each picture: bool [B, N], true where a patch is hidden.

    A picture's mask depends on its own scores and seed alone, in whatever batch it is.

    Args:
        scores: [B, N], one score for each patch.
        ratio: Part of the patches that is hidden, in [0, 1].
        seeds: Of each picture's draws; one for each row.
        max_ratio: With it, each picture's ratio is drawn evenly from [ratio, max_ratio).
        selection: HIGH or LOW.
        hint_ratio: r' in [0, 1]: of the ⌊N/10⌋ most attended patches, ⌊r'·N/10⌋, drawn at
            random, are shown (AttMask-Hint). The reference draws r' like r and
            uses it with HIGH only.
    """
    patches = scores.shape[1]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    counts = [patch_count(_draw_ratio(ratio, max_ratio, g), patches) for g in generators]
    mask = extreme_mask(scores, counts, selection)
    revealed = patch_count(HINT_POOL_RATIO * hint_ratio, patches)
    if revealed == 0:
        return mask
    pool = _order(scores, MaskSelection.HIGH)[:, : patch_count(HINT_POOL_RATIO, patches)]
    drawn = torch.stack([torch.randperm(pool.shape[1], generator=g) for g in generators])
    hints = pool.gather(1, drawn[:, :revealed].to(pool.device))
    return mask.scatter(1, hints, False)


def _order(scores: Tensor, selection: MaskSelection) -> Tensor:
    """Indices of each row from the first to be marked to the last: int64 [B, N]."""
    # Stable: the default sort breaks ties in an order that depends on the processor.
    return scores.sort(dim=1, descending=selection is MaskSelection.HIGH, stable=True).indices


def _draw_ratio(ratio: float, max_ratio: float | None, generator: torch.Generator) -> float:
    if max_ratio is None:
        return ratio
    share = torch.rand((), generator=generator, dtype=torch.float64).item()
    return ratio + (max_ratio - ratio) * share
