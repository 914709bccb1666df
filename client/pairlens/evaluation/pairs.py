"""Which pictures PairFaith puts beside a query."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pairlens.rendering import FloatArray


@dataclass(frozen=True)
class PairCase:
    """A query and its partners, as indices of pictures.

    Attributes:
        query: The picture whose partners the others are.
        positive: p, the most similar picture of its class.
        second: p2, the second most similar: the other positive.
        negative: n, the most similar picture of another class.
        duplicates: Pictures with the very bytes of the query, itself included.
    """

    query: int
    positive: int
    second: int
    negative: int
    duplicates: tuple[int, ...]


def eligible_queries(
    labels: Sequence[str], digests: Sequence[str], usable: Sequence[int]
) -> list[int]:
    """Pictures with at least two others of their class, copies of one file counted once.

    Args:
        labels: Class of each picture.
        digests: Hash of each picture's bytes.
        usable: Indices to choose from.

    Returns:
        Those in the order of `usable` that have a picture of another class, too.
    """
    held: dict[str, set[str]] = {}
    for index in usable:
        held.setdefault(labels[index], set()).add(digests[index])
    classes_with = Counter(digest for files in held.values() for digest in files)
    files = sum(map(len, held.values()))

    def eligible(index: int) -> bool:
        own = held[labels[index]]
        elsewhere = files - len(own) - (classes_with[digests[index]] - 1)
        return len(own) >= 3 and elsewhere >= 1

    return [index for index in usable if eligible(index)]


def pair_case(
    query: int,
    unit: FloatArray,
    labels: Sequence[str],
    digests: Sequence[str],
    usable: Sequence[int],
) -> PairCase:
    """The partners of a query by cosine; of equally similar ones the first.

    Copies of the query's file are no partners, and the second positive is no copy of
    the first.

    Args:
        query: One of `eligible_queries`.
        unit: [n, C] embeddings of length 1.
        labels: Class of each picture.
        digests: Hash of each picture's bytes.
        usable: Indices of pictures with an embedding.
    """
    others = [index for index in usable if digests[index] != digests[query]]
    cosines = unit[others].astype(np.float64) @ unit[query].astype(np.float64)
    ranked = [others[place] for place in np.argsort(-cosines, kind="stable")]
    same = [index for index in ranked if labels[index] == labels[query]]
    second = next(index for index in same if digests[index] != digests[same[0]])
    negative = next(index for index in ranked if labels[index] != labels[query])
    copies = tuple(index for index in usable if digests[index] == digests[query])
    return PairCase(query, same[0], second, negative, copies)
