"""Augmentation of whole batches as tensor operations, so that no loader process is needed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Strength:
    """How far a random view strays from its picture."""

    least_area: float = 0.35
    """Smallest share of the picture that a crop keeps."""
    stretch: float = 4 / 3
    """Largest change of the aspect ratio, either way."""
    degrees: float = 8.0
    """Largest rotation, either way."""
    colour: float = 0.3
    """Largest relative change of brightness, contrast and saturation."""
    grey: float = 0.08
    """Share of views without colour (some Caltech-101 pictures have none)."""
    erase: float = 0.2
    """Share of views with one rectangle blanked."""


def random_views(images: Tensor, size: int, gen: torch.Generator, how: Strength) -> Tensor:
    """Return float views [B, 3, size, size] in 0..1 of uint8 images [B, 3, H, W]."""
    views = crop_views(images, size, gen, how)
    views = jitter_colour(views, gen, how)
    return erase_boxes(views, gen, how.erase)


def crop_views(images: Tensor, size: int, gen: torch.Generator, how: Strength) -> Tensor:
    """Crop, rotate, flip and resize, all by one bilinear sampling of each picture."""
    count = len(images)
    area = _uniform(count, how.least_area, 1.0, gen)
    ratio = _uniform(count, -math.log(how.stretch), math.log(how.stretch), gen).exp()
    width = (area * ratio).sqrt().clamp(max=1.0)
    height = (area / ratio).sqrt().clamp(max=1.0)
    angle = _uniform(count, -how.degrees, how.degrees, gen) * math.pi / 180
    flip = torch.where(torch.rand(count, generator=gen) < 0.5, -1.0, 1.0)
    cos, sin = angle.cos(), angle.sin()
    centre_x = _uniform(count, -1.0, 1.0, gen) * (1 - width)
    centre_y = _uniform(count, -1.0, 1.0, gen) * (1 - height)
    theta = torch.stack(
        [flip * width * cos, -height * sin, centre_x, flip * width * sin, height * cos, centre_y],
        dim=1,
    ).view(count, 2, 3)
    grid = F.affine_grid(theta, [count, 3, size, size], align_corners=False)
    pixels = images.float().div_(255)
    return F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)


def jitter_colour(views: Tensor, gen: torch.Generator, how: Strength) -> Tensor:
    """Change saturation, contrast and brightness of each view, and take all colour from some."""
    count = len(views)
    factors = _uniform((3, count, 1, 1, 1), 1 - how.colour, 1 + how.colour, gen)
    saturation, contrast, brightness = factors
    grey = torch.rand((count, 1, 1, 1), generator=gen) < how.grey
    saturation = saturation.masked_fill(grey, 0.0)
    luma = views.mean(1, keepdim=True)
    views = luma + (views - luma) * saturation
    level = views.mean((1, 2, 3), keepdim=True)
    return ((level + (views - level) * contrast) * brightness).clamp_(0, 1)


def erase_boxes(views: Tensor, gen: torch.Generator, share: float) -> Tensor:
    """Blank one rectangle, with sides of 20 to 50 % of the picture, in a `share` of the views."""
    count, _, rows, columns = views.shape
    height = _uniform((count, 1, 1), 0.2, 0.5, gen) * rows
    width = _uniform((count, 1, 1), 0.2, 0.5, gen) * columns
    top = torch.rand((count, 1, 1), generator=gen) * (rows - height)
    left = torch.rand((count, 1, 1), generator=gen) * (columns - width)
    y = torch.arange(rows).view(1, rows, 1)
    x = torch.arange(columns).view(1, 1, columns)
    inside = (y >= top) & (y < top + height) & (x >= left) & (x < left + width)
    chosen = torch.rand((count, 1, 1), generator=gen) < share
    return views.masked_fill((inside & chosen).unsqueeze(1), 0.45)


def _uniform(shape, low: float, high: float, gen: torch.Generator) -> Tensor:
    shape = (shape,) if isinstance(shape, int) else shape
    return torch.rand(shape, generator=gen) * (high - low) + low
