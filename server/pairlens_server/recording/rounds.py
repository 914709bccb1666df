"""Sharing backward passes: pictures with different targets go through one together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from pairlens_server.recording.activations import Activation
from pairlens_server.recording.targets import ScoreTarget

Asked = TypeVar("Asked", bound=Activation)


def rounds(wanted: Iterable[tuple[ScoreTarget, Iterable[int]]]) -> list[dict[int, ScoreTarget]]:
    """Share targets out over backward passes, one target per picture and pass.

    The gradient of a sum of per-picture scores is, picture by picture, the gradient of
    that picture's own score.

    Args:
        wanted: Targets with the pictures that want them; repetitions do no harm.
    """
    passes: list[dict[int, ScoreTarget]] = []
    for target, pictures in wanted:
        for picture in pictures:
            if any(p.get(picture) == target for p in passes):
                continue
            free = next((p for p in passes if picture not in p), None)
            if free is None:
                free = {}
                passes.append(free)
            free[picture] = target
    return passes


def in_order(
    collected: Mapping[Activation, Mapping[int, Tensor]], wanted: Mapping[Asked, Sequence[int]]
) -> dict[Activation, Tensor]:
    """Rows that passes found, picture by picture, as a recorder gives them.

    Args:
        collected: Row of each picture, for each activation.
        wanted: Activations with the pictures that want them.

    Returns:
        [len(wanted[a]), ...] for activation a, in the order of its pictures.
    """
    return {a: torch.stack([collected[a][p] for p in pictures]) for a, pictures in wanted.items()}
