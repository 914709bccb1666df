"""Seeded choices of pictures; a longer run begins with a shorter one's."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def generator(*parts: object) -> np.random.Generator:
    """A random generator that is the same wherever the same parts are given.

    Args:
        parts: Seed, purpose, case and the like; their texts are hashed (SHA-256).
    """
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32))


def round_robin(labels: Sequence[str], usable: Sequence[int], seed: int) -> list[int]:
    """All usable pictures, one of each class in turn.

    Args:
        labels: Class of each picture.
        usable: Indices of the pictures to put in order.
        seed: Of the order of the classes, and of the pictures in each.

    Returns:
        `usable` in a new order. Classes take turns until they run out, so that any
        beginning of the list holds of each class as many as it can, within one.
    """
    members: dict[str, list[int]] = {}
    for index in usable:
        members.setdefault(labels[index], []).append(index)
    names = sorted(members)
    turns = [names[place] for place in generator(seed, "classes").permutation(len(names))]
    for name in names:
        generator(seed, "members", name).shuffle(members[name])
    rounds = range(max(map(len, members.values()), default=0))
    return [members[name][turn] for turn in rounds for name in turns if turn < len(members[name])]
