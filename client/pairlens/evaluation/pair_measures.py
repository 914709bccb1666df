"""The settings and the numbers of PairFaith, and how to read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pairlens.errors import InvalidParameterError
from pairlens.evaluation.pair_scores import MINIMUM_SPAN
from pairlens.evaluation.protocol import CurveInfo
from pairlens.evaluation.records import Measure

SIDES = ("image", "partner", "both")
RANK_FRACTION = 0.2
HEADLINE = "srg"
DEFAULT_FRACTIONS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.7, 0.9)
DEFAULT_SUBSTRATES = ("mean", "blur", "noisy_linear")
SUBSTRATES = ("blur", "mean", "black", "noise", "noisy_linear")


@dataclass(frozen=True)
class PairOptions:
    """Settings of PairFaith.

    Attributes:
        seed: Of the order of the queries and of the random control.
        fractions: Shares of cells that are erased, in (0, 1); 0.2 is always among them.
        substrates: What stands for erased cells, of `SUBSTRATES`; curves and areas are of
            each; ranks, contrast and specificity are of the first.
        timeout: Seconds for each call; None for the client's.

    Raises:
        InvalidParameterError: A value out of range.
    """

    seed: int = 0
    fractions: tuple[float, ...] = DEFAULT_FRACTIONS
    substrates: tuple[str, ...] = DEFAULT_SUBSTRATES
    timeout: float | None = None

    def __post_init__(self) -> None:
        if not self.fractions or not all(0 < fraction < 1 for fraction in self.fractions):
            raise InvalidParameterError(
                f"fractions lie between 0 and 1, not {self.fractions}", field="fractions"
            )
        known = set(self.substrates) <= set(SUBSTRATES)
        if not known or not self.substrates or len(set(self.substrates)) < len(self.substrates):
            raise InvalidParameterError(
                f"substrates are of {', '.join(SUBSTRATES)}, each once; not {self.substrates}",
                field="substrates",
            )
        fractions = sorted({*self.fractions, RANK_FRACTION})
        object.__setattr__(self, "fractions", tuple(fractions))


_PLACES = {"image": "query", "partner": "partner", "both": "both pictures"}
_NORMALISED = (
    "with s = (cosine - floor) / (clean - floor); clean: the cosine of the unchanged pair; "
    "floor: with {filled}"
)
_SPAN = f" Undefined where clean - floor is below {MINIMUM_SPAN:g}."
_BOTH = (
    " Filling makes two pictures alike whatever they show, so that this curve rises towards its "
    "end; srg is of one picture at a time for that reason."
)
_FILLED = {
    "image": "all of the query filled",
    "partner": "all of the partner filled",
    "both": "one of the two all filled, mean of the two ways",
}


def suffixed(name: str, substrates: Sequence[str], substrate: str) -> str:
    """Name of a number under a substrate: the first one's is not said."""
    return name if substrate == substrates[0] else f"{name}:{substrate}"


def pair_measures(substrates: Sequence[str]) -> tuple[Measure, ...]:
    """All measures, the most telling first.

    Args:
        substrates: What stands for erased cells, the first one's measures unsuffixed.
    """
    areas = [measure for substrate in substrates for measure in _areas(substrates, substrate)]
    return (areas[0], *_pair_only(), *areas[1:])


def pair_curves(substrates: Sequence[str]) -> tuple[CurveInfo, ...]:
    """All curves, normalised as the areas are."""
    return tuple(
        CurveInfo(
            suffixed(f"{order}.{side}", substrates, substrate),
            f"{title} erased first, {_PLACES[side]} ({substrate})",
            "share of cells erased",
            "cosine (1: clean, 0: floor)",
            higher_is_better=order == "lerf",
        )
        for substrate in substrates
        for side in SIDES
        for order, title in (("morf", "Most relevant"), ("lerf", "Least relevant"))
    )


def _areas(substrates: Sequence[str], substrate: str) -> Iterator[Measure]:
    fill = "" if substrate == substrates[0] else f", {substrate}"
    yield Measure(
        suffixed(HEADLINE, substrates, substrate),
        f"SRG{fill}",
        "Area under the normalised cosine while the least relevant cells are erased first, less "
        "that while the most relevant are: of the query's cells, and of the partner's, mean of "
        f"the two; 0 for a map without knowledge.{_SPAN}",
        higher_is_better=True,
        chance=0.0,
    )
    for side in SIDES:
        place = _PLACES[side]
        where = f"{place}{fill}"
        scale = _NORMALISED.format(filled=_FILLED[side])

        def named(name: str, side: str = side) -> str:
            return suffixed(f"{side}.{name}", substrates, substrate)

        yield Measure(
            named("srg"),
            f"SRG ({where})",
            "Area under s while the least relevant cells are erased first, less that while the "
            f"most relevant are ({place}), {scale}.{_SPAN}" + (_BOTH if side == "both" else ""),
            higher_is_better=True,
            chance=0.0,
        )
        yield Measure(
            named("del_auc"),
            f"Deletion AUC ({where})",
            f"Area under s over the share of cells erased, most relevant first ({place}), "
            f"{scale}.{_SPAN}",
            higher_is_better=False,
        )
        yield Measure(
            named("ins_auc"),
            f"Insertion AUC ({where})",
            "Area under s over the share of cells put back on the filled picture, most relevant "
            f"first ({place}), {scale}. With the most relevant f put back the least relevant 1 - f "
            f"are erased: it is the curve of least relevant first read from its end.{_SPAN}",
            higher_is_better=True,
        )


def _pair_only() -> tuple[Measure, ...]:
    return (
        Measure(
            "specificity",
            "Pair specificity",
            "contrast of the map for the nearest picture p of the query's class less contrast of "
            "the map for the second nearest, in cosine; 0 for a map that ignores its partner.",
            higher_is_better=True,
            chance=0.0,
        ),
        Measure(
            "contrast",
            "Contrast",
            "Area (over the share of query cells erased, most relevant first) of the loss of "
            "cosine to p, less that of the loss of cosine to the most similar picture of "
            "another class.",
            higher_is_better=True,
        ),
        Measure(
            "rank_drop",
            "Recall@1 change",
            "Recall@1 of the query in the whole data set with its most relevant 20 % of cells "
            "erased, less that with a random 20 % erased: -1, 0 or 1 of a query, a difference of "
            "shares in the mean; negative: the map found what retrieval needs.",
            higher_is_better=False,
            chance=0.0,
        ),
        Measure(
            "completeness",
            "Completeness error",
            "|sum of the query's cells + bias share + prefix share - cosine|: 0 for a map whose "
            "cells are shares of the cosine, which not every method aims at; undefined for "
            "controls.",
            higher_is_better=False,
        ),
        Measure(
            "partner_correlation",
            "Partner correlation",
            "Spearman correlation of the query's maps for p and for the second nearest: 1 for a "
            "map that ignores its partner. A diagnostic.",
        ),
    )
