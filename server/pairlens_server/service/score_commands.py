"""What callers of ScoreSaliency and Embed ask for and get, free of any transport."""

from __future__ import annotations

from dataclasses import dataclass

from pairlens.rendering import GridGeometry
from pairlens_server.cache.policy import CachePolicy
from pairlens_server.errors import PairlensError
from pairlens_server.fidelity.copies import Side
from pairlens_server.fidelity.localisation import RegionOfInterest
from pairlens_server.fidelity.metrics import Metric
from pairlens_server.fidelity.placing import Enlargement, Extent
from pairlens_server.images.sources import ImageSource
from pairlens_server.methods.base import ExplanationMethod
from pairlens_server.methods.catalogue import PairMethod
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.service.commands import Float32Array, ResolvedTarget, Target, Timings


@dataclass(frozen=True, eq=False)
class GivenHeatmap:
    """A map from the caller.

    Attributes:
        values: float32 [rows, columns], of any value.
        extent: What it lies on; None for by its shape.
    """

    values: Float32Array
    extent: Extent | None = None


@dataclass(frozen=True)
class ScoreCommand:
    """One call of ScoreSaliency; fields as in `ScoreSaliencyRequest`.

    Attributes:
        heatmap, method, pair_method: Exactly one of them is set.
        metrics: Not yet resolved.
        deadline_s: Event-loop time after which nobody waits; None for never.
    """

    model: str
    image: ImageSource
    metrics: tuple[Metric, ...]
    heatmap: GivenHeatmap | None = None
    method: ExplanationMethod | None = None
    pair_method: PairMethod | None = None
    target: Target | None = None
    partner_heatmap: GivenHeatmap | None = None
    sides: tuple[Side, ...] = ()
    enlargement: Enlargement = Enlargement.BILINEAR
    region: RegionOfInterest | None = None
    return_embeddings: bool = False
    deadline_s: float | None = None
    cache: CachePolicy = CachePolicy.DEFAULT
    client: str = ""


@dataclass(frozen=True, eq=False)
class ScoredCurve:
    """A curve with what its copies' embeddings were; fields as in `Curve` of the contract."""

    fractions: Float32Array
    scores: Float32Array
    embeddings: Float32Array | None = None
    partner_embeddings: Float32Array | None = None


@dataclass(frozen=True, eq=False)
class MetricOutcome:
    """A metric of one side; fields as in `MetricResult` of the contract."""

    metric: Metric
    side: Side
    value: float | None
    undefined: str = ""
    normalized_value: float | None = None
    curve: ScoredCurve | None = None
    clean_score: float | None = None
    masked_score: float | None = None
    class_index: int | None = None


@dataclass(frozen=True, eq=False)
class ScoredMap:
    """A map that a method gave: float32 [rows, columns], unnormalised."""

    values: Float32Array
    geometry: GridGeometry


@dataclass(frozen=True, eq=False)
class ScoreOutcome:
    """Answer of one call of ScoreSaliency; fields as in `ScoreSaliencyResponse`.

    Attributes:
        method: Resolved, or None for a given map.
        heatmap, partner_heatmap: Of a method; None for given ones.
    """

    model: LoadedModel
    results: tuple[MetricOutcome, ...]
    target: ResolvedTarget
    method: ExplanationMethod | None
    pair_method: PairMethod | None
    heatmap: ScoredMap | None
    partner_heatmap: ScoredMap | None
    enlargement: Enlargement
    forward_passes: int
    timings: Timings


@dataclass(frozen=True)
class EmbedCommand:
    """One call of Embed; an empty file fails alone."""

    model: str
    images: tuple[ImageSource, ...]
    deadline_s: float | None = None
    cache: CachePolicy = CachePolicy.DEFAULT
    client: str = ""


@dataclass(frozen=True, eq=False)
class EmbedOutcome:
    """For each picture its embedding, float32 [embedding_size], or its own error."""

    model: LoadedModel
    results: tuple[Float32Array | PairlensError, ...]
    timings: Timings
