"""Metrics of how faithful a map is, and what `Client.score_saliency` and `embed` answer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from PIL import Image

from pairlens import _score_files, specs
from pairlens._images import SentImage
from pairlens._parameters import METRICS
from pairlens.errors import PairlensError
from pairlens.models import Choice, Method, ParameterInfo, ParameterValue
from pairlens.placed import PlacedMap
from pairlens.rendering import FloatArray
from pairlens.results import Provenance, Target, Timing

if TYPE_CHECKING:
    from typing_extensions import Self

_HIGHER_IS_BETTER = {
    "average_drop": False,
    "average_increase": True,
    "deletion": False,
    "insertion": True,
    "pointing_game": True,
    "energy_pointing_game": True,
}


@dataclass(frozen=True)
class Metric(Choice):
    """A metric with its parameters, as `Client.score_saliency` takes and answers them.

    Example:
        >>> Metric.of("deletion", steps=32, substrate="blur")
        >>> Metric.parse("deletion(steps=32, substrate=blur)")
    """

    @classmethod
    def of(cls, name: str, /, **parameters: ParameterValue) -> Self:
        """A metric of the contract.

        Args:
            name: "average_drop", "average_increase", "deletion", "insertion",
                "pointing_game" or "energy_pointing_game".
            **parameters: See `MetricInfo.parameters`; what is absent takes its default.

        Raises:
            InvalidParameterError: An unknown name or parameter, or a value that the
                parameter does not take; the field is "metrics.deletion.steps" and the like.
        """
        return cls(name, METRICS.checked(name, parameters))

    @classmethod
    def parse(cls, text: str) -> Self:
        """A metric as its `str` is: "deletion(steps=32, fractions=0.1,0.5)".

        Raises:
            InvalidParameterError: As `of`; or a text of another form.
        """
        name, parameters = specs.metric(text)
        return cls.of(name, **parameters)

    @property
    def higher_is_better(self) -> bool | None:
        """Whether a larger value speaks for the map; None for a newer server's metric."""
        better = _HIGHER_IS_BETTER.get(self.name)
        backwards = self.parameters.get("order") == "least_relevant_first"
        return not better if backwards and better is not None else better


@dataclass(frozen=True)
class MetricInfo:
    """A metric, as one model is scored by it.

    Attributes:
        name: Name to pass among `metrics`.
        summary: One line on what the value is.
        parameters: Of `Metric.of`.
        defaults: The metric with its defaults for this model.
        higher_is_better: Whether a larger value speaks for the map, with the defaults.
        needs_region: Whether it needs `boxes` or a `mask`.
        forward_passes: That it costs by itself with the defaults, the clean picture included.
        source: Where the metric comes from: authors, venue, year.
    """

    name: str
    summary: str
    parameters: tuple[ParameterInfo, ...]
    defaults: Metric
    higher_is_better: bool
    needs_region: bool
    forward_passes: int
    source: str


@dataclass(frozen=True, eq=False)
class Curve:
    """Scores along an erasure; all arrays are read-only.

    Attributes:
        fractions: float32 [points], ascending from 0 to 1: share erased (or put back).
        scores: float32 [points]: probability, or cosine similarity.
        embeddings: float32 [points, embedding_size] of the changed pictures, when asked
            for; of `image` where both pictures are changed.
        partner_embeddings: Of the partner, where both are.
    """

    fractions: FloatArray = field(repr=False)
    scores: FloatArray = field(repr=False)
    embeddings: FloatArray | None = field(repr=False, default=None)
    partner_embeddings: FloatArray | None = field(repr=False, default=None)


@dataclass(frozen=True, eq=False)
class MetricScore:
    """One metric of one side.

    Attributes:
        metric: As it ran, every parameter resolved.
        side: Which picture was changed: "image", "partner" or "both".
        value: None where the metric is undefined for this picture.
        undefined: Why it is; "" when it is not.
        normalized_value: Of deletion and insertion: the area under the scores scaled so
            that the clean picture has 1 and the filled one 0; None where the two are equal.
        curve: Of deletion and insertion.
        clean_score: Of the clean picture; None where nothing was scored.
        masked_score: Under the map (average drop and increase), or of the filled picture.
        class_index: Whose probability the scores are; None for a similarity.
    """

    metric: Metric
    side: str
    value: float | None
    undefined: str = ""
    normalized_value: float | None = None
    curve: Curve | None = None
    clean_score: float | None = None
    masked_score: float | None = None
    class_index: int | None = None

    @property
    def better(self) -> str:
        """Which values speak for the map: "higher", "lower", or "" when unknown."""
        return {True: "higher", False: "lower", None: ""}[self.metric.higher_is_better]


@dataclass(frozen=True, eq=False)
class SaliencyScores:
    """How faithful a map is; draws its curves.

    Attributes:
        scores: Metrics in the order of the call, each for every side in its order.
        target: What the map was scored by, resolved on the clean picture.
        method: What made the map, every parameter resolved; None for a given map.
        image: The picture, as it was sent.
        heatmap: The map that was scored: the method's, or the result that was given as the
            map; None where an array was.
        partner: The same of the partner; None where the partner has no map, too.
        enlargement: How cells became pixels: "nearest", "bilinear" or "bilinear_aligned".
        forward_passes: Changed pictures that the model saw, the clean ones included.
        provenance: Enough to repeat it.
        timing: The server's.
    """

    scores: tuple[MetricScore, ...]
    target: Target | None
    method: Method | None
    image: SentImage
    heatmap: PlacedMap | None
    partner: PlacedMap | None
    enlargement: str
    forward_passes: int
    provenance: Provenance
    timing: Timing

    def __getitem__(self, key: str | tuple[str, str]) -> MetricScore:
        """The first score of a metric, by its name or by (name, side).

        Raises:
            KeyError: There is none.
        """
        name, side = (key, None) if isinstance(key, str) else key
        for score in self.scores:
            if score.metric.name == name and side in (None, score.side):
                return score
        held = ", ".join(f"{score.metric.name} ({score.side})" for score in self.scores)
        raise KeyError(f"no score {key!r}; there are {held}")

    def curves_figure(self, *, size: tuple[int, int] = (720, 460)) -> Image.Image:
        """Plot the curves of deletion and insertion.

        Args:
            size: Width and height of each plot in pixels; metrics stand side by side.

        Returns:
            RGB on white. Each plot says which area is better.

        Raises:
            InvalidParameterError: No metric of the call has a curve.
        """
        return _score_files.curves_figure(self, size)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plots (.png, .jpg), the arrays (.npz) or all numbers (.json).

        An .npz holds `heatmap`, `region` and `image_size` as results do where there is a map,
        and the same of the partner with "partner_" before it; for all scores `metric` and
        `side` (texts), `value`, `normalized_value`, `clean_score` and `masked_score` (float64,
        NaN where None); and of each score with a curve "0_deletion_image_fractions",
        "..._scores" and, when they were asked for, "..._embeddings" and
        "..._partner_embeddings", after the score's number.

        Args:
            path: Overwritten when it exists.

        Raises:
            InvalidParameterError: Another suffix, or plots without a curve.
            OSError: The file cannot be written.
        """
        _score_files.save(self, path)

    def _repr_png_(self) -> bytes | None:
        return _score_files.notebook_png(self)


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings of pictures, whose cosine `pair_similarity` explains.

    Attributes:
        vectors: float32 [pictures, embedding_size], not normalised, read-only; NaN where a
            picture has none.
        failures: Why pictures have none, by their index.
        provenance: Enough to repeat it.
        timing: The server's; of several calls the sums.
    """

    vectors: FloatArray = field(repr=False)
    failures: Mapping[int, PairlensError]
    provenance: Provenance
    timing: Timing

    def __len__(self) -> int:
        return len(self.vectors)
