"""The arithmetic of PairFaith: from curves and embeddings to numbers; no server, no files.

A curve is what is left of a similarity s as a map's cells are erased, most relevant first
(MoRF) or least relevant first (LeRF). Its shares of erased cells f ascend from 0, the clean
picture, to 1, the filled one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]

MINIMUM_SPAN = 0.05
"""Least s(clean) - floor, in cosine, by which scores are normalised.

A pair below it does not hang on what the picture shows (a filled one is as similar), and its
scores, divided by so little, would outweigh others in a mean; typical spans are 0.2 to 0.4.
"""


_NO_DIRECTION = "an embedding of the erased query is zero or not finite"


class UndefinedScoreError(Exception):
    """A measure has no value for the case; the text says why."""


def area(fractions: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Area under a curve by the trapezoid rule over the true shares."""
    x, y = np.asarray(fractions, np.float64), np.asarray(scores, np.float64)
    return float(np.sum((x[1:] - x[:-1]) * (y[1:] + y[:-1])) / 2)


def normalised(scores: npt.ArrayLike, clean: float, floor: float) -> Vector:
    """Scores where the clean pair has 1 and the floor 0: (s - floor) / (clean - floor).

    Both ends belong to the pair and not to the map, unlike those of a curve scaled by its own
    smallest and largest value, which hides how much a map's erasure did.

    Raises:
        UndefinedScoreError: clean - floor is below `MINIMUM_SPAN`.
    """
    span = clean - floor
    if not span >= MINIMUM_SPAN:
        raise UndefinedScoreError(
            f"filling lowers the similarity by {span:.3g}, less than {MINIMUM_SPAN:g}"
        )
    return (np.asarray(scores, np.float64) - floor) / span


def joint_floor(image_filled: float, partner_filled: float) -> float:
    """The floor of curves that erase both pictures: the mean of one-sided fillings.

    Args:
        image_filled: Similarity of the filled image to the clean partner.
        partner_filled: The other way around.

    The end of such a curve is none: two filled pictures are alike *because* they are filled
    (under a constant colour they are equal, with a cosine of 1).
    """
    return (image_filled + partner_filled) / 2


def cosines(vectors: npt.ArrayLike, other: npt.ArrayLike) -> Vector:
    """Cosine of each of `vectors` [n, C] to `other` [C]; NaN for a zero vector."""
    rows, column = np.asarray(vectors, np.float64), np.asarray(other, np.float64)
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(column)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((rows @ column) / lengths)


def contrast(
    fractions: npt.ArrayLike,
    copies: npt.ArrayLike,
    positive: npt.ArrayLike,
    negative: npt.ArrayLike,
) -> float:
    """How much more an erasure takes from the likeness to p than from that to n.

    contrast = A(s(q, p) - s(q_f, p)) - A(s(q, n) - s(q_f, n)), where q_f is q with the share f
    erased, most relevant first, s the cosine and A the area over f. In cosine units.

    Args:
        fractions: [points] ascending from 0 to 1.
        copies: [points, C] embeddings of q_f, the clean one first.
        positive: [C] embedding of p.
        negative: [C] embedding of n.

    Raises:
        UndefinedScoreError: A copy has no direction.
    """
    to_positive, to_negative = cosines(copies, positive), cosines(copies, negative)
    if not (np.isfinite(to_positive).all() and np.isfinite(to_negative).all()):
        raise UndefinedScoreError(_NO_DIRECTION)
    drop = (to_positive[0] - to_positive) - (to_negative[0] - to_negative)
    return area(fractions, drop)


def hit(
    copy: npt.ArrayLike,
    unit_gallery: npt.NDArray[np.floating],
    labels: Sequence[str],
    excluded: Sequence[int],
    label: str,
) -> bool:
    """Recall at 1: whether the picture most similar to `copy` is of class `label`.

    Args:
        copy: [C] embedding of the changed query.
        unit_gallery: [n, C] embeddings of the data set, each of length 1; NaN for pictures
            without one.
        labels: Of the gallery.
        excluded: Indices that are not searched: the query and its duplicates.
        label: Of the query.

    Raises:
        UndefinedScoreError: The query has no direction: nothing is most similar to it.
    """
    if not 0 < float(np.linalg.norm(np.asarray(copy, np.float64))) < np.inf:
        raise UndefinedScoreError(_NO_DIRECTION)
    # The copy's own length changes no order.
    scores = unit_gallery @ np.asarray(copy, unit_gallery.dtype)
    scores[list(excluded)] = -np.inf
    scores[np.isnan(scores)] = -np.inf
    return labels[int(np.argmax(scores))] == label


def nearest_point(fractions: npt.ArrayLike, fraction: float) -> int:
    """Index of the curve's point whose share of erased cells is closest to `fraction`."""
    return int(np.argmin(np.abs(np.asarray(fractions, np.float64) - fraction)))


def spearman(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Rank correlation of two maps of one shape, equal values by their mean rank.

    Raises:
        UndefinedScoreError: A map is constant.
    """
    a, b = (_mean_ranks(np.asarray(values, np.float64).ravel()) for values in (first, second))
    a, b = a - a.mean(), b - b.mean()
    if not (a.any() and b.any()):
        raise UndefinedScoreError("a map is constant")
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def _mean_ranks(values: Vector) -> Vector:
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[group], np.float64)
