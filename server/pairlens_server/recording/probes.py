"""Probes: questions put to a model by changing a picture and looking at the answers.

A probe is a sequence of changed copies of one picture, made on the device only when their
turn comes, with a number or a gradient read off each. It runs in chunks of any size, so that
short requests slip between, and the chunks' parts combine to the same result, however it was
cut, to rounding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pairlens_server.models.loaded import TokenLayout
from pairlens_server.recording.baselines import Baseline
from pairlens_server.recording.targets import ScoreTarget

# Of today's pytorch-grad-cam, which the masks are tested against; the thesis' 1e-7 differs
# by less than 1e-6 for a channel whose values span more than 0.1.
_MASK_EPSILON = 1e-8


class ProbeModel(Protocol):
    """What a probe may ask of a model; the recorder implements it."""

    def scores(self, pixels: Tensor, target: ScoreTarget) -> Tensor:
        """Scores of pictures, without a graph: float32 [n] from [n, 3, H, W]."""
        ...

    def log_probabilities(self, pixels: Tensor) -> Tensor:
        """Logarithms of the softmax, taken in float64: float32 [n, classes]."""
        ...

    def embeddings(self, pixels: Tensor) -> Tensor:
        """Embeddings of pictures, without a graph: float32 [n, embedding_size]."""
        ...

    def input_gradients(self, pixels: Tensor, target: ScoreTarget) -> Tensor:
        """Each picture's gradient of its own score by its pixels: float32 [n, 3, H, W]."""
        ...


class Probe(ABC):
    """Changed copies of one picture and what is read off them: a frozen value, deterministic.

    The target is concrete: a "predicted" class is resolved on the clean picture before,
    since a changed copy may be predicted as something else.
    """

    @property
    @abstractmethod
    def steps(self) -> int:
        """Number of changed copies in all."""

    @property
    def weight(self) -> int:
        """What a copy costs, in copies that are only scored; makes chunks smaller."""
        return 1

    @abstractmethod
    def run(self, model: ProbeModel, pixels: Tensor, start: int, stop: int) -> Tensor:
        """Make copies start..stop-1 and read them off.

        Args:
            model: The model that is asked.
            pixels: [3, H, W], normalised, on the model's device; a probe that takes
                [pictures, 3, H, W] says so.
            start: The first copy, at least 0.
            stop: The one after the last, above `start` and at most `steps`.

        Returns:
            The copies' numbers in order, or a partial sum over them; on the device.
        """

    @abstractmethod
    def combine(self, parts: Sequence[Tensor]) -> Tensor:
        """The result, float32, from the parts of all copies in order, on the CPU."""


@dataclass(frozen=True, eq=False)
class MaskedScores(Probe):
    """Scores of the picture under masks, as ScoreCAM reads them (Wang et al. 2020).

    A mask is enlarged bilinearly with corners aligned, scaled to 0..1 by its own minimum
    and maximum *after* that, and multiplied onto the normalised picture, so that 0 shows the
    mean colour of the training data (pytorch-grad-cam's `ScoreCAM`).

    Result: [M], the score under each mask; with `uses`, [uses], the score under each use.

    Attributes:
        target: What is scored.
        masks: [M, rows, columns] on the CPU, of any range.
        uses: int64, the masks whose scores are the result, or None for each once.
        unseen_bottom, unseen_right: Input pixels at those edges that the masks do not
            cover; see `TokenLayout`.
    """

    target: ScoreTarget
    masks: Tensor
    unseen_bottom: int = 0
    unseen_right: int = 0
    uses: Tensor | None = None

    @property
    def steps(self) -> int:
        """See `Probe.steps`: one copy for each mask."""
        return len(self.masks)

    def run(self, model: ProbeModel, pixels: Tensor, start: int, stop: int) -> Tensor:
        """See `Probe.run`: scores [stop - start]."""
        height, width = pixels.shape[1:]
        seen = (height - self.unseen_bottom, width - self.unseen_right)
        masks = enlarge_masks(self.masks[start:stop].to(pixels), *seen)
        masks = F.pad(masks, (0, self.unseen_right, 0, self.unseen_bottom))
        return model.scores(pixels * masks[:, None], self.target)

    def combine(self, parts: Sequence[Tensor]) -> Tensor:
        """See `Probe.combine`."""
        scores = torch.cat(list(parts)).float()
        return scores if self.uses is None else scores[self.uses.to(scores.device)]


def enlarge_masks(masks: Tensor, height: int, width: int) -> Tensor:
    """Enlarge masks and scale each to 0..1: [M, height, width] from [M, rows, columns].

    A mask of zeros stays 0.
    """
    enlarged = F.interpolate(
        masks[:, None], size=(height, width), mode="bilinear", align_corners=True
    )[:, 0]
    low = enlarged.amin(dim=(1, 2), keepdim=True)
    high = enlarged.amax(dim=(1, 2), keepdim=True)
    return (enlarged - low) / (high - low + _MASK_EPSILON)


@dataclass(frozen=True)
class OcclusionScores(Probe):
    """Scores with a window of the picture hidden, around each cell (Zeiler and Fergus 2014).

    Windows are cut off at the grid's edge and move by one cell.

    Result: [1 + cells], the clean picture's score and then the cells', row by row.

    Attributes:
        target: What is scored.
        layout: The grid.
        window: Side of the window in cells, odd.
        baseline: What the window shows.
    """

    target: ScoreTarget
    layout: TokenLayout
    window: int
    baseline: Baseline

    def __post_init__(self) -> None:
        if self.window < 1 or self.window % 2 == 0:
            raise ValueError(f"a window of {self.window} cells has no cell at its centre")

    @property
    def steps(self) -> int:
        """See `Probe.steps`: the clean picture and one copy for each cell."""
        return 1 + self.layout.cells

    def run(self, model: ProbeModel, pixels: Tensor, start: int, stop: int) -> Tensor:
        """See `Probe.run`: scores [stop - start]."""
        rows, columns = cells_of_pixels(self.layout, pixels)
        copies = torch.arange(start, stop, device=pixels.device)
        centres = copies - 1
        reach = self.window // 2
        down = (rows - (centres // self.layout.columns)[:, None]).abs() <= reach
        across = (columns - (centres % self.layout.columns)[:, None]).abs() <= reach
        hidden = down[:, :, None] & across[:, None, :] & (copies > 0)[:, None, None]
        filling = self.baseline.picture(pixels)
        return model.scores(torch.where(hidden[:, None], filling, pixels), self.target)

    def combine(self, parts: Sequence[Tensor]) -> Tensor:
        """See `Probe.combine`."""
        return torch.cat(list(parts)).float()


def occlusion_map(scores: Tensor, rows: int, columns: int) -> Tensor:
    """How much the score drops when each cell is hidden; negative where it rises.

    Args:
        scores: [..., 1 + rows·columns] of `OcclusionScores`.
        rows: Rows of the grid.
        columns: Columns of the grid.

    Returns:
        [..., rows, columns], in units of the score.
    """
    drops = scores[..., :1] - scores[..., 1:]
    return drops.reshape(*drops.shape[:-1], rows, columns)


@dataclass(frozen=True)
class PathGradients(Probe):
    """Attributions along the straight path from a baseline (Sundararajan et al. 2017, eq. 1).

    (x − x₀) ⊙ ∫₀¹ ∇F(x₀ + α(x − x₀)) dα by Gauss-Legendre quadrature, captum's default,
    summed over the channels and the pixels of each cell.

    Result: [cells + 1], the cells row by row and then the convergence delta
    Σ cells − (F(x) − F(x₀)), which is what the quadrature missed. Pixels outside the grid
    have gradient 0 and belong to no cell.

    Attributes:
        target: What is scored.
        layout: The grid.
        points: Points of the quadrature, at least 1.
        baseline: Where the path starts.
    """

    target: ScoreTarget
    layout: TokenLayout
    baseline: Baseline
    points: int = 32

    @property
    def steps(self) -> int:
        """See `Probe.steps`: the picture, its baseline, and the points between."""
        return 2 + self.points

    @property
    def weight(self) -> int:
        """See `Probe.weight`: a gradient keeps what every layer gave out."""
        return 4

    def run(self, model: ProbeModel, pixels: Tensor, start: int, stop: int) -> Tensor:
        """See `Probe.run`: partial sums [cells + 1], the last of F(x) − F(x₀)."""
        attributions = pixels.new_zeros(pixels.shape)
        difference = pixels.new_zeros(1)
        if start < 2:
            ends = torch.stack([pixels, self.baseline.picture(pixels)])[start:stop]
            signs = pixels.new_tensor([1.0, -1.0])[start:stop]
            difference = (signs * model.scores(ends, self.target)).sum(dim=0, keepdim=True)
        if stop > 2:
            attributions = self.attributions(model, pixels, max(start, 2) - 2, stop - 2)
        cells = sum_over_cells(attributions.sum(dim=0), self.layout)
        return torch.cat([cells.flatten(), difference])

    def attributions(self, model: ProbeModel, pixels: Tensor, start: int, stop: int) -> Tensor:
        """Share of points start..stop-1 in each pixel's attribution: [3, H, W]."""
        origin = self.baseline.picture(pixels)
        nodes, weights = _gauss_legendre(self.points)
        alphas = nodes[start:stop].to(pixels)[:, None, None, None]
        gradients = model.input_gradients(origin + alphas * (pixels - origin), self.target)
        mean = (weights[start:stop].to(pixels)[:, None, None, None] * gradients).sum(dim=0)
        return (pixels - origin) * mean

    def combine(self, parts: Sequence[Tensor]) -> Tensor:
        """See `Probe.combine`."""
        total = torch.stack(list(parts)).double().sum(dim=0)
        cells, difference = total[:-1], total[-1:]
        return torch.cat([cells, cells.sum(dim=0, keepdim=True) - difference]).float()


@lru_cache(maxsize=16)
def _gauss_legendre(points: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the quadrature on 0..1, float64 [points] each; weights sum to 1."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    return torch.from_numpy((1 + nodes) / 2), torch.from_numpy(weights / 2)


def cells_of_pixels(layout: TokenLayout, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Which cell the middle of each pixel lies in: its row, int64 [H], and its column, [W].

    Pixels that the grid does not cover get numbers from `rows` or `columns` on. Where the
    input is no multiple of the grid, cells differ by a pixel in size.
    """

    def cells(size: int, unseen: int, count: int) -> Tensor:
        middles = 2 * torch.arange(size, device=pixels.device) + 1
        return middles * count // (2 * (size - unseen))

    height, width = pixels.shape[-2:]
    return (
        cells(height, layout.unseen_bottom, layout.rows),
        cells(width, layout.unseen_right, layout.columns),
    )


def sum_over_cells(values: Tensor, layout: TokenLayout) -> Tensor:
    """Sum the pixels of each cell: [rows, columns] from [H, W]."""
    rows, columns = cells_of_pixels(layout, values)
    down = rows == torch.arange(layout.rows, device=rows.device)[:, None]
    across = columns == torch.arange(layout.columns, device=columns.device)[:, None]
    # Products of matrices, because scattered sums come in no fixed order on GPUs.
    return down.to(values) @ values @ across.to(values).T
