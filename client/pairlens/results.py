"""Explanations of single pictures, and what all answers share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pairlens.models import Method
from pairlens.placed import MaskedMap
from pairlens.rendering import FloatArray

_UNSET = -1
"""Stands for an unset number where arrays are written."""


@dataclass(frozen=True)
class Target:
    """What a map explains: a class, or the similarity to other pictures.

    Attributes:
        class_index: 0-based; None for a similarity target.
        label: "" when the model has no labels, or for a similarity target.
        logit: Of that class; None for a similarity target.
        probability: Softmax over all classes, in [0, 1]; None for a similarity target.
        similarities: Of a similarity target: cosine to each of its pictures, then to each
            of its embeddings, in [-1, 1]. Empty for a class.
    """

    class_index: int | None = None
    label: str = ""
    logit: float | None = None
    probability: float | None = None
    similarities: tuple[float, ...] = ()

    @property
    def score(self) -> float | None:
        """The class's probability, or the sum of the similarities.

        The map explains the class's logit, or that sum.
        """
        return sum(self.similarities) if self.similarities else self.probability

    def __str__(self) -> str:
        if self.similarities:
            count = len(self.similarities)
            return f"similarity to {count} {'picture' if count == 1 else 'pictures'}"
        return f"{self.class_index} {self.label}".strip()


@dataclass(frozen=True)
class Provenance:
    """Where an answer came from: enough to repeat it.

    Attributes:
        model: Name of the model.
        model_fingerprint: As in `ModelInfo`.
        method, method_revision: What ran; the revision changes whenever its numbers do.
        preprocessing_digest: Hash of the preprocessing settings (hex).
        dtype: What the model computed in; the method's own arithmetic is float32.
        device: "cpu", "cuda:0" and the like.
        server_version: Version of the server.
    """

    model: str
    model_fingerprint: str
    method: str
    method_revision: int
    preprocessing_digest: str
    dtype: str
    device: str
    server_version: str


@dataclass(frozen=True)
class Timing:
    """Where the server's time went, in seconds.

    Stages of different pictures overlap, so the parts need not add up to the total.

    Attributes:
        total_s: All of it.
        decode_s: Decoding and preprocessing pictures.
        queue_s: Longest wait of any of the pictures for the device.
        compute_s: Longest time on the device of any of the pictures; 0 when all
            activations were cached.
        method_s: Turning activations into maps.
        render_s: Drawing and encoding.
        cached_images: Pictures whose activations were all cached.
        images: All pictures of the call.
        cache_s: Waiting for the cache that several servers share.
        request_id: Of the call, by which the server's log knows it; "" when several calls
            gave one answer together, and from servers that tell none.
    """

    total_s: float
    decode_s: float
    queue_s: float
    compute_s: float
    method_s: float
    render_s: float
    cached_images: int
    images: int
    cache_s: float = 0.0
    request_id: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Panel(MaskedMap):
    """One of several maps of an answer; the map as in `PlacedMap`.

    Attributes:
        block, head, unit: What the map is of, 0-based; None where that does not apply.
    """

    block: int | None = None
    head: int | None = None
    unit: int | None = None

    @property
    def title(self) -> str:
        """What the map is of, in words: "block 3, head 0"."""
        parts = {"block": self.block, "head": self.head, "unit": self.unit}
        return ", ".join(f"{name} {value}" for name, value in parts.items() if value is not None)


@dataclass(frozen=True)
class Unit:
    """A hidden unit of a block's MLP.

    Attributes:
        unit: Its number, 0-based.
        strength: Mean of its activation over patches.
    """

    unit: int
    strength: float


@dataclass(frozen=True)
class HeadInterrelation:
    """How one head relates patches with keypoints (K) and without (N).

    Attributes:
        block, head: 0-based.
        kk, kn: Share of keypoints, and of the others, in what patches with keypoints
            attend to, in [0, 1]; None where the picture has no such patch.
        nk, nn: The same for patches without keypoints.
        focus_index: Entropy of the min-max scaled rows, in nats: larger is broader.
    """

    block: int
    head: int
    kk: float | None
    kn: float | None
    nk: float | None
    nn: float | None
    focus_index: float


@dataclass(frozen=True)
class Diagnostics:
    """How far the numbers can be trusted; None where a method has no such number.

    Attributes:
        relevance_drift: Of transformer_attribution: largest distance from 1 of the relevance
            that reaches a block; near 0 where the rules keep it, 1 where it vanished.
        completeness_error: Sum of all attributions less what they should sum to.
        bias_share, prefix_share: Of pooled_decomposition: parts of the summed similarity that
            are in no cell; with the map's cells they sum to it under profile strict.
    """

    relevance_drift: float | None = None
    completeness_error: float | None = None
    bias_share: float | None = None
    prefix_share: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation(MaskedMap):
    """Where a model looks in one picture; the map as in `PlacedMap`.

    Attributes:
        target: What is explained; None for methods that take none.
        method: As it ran, every parameter resolved.
        provenance: Enough to repeat it.
        timing: The server's.
        panels: Further maps: of heads, blocks, units or masks; see the method.
        units: The strongest hidden units, the strongest first.
        interrelations: Every head of every block.
        keypoints: int64 [rows, columns], SIFT keypoints in each patch, read-only; or None.
        diagnostics: How far the numbers can be trusted.
    """

    target: Target | None
    method: Method
    provenance: Provenance
    timing: Timing
    panels: tuple[Panel, ...] = field(repr=False, default=())
    units: tuple[Unit, ...] = field(repr=False, default=())
    interrelations: tuple[HeadInterrelation, ...] = field(repr=False, default=())
    keypoints: npt.NDArray[np.int64] | None = field(repr=False, default=None)
    diagnostics: Diagnostics = Diagnostics()

    @property
    def score(self) -> float | None:
        """Probability of the target's class, or sum of its similarities; None without one."""
        return None if self.target is None else self.target.score

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        """As in `PlacedMap.save`, and what else the answer holds.

        `panels` is float32 [count, rows, columns] with `panel_block`, `panel_head` and
        `panel_unit` (-1 where unset) and `panel_masks`; `interrelations` is float64 [count, 7]
        of block, head, kk, kn, nk, nn (NaN where None) and the focus index; `units` is
        float64 [count, 2].
        """
        arrays = super()._arrays()
        if self.panels:
            arrays |= _stacked([panel.heatmap for panel in self.panels])
            for name in ("block", "head", "unit"):
                numbers = [getattr(panel, name) for panel in self.panels]
                arrays[f"panel_{name}"] = np.array([_UNSET if n is None else n for n in numbers])
            masks = [panel.mask for panel in self.panels if panel.mask is not None]
            if len(masks) == len(self.panels) and "panels" in arrays:
                arrays["panel_masks"] = np.stack(masks)
        if self.units:
            arrays["units"] = np.array([(unit.unit, unit.strength) for unit in self.units])
        if self.interrelations:
            rows = [
                (h.block, h.head, h.kk, h.kn, h.nk, h.nn, h.focus_index)
                for h in self.interrelations
            ]
            arrays["interrelations"] = np.array(rows, np.float64)
        if self.keypoints is not None:
            arrays["keypoints"] = self.keypoints
        return arrays


def _stacked(maps: list[FloatArray]) -> dict[str, npt.NDArray[Any]]:
    """All maps as one array; each for itself where their grids differ."""
    if len({values.shape for values in maps}) == 1:
        return {"panels": np.stack(maps)}
    return {f"panel_{index}": values for index, values in enumerate(maps)}
