"""What callers ask of the service and what they get, free of any transport."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pairlens.rendering import GridGeometry
from pairlens_server.cache.policy import CachePolicy
from pairlens_server.errors import PairlensError
from pairlens_server.images.render import Rendered, RenderOptions
from pairlens_server.images.sources import ImageSource
from pairlens_server.methods.base import ExplanationMethod, HeadInterrelation, Unit
from pairlens_server.methods.catalogue import PairMethod
from pairlens_server.models.loaded import LoadedModel

Float32Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class ClassTarget:
    """The class that a map explains: an index, a label, or (both None) the predicted class."""

    class_index: int | None = None
    label: str | None = None


@dataclass(frozen=True, eq=False)
class SimilarityTarget:
    """Summed cosine similarity to other pictures.

    Attributes:
        images: Pictures.
        embeddings: float32 [count, embedding_size], or None.
    """

    images: tuple[ImageSource, ...] = ()
    embeddings: Float32Array | None = None


Target = ClassTarget | SimilarityTarget


@dataclass(frozen=True)
class ExplainCommand:
    """One call of Explain.

    Attributes:
        model: Name of a served model.
        image: The picture.
        method: None for the model's default.
        target: None when the caller set no target.
        rendering: None when nothing is to be drawn.
        deadline_s: Event-loop time (`loop.time()`) after which nobody waits; None for never.
        cache: How the cache is used.
        client: Who calls, for fair shares of the device; "" for nobody in particular.
    """

    model: str
    image: ImageSource
    method: ExplanationMethod | None = None
    target: Target | None = None
    rendering: RenderOptions | None = None
    deadline_s: float | None = None
    cache: CachePolicy = CachePolicy.DEFAULT
    client: str = ""


@dataclass(frozen=True)
class PairCommand:
    """One call of PairSimilarity; fields as in `ExplainCommand`.

    Attributes:
        query: The picture that the others are compared with.
        candidates: At least one; an empty file fails alone.
    """

    model: str
    query: ImageSource
    candidates: tuple[ImageSource, ...]
    method: PairMethod | None = None
    rendering: RenderOptions | None = None
    deadline_s: float | None = None
    cache: CachePolicy = CachePolicy.DEFAULT
    client: str = ""


@dataclass(frozen=True)
class WarmCommand:
    """One call of Warm; fields as in `ExplainCommand`.

    Attributes:
        images: At least one; an empty file fails alone.
        methods: Of Explain.
        pair_methods: Of PairSimilarity; neither: the model's default pair method.
    """

    model: str
    images: tuple[ImageSource, ...]
    methods: tuple[ExplanationMethod, ...] = ()
    pair_methods: tuple[PairMethod, ...] = ()
    deadline_s: float | None = None
    cache: CachePolicy = CachePolicy.DEFAULT
    client: str = ""


@dataclass(frozen=True)
class Timings:
    """Where the time of a call went, in seconds; see `Timing` in `common.proto`."""

    total_s: float = 0.0
    decode_s: float = 0.0
    queue_s: float = 0.0
    compute_s: float = 0.0
    method_s: float = 0.0
    render_s: float = 0.0
    cached_images: int = 0
    images: int = 0
    cache_s: float = 0.0


@dataclass(frozen=True)
class ResolvedTarget:
    """What a map explains, with the model's own view of it.

    Attributes:
        class_index: 0-based; None for a similarity.
        label: "" when the model has no labels.
        logit: Of that class.
        probability: Softmax over all classes, in [0, 1].
        similarities: Cosine to each picture of the target, then to each of its embeddings.
    """

    class_index: int | None = None
    label: str = ""
    logit: float = 0.0
    probability: float = 0.0
    similarities: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class PanelOutcome:
    """One of several maps; fields as in `Panel` of the methods and in `ExplainOutcome`."""

    heatmap: Float32Array
    geometry: GridGeometry
    rendered: Rendered | None
    block: int | None
    head: int | None
    unit: int | None
    mask: BoolArray | None


@dataclass(frozen=True, eq=False)
class ExplainOutcome:
    """What a method found in one picture.

    Attributes:
        model: The model that ran.
        heatmap: float32 [rows, columns], unnormalised.
        geometry: Where its cells lie on the original picture.
        method: Resolved.
        target: None for methods that take none.
        rendered: None when nothing was asked for.
        panels, mask, units, interrelations, keypoints: See `Findings` of the methods.
        relevance_drift, completeness_error, bias_share, prefix_share: See `Diagnostics` of
            the contract.
    """

    model: LoadedModel
    heatmap: Float32Array
    geometry: GridGeometry
    method: ExplanationMethod
    target: ResolvedTarget | None
    rendered: Rendered | None
    timings: Timings
    panels: tuple[PanelOutcome, ...] = ()
    mask: BoolArray | None = None
    units: tuple[Unit, ...] = ()
    interrelations: tuple[HeadInterrelation, ...] = ()
    keypoints: NDArray[np.int64] | None = None
    relevance_drift: float | None = None
    completeness_error: float | None = None
    bias_share: float | None = None
    prefix_share: float | None = None


@dataclass(frozen=True)
class SideMap:
    """One picture's side of a pair: heatmap float32 [rows, columns] and what lies outside it."""

    heatmap: Float32Array
    geometry: GridGeometry
    bias_share: float
    prefix_share: float
    rendered: Rendered | None


@dataclass(frozen=True)
class PairMatch:
    """A query and one candidate; match_matrix float32 [query cells, candidate cells] or None."""

    similarity: float
    query: SideMap
    candidate: SideMap
    match_matrix: Float32Array | None


@dataclass(frozen=True)
class PairOutcome:
    """One result for each candidate, in order: a match, or the error of that candidate alone."""

    model: LoadedModel
    results: tuple[PairMatch | PairlensError, ...]
    method: PairMethod
    timings: Timings


@dataclass(frozen=True)
class WarmOutcome:
    """For each picture whether everything was there already, or its error alone."""

    results: tuple[bool | PairlensError, ...]
    timings: Timings
