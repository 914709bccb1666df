"""Changed copies of a picture for the metrics, and the probe that scores them.

A copy is a value. Metrics name the copies that they need; equal ones run once: insertion
over a substrate passes the same pictures as deletion from the other end of the order, and
all of them share the clean and the wholly filled picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor

from pairlens_server.fidelity.placing import ErasureUnit
from pairlens_server.fidelity.substrates import Filling
from pairlens_server.recording.probes import Probe, ProbeModel
from pairlens_server.recording.targets import Similarity, similarities


class Side(str, Enum):
    """Which picture of a pair is changed."""

    IMAGE = "image"
    PARTNER = "partner"
    BOTH = "both"


class Ranking(NamedTuple):
    """Which order of a map: what is ranked, and how equal values are."""

    unit: ErasureUnit
    flipped_ties: bool


_EVERYTHING = torch.iinfo(torch.int32).max


@dataclass(frozen=True)
class Copy:
    """A copy with the places of ranks `low` to `high` - 1 filled; make it with the functions below.

    Attributes:
        filling: What stands there; None for the clean picture.
        ranking: By which order; None where it does not matter.
        low, high: Ranks; 0 is the most relevant place.
        blended: Instead, the picture times the map's unit mask, over the filling.
    """

    filling: Filling | None = None
    ranking: Ranking | None = None
    low: int = 0
    high: int = 0
    blended: bool = False


CLEAN = Copy()
"""The picture itself."""


def filled(filling: Filling) -> Copy:
    """The picture with everything filled."""
    return Copy(filling, None, 0, _EVERYTHING)


def erased(filling: Filling, ranking: Ranking, count: int, total: int) -> Copy:
    """The picture without its `count` most relevant of `total` places."""
    if count == 0:
        return CLEAN
    return filled(filling) if count == total else Copy(filling, ranking, 0, count)


def kept(filling: Filling, ranking: Ranking, count: int, total: int) -> Copy:
    """The `count` most relevant of `total` places of the picture, and nothing else."""
    if count == 0:
        return filled(filling)
    return CLEAN if count == total else Copy(filling, ranking, count, _EVERYTHING)


def blended(filling: Filling) -> Copy:
    """m·x + (1 − m)·filling, with the map scaled to 0..1 as m."""
    return Copy(filling, blended=True)


@dataclass(frozen=True, eq=False)
class MapOnInput:
    """A map as its copies need it, on the CPU.

    Attributes:
        ranks: int32 [H, W] for each ranking in use.
        mask: float32 [H, W] in [0, 1].
    """

    ranks: Mapping[Ranking, Tensor]
    mask: Tensor

    def make(self, pixels: Tensor, copies: Sequence[Copy]) -> Tensor:
        """Make copies of a picture on its device: [n, 3, H, W] from [3, H, W]."""
        made = pixels.new_empty(len(copies), *pixels.shape)
        rows_of: dict[tuple[Filling | None, Ranking | None, bool], list[int]] = {}
        for row, copy in enumerate(copies):
            rows_of.setdefault((copy.filling, copy.ranking, copy.blended), []).append(row)
        for (filling, ranking, is_blended), rows in rows_of.items():
            if filling is None:
                made[rows] = pixels
            elif is_blended:
                mask = self.mask.to(pixels)
                made[rows] = mask * pixels + (1 - mask) * filling.prepare(pixels).picture
            elif ranking is None:
                made[rows] = filling.prepare(pixels).picture
            else:
                ends = [(copies[row].low, copies[row].high) for row in rows]
                low, high = torch.tensor(ends, dtype=torch.int32, device=pixels.device).T
                ranks = self.ranks[ranking].to(pixels.device)
                hidden = (ranks >= low[:, None, None]) & (ranks < high[:, None, None])
                made[rows] = filling.prepare(pixels).fill(hidden)
        return made


def _weight(copies: Sequence[Copy]) -> int:
    """What a copy costs, in copies that are only scored: imputing is as dear as a small network."""
    imputed = (c.filling is not None and c.filling.imputes for c in copies)
    return 2 if any(imputed) else 1


@dataclass(frozen=True, eq=False)
class ClassProbe(Probe):
    """Log-probabilities of classes on copies of one picture.

    Result: float32 [copies, classes], logarithms of the softmax, computed in float64.

    Attributes:
        copies: What to make; pixels are [1, 3, H, W].
        image: The picture's map.
        classes: Class indices.
    """

    copies: tuple[Copy, ...]
    image: MapOnInput
    classes: tuple[int, ...]

    @property
    def steps(self) -> int:
        """See `Probe.steps`: the copies."""
        return len(self.copies)

    @property
    def weight(self) -> int:
        """See `Probe.weight`: more where erased pixels are imputed."""
        return _weight(self.copies)

    def run(self, model: ProbeModel, pixels: Tensor, start: int, stop: int) -> Tensor:
        """See `Probe.run`: [stop - start, classes]."""
        made = self.image.make(pixels[0], self.copies[start:stop])
        return model.log_probabilities(made)[:, list(self.classes)]

    def combine(self, parts: Sequence[Tensor]) -> Tensor:
        """See `Probe.combine`."""
        return torch.cat(list(parts)).float()


@dataclass(frozen=True, eq=False)
class SimilarityProbe(Probe):
    """Similarities on copies of one picture, or of both pictures of a pair at once.

    Result of one picture: float32 [copies, 1], and of two: [copies, 3], the similarity with
    the image changed, with the partner changed, and with both. With `embeddings`, those of
    the copies follow, [copies, ... + pictures · embedding_size].

    Attributes:
        copies: What to make of each picture; pixels are [pictures, 3, H, W].
        maps: Of each picture.
        targets: For each picture, what its copies are compared with.
        embeddings: Whether they are part of the result.
    """

    copies: tuple[Copy, ...]
    maps: tuple[MapOnInput, ...]
    targets: tuple[Similarity, ...]
    embeddings: bool = False

    @property
    def steps(self) -> int:
        """See `Probe.steps`: the copies, of both pictures at once."""
        return len(self.copies)

    @property
    def weight(self) -> int:
        """See `Probe.weight`: for each picture, more where erased pixels are imputed."""
        return len(self.maps) * _weight(self.copies)

    def run(self, model: ProbeModel, pixels: Tensor, start: int, stop: int) -> Tensor:
        """See `Probe.run`: [stop - start, columns]."""
        copies = self.copies[start:stop]
        made = [
            image.make(picture, copies) for image, picture in zip(self.maps, pixels, strict=True)
        ]
        found = torch.split(model.embeddings(torch.cat(made)), len(copies))
        columns = [
            similarities(embeddings, target.vector.to(embeddings.device))
            for embeddings, target in zip(found, self.targets, strict=True)
        ]
        if len(found) == 2:
            columns.append(torch.cosine_similarity(found[0], found[1], eps=0.0).nan_to_num(0.0))
        result = torch.stack(columns, dim=1)
        return torch.cat([result, *found], dim=1) if self.embeddings else result

    def combine(self, parts: Sequence[Tensor]) -> Tensor:
        """See `Probe.combine`."""
        return torch.cat(list(parts)).float()
