"""The cells of the support table: what to call for each, and what its answer must hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pairlens.v1 import methods_pb2, model_service_pb2
from tests.contract.support import Stubs, noise_png, tensor, values

Array = np.ndarray

EXPLANATION = model_service_pb2.METHOD_KIND_EXPLANATION

# Fewer points than the default, which shows nothing more here.
_OPTIONS: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"steps": 4},
    "hidden_unit": {"strongest": 2},
}
_EVERYWHERE = {"left": 0, "top": 0, "right": 1000, "bottom": 1000}

_ROUNDING = 1e-5
_NO_LESS_THAN_0 = (0.0, np.inf)
_PART = (-_ROUNDING, 1 + _ROUNDING)
# As the contract has it, by the method of Explain or of PairSimilarity.
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("raw_attention", "raw_power", "rollout", "semantic_attention"), _PART),
    **dict.fromkeys(("raw_log",), (-np.inf, _ROUNDING)),
    **dict.fromkeys(("attention_mask",), _PART),
    **dict.fromkeys(
        ("key_norm", "attention_relevance", "transformer_attribution"), _NO_LESS_THAN_0
    ),
    **dict.fromkeys(("le_grad", "grad_cam", "grad_cam_plus_plus", "x_grad_cam"), _NO_LESS_THAN_0),
    **dict.fromkeys(("layer_cam", "score_cam"), _NO_LESS_THAN_0),
    **dict.fromkeys(("affinity",), (-1 - _ROUNDING, 1 + _ROUNDING)),
}


@dataclass(frozen=True, eq=False)
class Cell:
    """One call of Explain: a method of a model, with a kind of target that it takes.

    Attributes:
        model: Of the zoo.
        method: Name in the contract.
        target: "class", "similarity" or "none".
        vector: An embedding of the model, for "similarity".
    """

    model: str
    method: str
    target: str
    vector: Array

    def __str__(self) -> str:
        return f"{self.model} {self.method} ({self.target})"

    def ask(self, server: Stubs, picture: bytes, class_index: int = 1, **fields: Any) -> Any:
        target: dict[str, Any] | None = None
        if self.target == "class":
            target = {"class_index": class_index}
        elif self.target == "similarity":
            target = {"similarity": {"embeddings": tensor(self.vector[None])}}
        method = {self.method: _OPTIONS.get(self.method, {})}
        return server.explain(self.model, picture, method=method, target=target, **fields)


def picture(info: model_service_pb2.ModelInfo, seed: int) -> bytes:
    """A picture of the model's own size, so that preprocessing leaves it as it is."""
    return noise_png(seed, info.input_height, info.input_width)


def cells(info: model_service_pb2.ModelInfo) -> Iterator[Cell]:
    """Every supported method of Explain, with every kind of target that it takes."""
    vector = np.random.default_rng(0).standard_normal(info.embedding_size)
    for method in info.methods:
        if method.kind != EXPLANATION or method.refusal:
            continue
        targets = [
            *(["class"] if method.takes_class and info.classes else []),
            *(["similarity"] if method.takes_similarity else []),
        ]
        for target in targets or ["none"]:
            yield Cell(info.name, method.name, target, vector)


def pair_method(name: str) -> methods_pb2.PairMethod:
    """A method of PairSimilarity, quick, and of the whole picture where it takes a region."""
    options = _OPTIONS.get(name, {})
    if name == "correspondence":
        options = {"query_region": _EVERYWHERE}
    return methods_pb2.PairMethod(**{name: options})


def flaws(name: str, answer: Any, info: model_service_pb2.ModelInfo) -> list[str]:
    """What is wrong with an answer or with one side of a pair, whatever the numbers are."""
    found = []
    heatmap, geometry = values(answer), answer.heatmap.geometry
    if heatmap.shape != (geometry.rows, geometry.columns):
        found.append(f"shape {heatmap.shape}, geometry {geometry.rows} x {geometry.columns}")
    # Hidden units lie on the grid of their stage.
    if name != "hidden_unit" and heatmap.shape != (info.grid_rows, info.grid_columns):
        found.append(f"shape {heatmap.shape}, model {info.grid_rows} x {info.grid_columns}")
    region = (geometry.region.right, geometry.region.bottom)
    if not np.allclose(region, (info.input_width, info.input_height), atol=1e-3):
        found.append(f"region {region}")
    if not np.isfinite(heatmap).all():
        found.append("not finite")
    low, high = RANGES.get(name, (-np.inf, np.inf))
    if heatmap.min() < low or heatmap.max() > high:
        found.append(f"{heatmap.min()} to {heatmap.max()}, not {low} to {high}")
    if (answer.heatmap.min, answer.heatmap.max) != (heatmap.min(), heatmap.max()):
        found.append("its range is told wrong")
    if answer.heatmap.constant != (heatmap.min() == heatmap.max()):
        found.append("whether it is flat is told wrong")
    return found


def unbalanced(name: str, answer: Any) -> list[str]:
    """What does not add up in an answer whose parts sum to the score."""
    told, target = answer.diagnostics, answer.target
    score = sum(target.similarities) if target.similarities else target.logit
    if name == "full_grad":
        # Its default takes LibraGrad's gradients where they have a rule: everywhere here.
        off = told.completeness_error
    elif name == "pooled_decomposition":
        off = float(values(answer).sum()) + told.bias_share + told.prefix_share - score
    else:
        return []
    if abs(off) > 1e-4 * max(1.0, abs(score)):
        return [f"{off} off from the score {score}"]
    return []


def differ(first: Array, second: Array) -> bool:
    """Whether two maps differ by more than a thousandth of what they hold."""
    scale = max(np.abs(first).max(), np.abs(second).max())
    return bool(np.abs(first - second).max() > 1e-3 * scale)


def reacts(ask: Callable[[int, int], Array], attempts: int) -> bool:
    """Whether a map depends on the picture: flat ones are tried with others, and other classes.

    Args:
        ask: The map of a picture by number, of a class.
        attempts: Pictures and classes to try.
    """
    for attempt in range(attempts):
        index = (1 + attempt) % 5
        first, second = ask(2 * attempt, index), ask(2 * attempt + 1, index)
        if first.min() == first.max() or second.min() == second.max():
            continue
        if differ(first, second):
            return True
    return False
