"""Pictures that stand for "nothing seen here", which probes put in place of the real one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

# Fong and Vedaldi (2017) blur 224-pixel pictures with σ = 10; smaller inputs get as much less.
_BLUR_SIGMA = 10 / 224


class Fill(str, Enum):
    """What a baseline shows."""

    MEAN = "mean"  # the mean colour of the model's training data: 0 once normalised
    BLACK = "black"
    BLUR = "blur"  # the picture itself under a Gaussian blur
    NOISE = "noise"  # normal noise with the mean and deviation of the training data


@dataclass(frozen=True)
class Baseline:
    """How to make the baseline of a picture; the same picture always gets the same one.

    Attributes:
        fill: What it shows.
        black: Normalised value of a black pixel, (0 − mean) / std per channel.
        seed: Seed of `Fill.NOISE`; other fills draw nothing.
    """

    fill: Fill
    black: tuple[float, float, float]
    seed: int = 0

    def picture(self, pixels: Tensor) -> Tensor:
        """Make the baseline: [3, H, W] like the normalised `pixels`, on their device."""
        if self.fill is Fill.MEAN:
            return torch.zeros_like(pixels)
        if self.fill is Fill.BLACK:
            return pixels.new_tensor(self.black)[:, None, None].expand_as(pixels)
        if self.fill is Fill.BLUR:
            return gaussian_blur(pixels, _BLUR_SIGMA * min(pixels.shape[1:]))
        # Drawn on the CPU: the generators of other devices give other numbers.
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(pixels.shape, generator=generator).to(pixels)


def gaussian_blur(pixels: Tensor, sigma: float) -> Tensor:
    """Blur with a Gaussian cut at 4σ, edges mirrored without repeating the edge pixel.

    Args:
        pixels: [..., H, W].
        sigma: Standard deviation in pixels, above 0.

    Returns:
        Tensor like `pixels`.
    """
    height, width = pixels.shape[-2:]
    down = _blur_matrix(height, sigma).to(pixels)
    across = _blur_matrix(width, sigma).to(pixels)
    return down @ pixels @ across.T


def _blur_matrix(size: int, sigma: float) -> Tensor:
    """The one-dimensional blur as float64 [size, size]: rows give the weights of the inputs.

    A product of matrices and not a convolution, whose default precision on NVIDIA GPUs
    keeps ten bits, and whose mirrored padding must be smaller than the picture.
    """
    radius = int(4 * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    kernel /= kernel.sum()
    period = max(1, 2 * (size - 1))
    sources = (torch.arange(size)[:, None] + offsets) % period
    sources = torch.minimum(sources, period - sources) if size > 1 else torch.zeros_like(sources)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    return matrix.scatter_add_(1, sources, kernel.expand(size, -1))
