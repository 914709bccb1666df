"""The measured part of `docs/methods.md`: what the maps agree with, and what they depend on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from methods.figures import PHOTOS, Gallery, partner, query

from pairlens import Explanation, MethodInfo, MethodKind, SimilarTo

YARDSTICK = "occlusion"
_OTHER_CLASSES = ("goldfish", "sombrero", "teapot")
_NO_MAP_OF_ITS_OWN = ("attention_mask", "correspondence")

Measure = Callable[[str, str], float]


def agreement(gallery: Gallery) -> str:
    """Two tables in Markdown, of class targets and of pairs."""
    return "\n\n".join((_of_classes(gallery), _of_partners(gallery)))


def _of_classes(gallery: Gallery) -> str:
    def judged(info: MethodInfo) -> Measure:
        return lambda kind, model: _correlation(
            gallery.explain(kind, model, info.name), gallery.explain(kind, model, YARDSTICK)
        )

    def changed(info: MethodInfo) -> Measure:
        return lambda kind, model: _mean_correlation(
            gallery.explain(kind, model, info.name),
            [gallery.explain(kind, model, info.name, target) for target in _OTHER_CLASSES],
        )

    rows = []
    for info in _methods(gallery, MethodKind.EXPLANATION):
        if info.takes_class or not info.takes_similarity:
            cells = [] if info.name == YARDSTICK else _cells(gallery, info.name, judged(info))
            # Of methods that cost hundreds of passes, it would take many minutes.
            asked = info.takes_class and info.forward_passes < 200
            others = _cells(gallery, info.name, changed(info)) if asked else []
            rows.append((info.name, cells, others))
    return _table("for a class", "another class", list(gallery.models), rows)


def _of_partners(gallery: Gallery) -> str:
    def mine(info: MethodInfo, kind: str, model: str, **parameters: str) -> Explanation:
        return gallery.explain(kind, model, info.name, SimilarTo(partner(kind)), **parameters)

    def judged(info: MethodInfo, **parameters: str) -> Measure:
        return lambda kind, model: _correlation(
            mine(info, kind, model, **parameters),
            gallery.explain(kind, model, YARDSTICK, SimilarTo(partner(kind))),
        )

    def changed(info: MethodInfo, **parameters: str) -> Measure:
        return lambda kind, model: _mean_correlation(
            mine(info, kind, model, **parameters),
            [
                gallery.explain(kind, model, info.name, SimilarTo(path(other)), **parameters)
                for other in PHOTOS
                if other != kind
                for path in (query, partner)
            ],
        )

    rows = []
    for info in _methods(gallery, MethodKind.PAIR):
        if info.name == YARDSTICK:
            continue
        cells = _cells(gallery, info.name, judged(info))
        rows.append((info.name, cells, _cells(gallery, info.name, changed(info))))
    return _table("for a pair", "another partner", list(gallery.models), rows)


def _methods(gallery: Gallery, kind: MethodKind) -> list[MethodInfo]:
    first = next(iter(gallery.models.values()))
    return [m for m in first.methods if m.kind is kind and m.name not in _NO_MAP_OF_ITS_OWN]


def _cells(gallery: Gallery, method: str, measure: Measure) -> list[str]:
    """The three photographs' numbers, for each model."""
    cells = []
    for model in gallery.models:
        given = model in gallery.giving(method)
        numbers = [measure(kind, model) for kind in PHOTOS] if given else []
        cells.append(", ".join(f"{number:.2f}" for number in numbers))
    return cells


def _table(
    corner: str,
    other: str,
    models: Sequence[str],
    rows: Sequence[tuple[str, Sequence[str], Sequence[str]]],
) -> str:
    heads = [f"{what}, {model}" for what in (YARDSTICK, other) for model in models]
    lines = [f"| {corner} | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    for name, *halves in rows:
        cells = [cell for half in halves for cell in (half or [""] * len(models))]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean_correlation(explanation: Explanation, others: Sequence[Explanation]) -> float:
    return float(np.mean([_correlation(explanation, other) for other in others]))


def _correlation(first: Explanation, second: Explanation) -> float:
    """Pearson's, over cells; 0 with a constant map."""
    if first.constant or second.constant:
        return 0.0
    return float(np.corrcoef(first.heatmap.ravel(), second.heatmap.ravel())[0, 1])
