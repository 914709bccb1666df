"""What is read off the copies: a class's probability, or the similarity to other pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pairlens_server.fidelity.copies import (
    CLEAN,
    ClassProbe,
    Copy,
    MapOnInput,
    Side,
    SimilarityProbe,
)
from pairlens_server.fidelity.metrics import CurveOutcome, ErasureMetric, Score
from pairlens_server.fidelity.parameters import ScoredClass
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.recording.probes import Probe
from pairlens_server.recording.targets import Similarity, similarities
from pairlens_server.service.commands import Float32Array, ResolvedTarget
from pairlens_server.service.score_commands import ScoredCurve
from pairlens_server.service.targets import describe_class, describe_similarity

Found = dict[Copy, Tensor]
"""For each copy that ran, its row of the probe's result."""


def changed_by(sides: Sequence[Side]) -> tuple[Side, ...]:
    """The pictures, IMAGE and PARTNER at most, whose copies tell of some sides."""
    if set(sides) <= {Side.IMAGE}:
        return (Side.IMAGE,)
    if set(sides) == {Side.PARTNER}:
        return (Side.PARTNER,)
    return Side.IMAGE, Side.PARTNER


class Reading(ABC):
    """What is read off copies, and the clean pictures' own, which need no further pass."""

    @property
    @abstractmethod
    def changed(self) -> tuple[Side, ...]:
        """The pictures whose copies are made, IMAGE and PARTNER at most."""

    @abstractmethod
    def probe(self, copies: Sequence[Copy], maps: Sequence[MapOnInput]) -> Probe:
        """Reads copies of the changed pictures, with a map of each."""

    @abstractmethod
    def scores(self, found: Found, side: Side, metric: ErasureMetric) -> dict[Copy, Score]:
        """Each copy's score as a metric wants it of a side, the clean picture's included."""

    @abstractmethod
    def class_index(self, metric: ErasureMetric) -> int | None:
        """The class whose probability a metric reads."""

    @abstractmethod
    def described(self) -> ResolvedTarget:
        """The target on the clean picture."""

    def curve(self, outcome: CurveOutcome, found: Found, side: Side) -> ScoredCurve:
        """A curve with the embeddings of its copies, if they were asked for."""
        return ScoredCurve(outcome.fractions, outcome.scores)


@dataclass(frozen=True, eq=False)
class ClassReading(Reading):
    """Probabilities of the target's class and of the predicted one.

    Attributes:
        model: Whose classes they are.
        logits: [classes] of the clean picture.
        target: The request's class.
    """

    model: LoadedModel
    logits: Tensor
    target: int

    @property
    def changed(self) -> tuple[Side, ...]:
        """See `Reading.changed`."""
        return (Side.IMAGE,)

    @property
    def _classes(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys((self.target, int(self.logits.argmax()))))

    def probe(self, copies: Sequence[Copy], maps: Sequence[MapOnInput]) -> Probe:
        """See `Reading.probe`."""
        return ClassProbe(tuple(copies), maps[0], self._classes)

    def class_index(self, metric: ErasureMetric) -> int:
        """See `Reading.class_index`."""
        predicted = metric.scored_class is ScoredClass.PREDICTED
        return int(self.logits.argmax()) if predicted else self.target

    def scores(self, found: Found, side: Side, metric: ErasureMetric) -> dict[Copy, Score]:
        """See `Reading.scores`."""
        chosen = self.class_index(metric)
        column = self._classes.index(chosen)
        logs = {copy: float(row[column]) for copy, row in found.items()}
        logs[CLEAN] = float(torch.log_softmax(self.logits.double(), dim=0)[chosen].float())
        return {copy: Score(float(np.exp(log)), log) for copy, log in logs.items()}

    def described(self) -> ResolvedTarget:
        """See `Reading.described`."""
        return describe_class(self.logits, self.target, self.model)


@dataclass(frozen=True, eq=False)
class SimilarityReading(Reading):
    """Cosine similarities of the image, of its partner, or of both; make it with `to`.

    Attributes:
        sides: Asked for.
        image: float32 [embedding_size] of the clean image.
        partner: Likewise of what it is compared with, the first of several.
        compared: For each picture, what its copies are compared with.
        target: Of the clean image.
        embeddings: Whether curves hold them.
    """

    sides: tuple[Side, ...]
    image: Tensor
    partner: Tensor
    compared: Mapping[Side, Similarity]
    target: ResolvedTarget
    embeddings: bool = False

    @classmethod
    def to(
        cls, sides: tuple[Side, ...], image: Tensor, others: Tensor, *, embeddings: bool = False
    ) -> SimilarityReading:
        """Of an image [embedding_size] and all others [count, embedding_size].

        Goes over them all, which takes seconds for a gallery: not on the event loop.
        """
        compared = {
            Side.IMAGE: Similarity.to(others),
            Side.PARTNER: Similarity.to(image[None]),
        }
        target = describe_similarity(image, others)
        return cls(sides, image, others[0], compared, target, embeddings)

    @property
    def changed(self) -> tuple[Side, ...]:
        """See `Reading.changed`."""
        return changed_by(self.sides)

    def probe(self, copies: Sequence[Copy], maps: Sequence[MapOnInput]) -> Probe:
        """See `Reading.probe`."""
        compared = tuple(self.compared[side] for side in self.changed)
        return SimilarityProbe(tuple(copies), tuple(maps), compared, self.embeddings)

    def class_index(self, metric: ErasureMetric) -> None:
        """See `Reading.class_index`."""
        return

    def scores(self, found: Found, side: Side, metric: ErasureMetric) -> dict[Copy, Score]:
        """See `Reading.scores`."""
        column = len(self.changed) if side is Side.BOTH else self.changed.index(side)
        direction = self.compared[Side.IMAGE].vector
        clean = float(similarities(self.image[None], direction)[0])
        return {copy: Score(float(row[column])) for copy, row in found.items()} | {
            CLEAN: Score(clean)
        }

    def curve(self, outcome: CurveOutcome, found: Found, side: Side) -> ScoredCurve:
        """See `Reading.curve`."""
        plain = super().curve(outcome, found, side)
        if not self.embeddings:
            return plain
        own = Side.IMAGE if side is Side.BOTH else side
        partner = self._along(outcome, found, Side.PARTNER) if side is Side.BOTH else None
        return ScoredCurve(plain.fractions, plain.scores, self._along(outcome, found, own), partner)

    def _along(self, outcome: CurveOutcome, found: Found, side: Side) -> Float32Array:
        """Embeddings of one picture's copies along a curve: [points, embedding_size]."""
        size = len(self.image)
        scores = 1 if len(self.changed) == 1 else 3
        start = scores + self.changed.index(side) * size
        clean = self.image if side is Side.IMAGE else self.partner
        rows = [
            clean if copy == CLEAN else found[copy][start : start + size] for copy in outcome.copies
        ]
        return np.ascontiguousarray(torch.stack(rows).numpy())

    def described(self) -> ResolvedTarget:
        """See `Reading.described`."""
        return self.target
