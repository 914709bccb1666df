"""The metrics of ScoreSaliency again: directly, slowly, one copy and one pixel at a time.

Written from `metrics.proto` and the papers alone, with nothing of the server but the timm
network of a loaded model. Pictures are float32 [3, H, W], normalised; maps on the input are
float32 [H, W]; `Score` reads one number off one or two pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from pairlens_server.models.loaded import LoadedModel

Array = NDArray[np.float32]
Score = Callable[..., float]
Groups = list[list[tuple[int, int]]]  # pixels (row, column) that change together, in order


# --- What is read off a picture ---


def logits(model: LoadedModel, picture: Tensor) -> Tensor:
    """Of every class, float64 [classes]."""
    with torch.no_grad():
        return model.network(picture[None])[0].double()


def embedding(model: LoadedModel, picture: Tensor) -> NDArray[np.float64]:
    """Pooled features, projected if the model does, float64 [size]."""
    with torch.no_grad():
        features = model.network.forward_features(picture[None])
        pooled = model.network.forward_head(features, pre_logits=True)
        if model.projection is not None:
            pooled = model.projection(pooled)
    return pooled[0].double().numpy()


def log_probability(model: LoadedModel, picture: Tensor, class_index: int) -> float:
    """Logarithm of the softmax of one class."""
    values = [float(value) for value in logits(model, picture)]
    largest = max(values)
    total = sum(math.exp(value - largest) for value in values)
    return values[class_index] - largest - math.log(total)


def class_score(model: LoadedModel, class_index: int) -> Score:
    """Softmax probability of a class."""
    return lambda picture: math.exp(log_probability(model, picture, class_index))


def predicted(model: LoadedModel, picture: Tensor) -> int:
    """Class with the largest logit, the first of equals."""
    values = logits(model, picture).tolist()
    return values.index(max(values))


def cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Cosine similarity."""
    return float(sum(a * b) / math.sqrt(sum(a * a)) / math.sqrt(sum(b * b)))


def similarity_score(model: LoadedModel, partners: Sequence[NDArray[np.float64]]) -> Score:
    """Summed cosine similarity to embeddings that stay as they are."""
    return lambda picture: sum(cosine(embedding(model, picture), other) for other in partners)


def pair_score(model: LoadedModel) -> Score:
    """Cosine similarity of two pictures, both of which may change."""
    return lambda picture, partner: cosine(embedding(model, picture), embedding(model, partner))


def enlarge(grid: Array, size: tuple[int, int], how: str) -> Array:
    """A map on the input: `how` is "nearest", "bilinear" or "bilinear_aligned".

    In float64 and then rounded, so that pixels between equal cells are equal.
    """
    values = torch.from_numpy(np.asarray(grid, np.float64))[None, None]
    if how == "nearest":
        enlarged = F.interpolate(values, size=size, mode="nearest-exact")
    else:
        aligned = how == "bilinear_aligned"
        enlarged = F.interpolate(values, size=size, mode="bilinear", align_corners=aligned)
    return enlarged[0, 0].float().numpy()


def scaled(saliency: Array) -> Array:
    """By its own smallest and largest value; a constant map becomes 0."""
    low, high = float(saliency.min()), float(saliency.max())
    if high == low:
        return np.zeros_like(saliency)
    return ((saliency - low) / (high - low)).astype(np.float32)


def pixel_groups(saliency: Array, *, reference: bool, least_first: bool) -> Groups:
    """Every pixel by itself, in the order of the map on the input."""
    rows, columns = saliency.shape
    places = [(row, column) for row in range(rows) for column in range(columns)]
    ordered = _ordered([float(saliency[place]) for place in places], reference, least_first)
    return [[places[index]] for index in ordered]


def cell_groups(
    grid: Array, size: tuple[int, int], *, reference: bool, least_first: bool
) -> Groups:
    """The pixels of each cell, in the order of the map on its own grid."""
    rows, columns = grid.shape
    cells: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for y in range(size[0]):
        for x in range(size[1]):
            # The cell in which the pixel's middle lies.
            cell = int((y + 0.5) * rows / size[0]), int((x + 0.5) * columns / size[1])
            cells.setdefault(cell, []).append((y, x))
    ordered = _ordered([float(value) for value in grid.flatten()], reference, least_first)
    return [cells[divmod(index, columns)] for index in ordered]


def _ordered(values: list[float], reference: bool, least_first: bool) -> list[int]:
    if reference:  # numpy's argsort, flipped
        ordered = sorted(range(len(values)), key=lambda index: values[index])[::-1]
    else:
        ordered = sorted(range(len(values)), key=lambda index: -values[index])
    return ordered[::-1] if least_first else ordered


# --- What stands in for erased pixels ---


def reference_kernel() -> NDArray[np.float64]:
    """The thesis' blur: a point in 11 x 11 under scipy's Gaussian, folded back at the edges."""
    point = np.zeros((11, 11))
    point[5, 5] = 1
    return gaussian_filter(point, 5)


def filling(
    model: LoadedModel,
    picture: Tensor,
    substrate: str,
    *,
    reference: bool = False,
    sigma: float | None = None,
    seed: int = 0,
) -> Tensor:
    """Picture of "mean", "black", "blur" or "noise" (standard normal once normalised)."""
    if substrate == "mean":
        return torch.zeros_like(picture)
    if substrate == "black":
        settings = model.preprocessing
        channels = [-mean / std for mean, std in zip(settings.mean, settings.std, strict=True)]
        return torch.tensor(channels)[:, None, None].repeat(1, *picture.shape[1:])
    if substrate == "noise":
        return torch.randn(picture.shape, generator=torch.Generator().manual_seed(seed))
    if substrate != "blur":
        raise ValueError(substrate)
    pixels = picture.double().numpy()
    if reference:
        blurred = np.stack([_zero_padded(channel) for channel in pixels])
    else:
        deviation = 5 * min(picture.shape[1:]) / 224 if sigma is None else sigma
        blurred = np.stack([gaussian_filter(c, deviation, mode="mirror") for c in pixels])
    return torch.from_numpy(blurred).float()


def _zero_padded(channel: NDArray[np.float64]) -> NDArray[np.float64]:
    kernel, padded = reference_kernel(), np.pad(channel, 5)
    result = np.zeros_like(channel)
    for row in range(channel.shape[0]):
        for column in range(channel.shape[1]):
            result[row, column] = (kernel * padded[row : row + 11, column : column + 11]).sum()
    return result


def under_map(picture: Tensor, saliency: Array, fill: Tensor) -> Tensor:
    """The picture where the map is 1, what stands in for it where it is 0."""
    mask = torch.from_numpy(scaled(saliency))
    return mask * picture + (1 - mask) * fill


def drop(clean: float, masked: float) -> float:
    """Average drop of one picture."""
    return max(0.0, clean - masked) / clean


def increase(clean: float, masked: float) -> float:
    """Average increase of one picture."""
    return 1.0 if masked > clean else 0.0


@dataclass(frozen=True)
class Changed:
    """One picture that is erased, or put back.

    Attributes:
        picture: As it is.
        fill: What stands in for it.
        groups: All its pixels, the first to change first.
        counts: Groups changed at each point of the curve, from 0 to all.
    """

    picture: Tensor
    fill: Tensor
    groups: Groups
    counts: tuple[int, ...]


def even_counts(units: int, steps: int) -> tuple[int, ...]:
    """Units changed after each of equal steps, halves rounded up."""
    return tuple(int(Fraction(units * step, steps) + Fraction(1, 2)) for step in range(steps + 1))


def counts_of_step(units: int, step: int) -> tuple[int, ...]:
    """Units changed after steps of a size, of which the last may be smaller."""
    return (*range(0, units, step), units)


def curve(
    changed: Sequence[Changed], score: Score, *, insert: bool
) -> tuple[list[float], list[list[Tensor]]]:
    """Score of every copy, and the copies' pictures: [points], [points][pictures]."""
    copies = [(c.fill if insert else c.picture).numpy().copy() for c in changed]
    sources = [(c.picture if insert else c.fill).numpy() for c in changed]
    done = [0] * len(changed)
    scores, pictures = [], []
    for point in range(len(changed[0].counts)):
        for side, one in enumerate(changed):
            while done[side] < one.counts[point]:
                for row, column in one.groups[done[side]]:
                    copies[side][:, row, column] = sources[side][:, row, column]
                done[side] += 1
        shown = [torch.from_numpy(copy.copy()) for copy in copies]
        scores.append(score(*shown))
        pictures.append(shown)
    return scores, pictures


def area(fractions: Sequence[float], scores: Sequence[float]) -> float:
    """Under the curve, by the trapezoid rule."""
    total = 0.0
    for i in range(len(scores) - 1):
        total += (fractions[i + 1] - fractions[i]) * (scores[i] + scores[i + 1]) / 2
    return total


def reference_area(scores: Sequence[float]) -> float:
    """As the thesis has it: points evenly spaced, whatever the last step's size."""
    return (sum(scores) - scores[0] / 2 - scores[-1] / 2) / (len(scores) - 1)


def normalised_area(
    fractions: Sequence[float] | None, scores: Sequence[float], clean: float, filled: float
) -> float | None:
    """Area under the scores of which the clean picture has 1 and the filled one 0.

    None where they score the same; without `fractions`, as `reference_area`.
    """
    if abs(clean - filled) <= 1e-6:
        return None
    values = [(score - filled) / (clean - filled) for score in scores]
    return reference_area(values) if fractions is None else area(fractions, values)


def energy_in_region(grid: Array, inside: NDArray[np.bool_]) -> float | None:
    """Share of the positive values in a region, bool [H, W] of a picture that the grid divides.

    None where there are none.
    """
    height, width = inside.shape[0] // grid.shape[0], inside.shape[1] // grid.shape[1]
    total = found = 0.0
    for row in range(inside.shape[0]):
        for column in range(inside.shape[1]):
            value = max(0.0, float(grid[row // height, column // width])) / (height * width)
            total += value
            found += value if inside[row, column] else 0.0
    return found / total if total else None


def pointing(grid: Array, inside: NDArray[np.bool_], tolerance: float) -> float:
    """Share of the largest cells whose centre lies in the region or near it.

    Without a tolerance, a centre between pixels is shared by those that touch it.
    """
    height, width = inside.shape[0] / grid.shape[0], inside.shape[1] / grid.shape[1]
    hits = []
    for row, column in np.argwhere(grid == grid.max()):
        y, x = (row + 0.5) * height, (column + 0.5) * width
        distances = {
            (r, c): math.hypot(max(r - y, 0, y - r - 1), max(c - x, 0, x - c - 1))
            for r, c in np.ndindex(inside.shape)
        }
        near = [bool(inside[pixel]) for pixel, away in distances.items() if away <= tolerance]
        hits.append(sum(near) / len(near) if tolerance == 0 else any(near))
    return sum(hits) / len(hits)
