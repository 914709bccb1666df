"""The figures of `docs/methods.md`, each asked of a running server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from methods.sheet import Cell, around_zero, drawn, enlarged, fitted, masked, sheet, sides, span
from PIL import Image

from pairlens import (
    Box,
    Client,
    Explanation,
    MethodKind,
    ModelInfo,
    PairMatch,
    SimilarTo,
    attention_figure,
    panel_grid,
)
from pairlens_server.demo.pairs import PICTURES

PHOTOS = {
    "lamp": ("lamp-2.jpg", "lamp-1.jpg"),
    "pigeon": ("pigeon-2.jpg", "pigeon-1.jpg"),
    "stegosaurus": ("stegosaurus-1.jpg", "stegosaurus-2.jpg"),
}
"""The three photographs, and another one of the same kind of thing."""

# In pixels of the photographs: the shade, the head, the plates on the back.
REGIONS = {
    "lamp": Box(15, 5, 145, 98),
    "pigeon": Box(145, 0, 198, 45),
    "stegosaurus": Box(50, 5, 195, 65),
}
VIT = "demo-vit"
HEIGHT, PAIR_HEIGHT, SMALL_HEIGHT = 240, 150, 130

Figure = Callable[["Gallery"], Image.Image]
Parameters = dict[str, Any]


def query(kind: str) -> Path:
    """The photograph of a kind of thing that all figures show."""
    return PICTURES / PHOTOS[kind][0]


def partner(kind: str) -> Path:
    """The other photograph of that kind."""
    return PICTURES / PHOTOS[kind][1]


class Gallery:
    """Asks the server for what the figures show."""

    def __init__(self, client: Client):
        self._client = client
        self.models: dict[str, ModelInfo] = {m.name: m for m in client.list_models()}

    def giving(self, method: str, kind: MethodKind = MethodKind.EXPLANATION) -> list[str]:
        """Models that support a method."""
        return [name for name, model in self.models.items() if model.supports(method, kind)]

    def explain(
        self,
        kind: str,
        model: str,
        method: str,
        target: str | SimilarTo | None = None,
        **parameters: Any,
    ) -> Explanation:
        """Explain the photograph of a kind."""
        return self._client.explain(
            query(kind), model=model, method=method, target=target, **parameters
        )

    def match(self, kind: str, model: str, method: str, parameters: Parameters) -> PairMatch:
        """Explain the pair of a kind."""
        result = self._client.pair_similarity(
            query(kind), partner(kind), model=model, method=method, **parameters
        )[0]
        if not isinstance(result, PairMatch):
            raise result.error
        return result


def photographs(gallery: Gallery) -> Image.Image:
    """The photographs, plain: those of all figures above those that they are paired with."""
    rows = [
        [
            Cell(enlarged(Image.open(PICTURES / names[row]), 180), (names[row],))
            for names in PHOTOS.values()
        ]
        for row in (0, 1)
    ]
    return sheet(rows)


def _said(explanation: Explanation, kind: str, note: str) -> tuple[str, ...]:
    """Caption: photograph and model; target, if there is one; range of the values."""
    lines = [f"{kind}, {explanation.provenance.model}{note}"]
    target = explanation.target
    if target is not None and target.probability is not None:
        lines.append(f"{target.label.split(',')[0]}, p = {target.probability:.2f}")
    return (*lines, span(explanation))


def of_photographs(
    gallery: Gallery, method: str, *variants: Parameters, signed: bool = False
) -> Image.Image:
    """One row of the three photographs for each model that gives a method.

    Args:
        gallery: Who is asked.
        method: Of Explain.
        *variants: Parameters, of a row each on the ViT; the other models take the defaults.
        signed: Put zero in the middle of the colour scale.
    """
    rows = []
    for model in gallery.giving(method):
        for parameters in variants if variants and model == VIT else ({},):
            words = "".join(f", {value}" for value in parameters.values())
            row = []
            for kind in PHOTOS:
                found = gallery.explain(kind, model, method, **parameters)
                ends = around_zero(found) if signed else None
                row.append(Cell(drawn(found, HEIGHT, ends), _said(found, kind, words)))
            rows.append(row)
    return sheet(rows)


def of_pairs(gallery: Gallery, method: str) -> Image.Image:
    """One row of the three pairs for each model that gives a method."""
    rows = []
    for model in gallery.giving(method, MethodKind.PAIR):
        row: list[Cell] = []
        for kind in PHOTOS:
            match = gallery.match(kind, model, method, {})
            row += sides(match, PAIR_HEIGHT, (model, f"cosine {match.similarity:.2f}"))
        rows.append(row)
    return sheet(rows)


def correspondence(gallery: Gallery) -> Image.Image:
    """What in the other photograph matches an outlined region."""
    rows = []
    for model in gallery.giving("correspondence", MethodKind.PAIR):
        row: list[Cell] = []
        for kind, region in REGIONS.items():
            match = gallery.match(kind, model, "correspondence", {"query_region": region})
            row += sides(match, PAIR_HEIGHT, (model, "what matches"))
        rows.append(row)
    return sheet(rows)


def pair_profiles(gallery: Gallery) -> Image.Image:
    """The pair decomposition in its three profiles, STRICT without rollout and with it."""
    variants: dict[str, Parameters] = {
        "strict": {},
        "strict, rollout": {"redistribution": "rollout"},
        "reference": {"profile": "reference"},
        "paper": {"profile": "paper"},
    }
    rows = []
    for words, parameters in variants.items():
        row: list[Cell] = []
        for kind in PHOTOS:
            match = gallery.match(kind, VIT, "pooled_decomposition", parameters)
            row += sides(match, PAIR_HEIGHT, (words, f"sum {match.candidate.sum:.3f}"))
        rows.append(row)
    return sheet(rows)


def class_similarity(gallery: Gallery) -> Image.Image:
    """One map for a whole gallery: the four photographs of the other kinds."""
    rows = []
    for model in gallery.giving("pooled_decomposition"):
        row = []
        for kind in PHOTOS:
            others = [path(k) for k in PHOTOS if k != kind for path in (query, partner)]
            found = gallery.explain(kind, model, "pooled_decomposition", SimilarTo(others))
            lines = (f"{kind}, {model}", f"4 cosines, sum {found.score:.2f}", span(found))
            row.append(Cell(drawn(found, HEIGHT), lines))
        rows.append(row)
    return sheet(rows)


def similarity_targets(gallery: Gallery) -> Image.Image:
    """Every method that explains a pair without splitting its similarity, on one pair.

    The gradients of two pictures have different sizes, so that each side has its own colours.
    """
    rows = []
    for info in gallery.models[VIT].methods:
        split = ("pooled_decomposition", "correspondence", "affinity")
        if info.kind is not MethodKind.PAIR or info.name in split:
            continue
        row: list[Cell] = []
        for model in gallery.giving(info.name, MethodKind.PAIR):
            match = gallery.match("stegosaurus", model, info.name, {})
            row += sides(match, SMALL_HEIGHT, (info.name, model), shared=False)
        rows.append(row)
    return sheet(rows)


def masks(gallery: Gallery) -> Image.Image:
    """Masks that hide what is attended most, and least."""
    rows = []
    for selection in ("high", "low"):
        row = []
        for kind in PHOTOS:
            found = gallery.explain(kind, VIT, "attention_mask", selection=selection)
            assert found.mask is not None
            hidden = f"{found.mask.sum()} of {found.mask.size} patches hidden"
            row.append(Cell(masked(found, HEIGHT), (f"{kind}, {VIT}, {selection}", hidden)))
        rows.append(row)
    return sheet(rows)


def hidden_units(gallery: Gallery) -> Image.Image:
    """The strongest hidden unit of the last block for each photograph."""
    row = []
    for kind in PHOTOS:
        found = gallery.explain(kind, VIT, "hidden_unit")
        best = found.units[0]
        lines = (f"{kind}, {VIT}", f"unit {best.unit}, mean {best.strength:.2f}", span(found))
        row.append(Cell(drawn(found, HEIGHT), lines))
    return sheet([row])


def panels(kind: str, method: str, **parameters: Any) -> Figure:
    """All further maps of an answer, as the SDK draws them."""

    def draw(gallery: Gallery) -> Image.Image:
        return fitted(panel_grid(gallery.explain(kind, VIT, method, **parameters)))

    return draw


def simple(method: str, *variants: Parameters, signed: bool = False) -> Figure:
    """A figure of `of_photographs`."""
    return lambda gallery: of_photographs(gallery, method, *variants, signed=signed)


def curves(gallery: Gallery) -> Image.Image:
    """All that semantic attention finds in one photograph."""
    return fitted(attention_figure(gallery.explain("stegosaurus", VIT, "semantic_attention")))


_RULES: tuple[Parameters, ...] = ({"rule": "plain"}, {"rule": "libra"})
_PROFILES: tuple[Parameters, ...] = ({"profile": "strict"}, {"profile": "reference"})

FIGURES: dict[str, Figure] = {
    "photographs": photographs,
    "raw_attention": simple("raw_attention"),
    "raw_attention-heads": panels("pigeon", "raw_attention", each="block_and_head"),
    "raw_scores": simple("raw_scores"),
    "raw_log": simple("raw_log"),
    "raw_power": simple("raw_power"),
    "key_norm": simple("key_norm"),
    "key_norm-blocks": panels("stegosaurus", "key_norm", each="block"),
    "scores_times_key_norm": simple("scores_times_key_norm"),
    "rollout": simple("rollout", *_PROFILES),
    "attention_relevance": simple("attention_relevance"),
    "transformer_attribution": simple("transformer_attribution"),
    "le_grad": simple("le_grad"),
    "grad_cam": simple("grad_cam", *_RULES),
    "grad_cam_plus_plus": simple("grad_cam_plus_plus"),
    "x_grad_cam": simple("x_grad_cam", *_RULES),
    "layer_cam": simple("layer_cam"),
    "score_cam": simple("score_cam"),
    "full_grad": simple("full_grad", signed=True),
    "integrated_gradients": simple("integrated_gradients", signed=True),
    "occlusion": simple("occlusion", signed=True),
    "hidden_unit": hidden_units,
    "hidden_unit-strongest": panels("pigeon", "hidden_unit"),
    "semantic_attention": simple("semantic_attention"),
    "semantic_attention-curves": curves,
    "attention_mask": masks,
    "pooled_decomposition": lambda gallery: of_pairs(gallery, "pooled_decomposition"),
    "pooled_decomposition-profiles": pair_profiles,
    "pooled_decomposition-gallery": class_similarity,
    "affinity": lambda gallery: of_pairs(gallery, "affinity"),
    "correspondence": correspondence,
    "pairs": similarity_targets,
}
"""By the file's name without its suffix."""
