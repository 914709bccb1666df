"""The support table of docs/support.md, from what the networks of the zoo say of themselves.

python -m tests.conformance.table     # writes docs/support.md
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pairlens_server.errors import MethodUnsupportedError
from pairlens_server.methods.affinity import Affinity
from pairlens_server.methods.attention import (
    KeyNorm,
    RawAttention,
    RawLog,
    RawPower,
    RawScores,
    ScoresTimesKeyNorm,
)
from pairlens_server.methods.attention_mask import AttentionMask
from pairlens_server.methods.base import ExplanationMethod, Method
from pairlens_server.methods.cam import GradCam, GradCamPlusPlus, LayerCam, ScoreCam, XGradCam
from pairlens_server.methods.catalogue import EXPLANATION_METHODS, PAIR_METHODS
from pairlens_server.methods.correspondence import Correspondence
from pairlens_server.methods.full_grad import FullGrad
from pairlens_server.methods.hidden_unit import HiddenUnit
from pairlens_server.methods.masking import MaskSource
from pairlens_server.methods.perturbation import IntegratedGradients, Occlusion
from pairlens_server.methods.relevance import AttentionRelevance, LeGrad, TransformerAttribution
from pairlens_server.methods.rollout import Rollout
from pairlens_server.methods.semantic_attention import SemanticAttention
from pairlens_server.methods.similarity import PooledDecomposition, Redistribution
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.primitives import GradientRule
from tests.support import zoo_model, zoo_recorder
from tests.zoo import zoo

PATH = Path(__file__).resolve().parents[2] / "docs" / "support.md"

# Of the networks of a column each says the same.
ONE_GRID: dict[str, tuple[str, ...]] = {
    "ViT, class token": ("vit", "deit", "deit3", "dino"),
    "ViT, mean pooled": ("vit-avg", "vit-avg-fcnorm"),
    "ViT, max pooled": ("vit-max",),
    "ViT with registers": ("vit-registers",),
    "DeiT, distilled": ("deit-distilled",),
    "CLIP": ("clip", "clip-quickgelu"),
    "SigLIP": ("siglip",),
    "DINOv2": ("dinov2", "dinov2-registers"),
    "DINOv3": ("dinov3",),
    "EVA-02": ("eva", "eva02"),
    "DINOv3, EVA-02, class token": ("eva02-token", "dinov3-token"),
}
OTHERS: dict[str, tuple[str, ...]] = {
    "ConViT": ("convit",),
    "XCiT": ("xcit",),
    "PiT": ("pit", "pit-distilled"),
    "CoaT": ("coat",),
    "CoaT-Lite": ("coat-lite",),
    "Swin": ("swin", "swinv2"),
    "Twins": ("twins-pcpvt", "twins-svt"),
    "ConvNeXt": ("convnext", "convnextv2"),
    "ResNet": ("resnet", "resnet-max"),
    "BiT": ("resnetv2",),
}

# A method, or one of its options with its name in the table.
Row = type[Method] | tuple[str, Method]

GROUPS: dict[str, tuple[Row, ...]] = {
    "Attention": (
        *(RawAttention, RawScores, RawLog, RawPower, KeyNorm, ScoresTimesKeyNorm),
        Rollout,
    ),
    "Relevance": (AttentionRelevance, TransformerAttribution, LeGrad),
    "Class activation maps": (
        *(GradCam, GradCamPlusPlus, XGradCam, LayerCam, ScoreCam, FullGrad),
        ("… with `rule` libra", GradCam(rule=GradientRule.LIBRA)),
    ),
    "Perturbation": (IntegratedGradients, Occlusion),
    "Features": (HiddenUnit,),
    "Semantic attention": (SemanticAttention,),
    "Masks": (
        AttentionMask,
        ("… with `source` rollout", AttentionMask(source=MaskSource.ROLLOUT)),
    ),
    "Similarity and pairs": (
        PooledDecomposition,
        (
            "… with `redistribution` rollout",
            PooledDecomposition(redistribution=Redistribution.ROLLOUT),
        ),
        Correspondence,
        Affinity,
    ),
}

_TITLE = "# Which model gives which method"
_INTRODUCTION = """
`python -m tests.conformance.table` writes this page from the models' own answers, the same that
GetModel gives; one test compares the two, another calls every cell. A tick is a method that
runs. A number is the reason why it does not, word for word as the call is refused with
METHOD_UNSUPPORTED. Rows are names of the contract (`protos/pairlens/v1/methods.proto`).
PairSimilarity also takes {shared}, wherever Explain does. What counts is how a model is
loaded: under another pooling a family answers as models of that pooling do. Classes need a
class head; methods that explain a similarity, too, run without one.
"""

_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass
class Footnotes:
    """Reasons in the order of their first use."""

    texts: list[str] = field(default_factory=list)

    def mark(self, text: str) -> str:
        """A tick, or the number of a reason."""
        if not text:
            return "✓"
        if text not in self.texts:
            self.texts.append(text)
        return "\N{EN DASH}" + str(self.texts.index(text) + 1).translate(_SUPERSCRIPTS)


def support_table() -> str:
    """The whole document."""
    notes = Footnotes()
    introduction = _INTRODUCTION.format(shared=_listed(_shared_methods()))
    lines = [_TITLE, "", *textwrap.wrap(introduction.strip(), 100, break_on_hyphens=False), ""]
    for title, columns in (
        ("Transformers of one grid", ONE_GRID),
        ("Other transformers, and convolutional networks", OTHERS),
    ):
        lines += [f"## {title}", "", *_table(columns, notes), ""]
    lines += ["## Reasons", ""]
    lines += [f"{number}. {text}" for number, text in enumerate(notes.texts, 1)]
    return "\n".join(lines) + "\n"


def refusal(row: Row, facts: ModelFacts) -> str:
    """Why a model cannot give a row, or ""."""
    if isinstance(row, type):
        return row.refusal(facts)
    _, method = row
    if method.refusal(facts):
        return method.refusal(facts)
    try:
        method.resolve(facts)
    except MethodUnsupportedError as error:
        return error.message
    return ""


def _rows() -> list[type[Method]]:
    return [row for rows in GROUPS.values() for row in rows if isinstance(row, type)]


def _shared_methods() -> list[str]:
    """Methods of PairSimilarity that are rows as methods of Explain."""
    return [
        method.name
        for method in PAIR_METHODS
        if issubclass(method, ExplanationMethod) and method.takes_class
    ]


def _listed(names: Sequence[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    return f"{', '.join(quoted[:-1])} and {quoted[-1]}"


def _table(columns: dict[str, tuple[str, ...]], notes: Footnotes) -> Iterable[str]:
    yield _line(["", *columns])
    yield _line(["---", *[":-:"] * len(columns)])
    yield _line(["pooling", *map(_poolings, columns.values())])
    for group, rows in GROUPS.items():
        yield _line([f"**{group}**", *[""] * len(columns)])
        for row in rows:
            title = f"`{row.name}`" if isinstance(row, type) else row[0]
            cells = []
            for names in columns.values():
                texts = {refusal(row, zoo_recorder(name).facts) for name in names}
                assert len(texts) == 1, f"{names} do not agree on {title}: {texts}"
                cells.append(notes.mark(*texts))
            yield _line([title, *cells])


def _poolings(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(zoo_model(name).pooling for name in names))


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def uncovered() -> tuple[set[str], set[str]]:
    """Networks of the zoo and methods of the catalogue that the table leaves out."""
    shown = {name for columns in (ONE_GRID, OTHERS) for names in columns.values() for name in names}
    methods = {method.name for method in (*EXPLANATION_METHODS, *PAIR_METHODS)}
    return set(zoo()) - shown, methods - {row.name for row in _rows()}


if __name__ == "__main__":
    PATH.write_text(support_table(), encoding="utf-8")
