"""The generated parts of `docs/metrics.md`: what the code says about each metric and measure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from methods.page import values_text

from pairlens.evaluation.controls import CONTROL_NAMES, DESCRIPTIONS
from pairlens.evaluation.mosaic_protocol import MEASURES
from pairlens.evaluation.pair_measures import PairOptions, pair_measures
from pairlens.evaluation.records import Measure
from pairlens_server.fidelity.catalogue import METRICS
from pairlens_server.fidelity.copies import Copy
from pairlens_server.fidelity.drops import AverageDrop, AverageIncrease
from pairlens_server.fidelity.erasures import CurveMetric, Deletion, Insertion
from pairlens_server.fidelity.metrics import ErasureMetric, Metric
from pairlens_server.fidelity.parameters import Board
from pairlens_server.fidelity.placing import ErasureOrder, ErasureUnit
from pairlens_server.fidelity.substrates import Substrate
from pairlens_server.methods.parameters import Parameter, Profile

PAGE = Path(__file__).parent.parent / "metrics.md"
BOARD = Board(height=224, width=224, cells=196, black=(0.0, 0.0, 0.0))
"""What ranges and costs are told of: an input of 224 x 224 pixels, a map of 14 x 14 cells."""

_BLOCK = re.compile(r"<!-- generated: (\w+) -->\n(.*?)<!-- end -->", re.DOTALL)
_BETTER = {True: "higher", False: "lower", None: ""}


def catalogue() -> dict[str, type[Metric]]:
    """Every metric by name, in the contract's order."""
    return {metric.name: metric for metric in METRICS}


def filled(page: str) -> str:
    """The page with every generated block as the code has it now.

    Args:
        page: Markdown with blocks between `<!-- generated: NAME -->` and `<!-- end -->`; a
            name is a metric's, or "overview", "sharing", "pairfaith", "mosaics" or "controls".

    Raises:
        KeyError: A block has another name.
    """
    tables = {
        "overview": _overview,
        "sharing": _sharing,
        "pairfaith": lambda: _measures(pair_measures(("blur",))),
        "mosaics": lambda: _measures(MEASURES),
        "controls": _controls,
    }

    def block(found: re.Match[str]) -> str:
        name = found[1]
        text = tables[name]() if name in tables else _metric(catalogue()[name])
        return f"<!-- generated: {name} -->\n{text}\n<!-- end -->"

    return _BLOCK.sub(block, page)


def passes(metrics: Sequence[Metric], pictures: int = 1) -> int:
    """Copies that some metrics take together on `BOARD`, as an answer's `forward_passes` counts.

    Args:
        metrics: Not yet resolved.
        pictures: That are changed; one of a pair's is 1, both are 2.
    """
    copies: set[Copy] = set()
    for metric in metrics:
        resolved = metric.resolve(BOARD, metric.name)
        if isinstance(resolved, ErasureMetric):
            copies |= set(resolved.copies(BOARD))
    return pictures * len(copies)


def _overview() -> str:
    rows = [
        "| metric | the value is | better | passes, `strict` | passes, `reference` | needs |",
        "|---|---|---|---|---|---|",
    ]
    for name, metric in catalogue().items():
        needs = "a box or a mask" if metric.needs_region else ""
        rows.append(
            f"| [`{name}`](#{name}) | {metric.summary} | {_BETTER[metric.higher_is_better]} "
            f"| {_cost(metric, None)} | {_cost(metric, Profile.REFERENCE)} | {needs} |"
        )
    return "\n".join(rows)


def _cost(metric: type[Metric], profile: Profile | None) -> str:
    if not issubclass(metric, ErasureMetric):
        return "0"
    return str(passes([metric(profile)]))


def _sharing() -> str:
    least, blur = ErasureOrder.LEAST_RELEVANT_FIRST, Substrate.BLUR
    fractions = PairOptions().fractions
    morf = Deletion(fractions=fractions, unit=ErasureUnit.CELLS, substrate=blur)
    orders = [morf, replace(morf, order=least)]
    defaults: list[ErasureMetric] = [AverageDrop(), AverageIncrease(), Deletion(), Insertion()]
    reference = [replace(metric, profile=Profile.REFERENCE) for metric in defaults]
    both = "`deletion`, `insertion`"
    asked: list[tuple[str, int]] = [
        ("`average_drop`, `average_increase`", passes(defaults[:2])),
        (f"{both}: mean and blur, the defaults", passes(defaults[2:])),
        (f"{both}, both with `substrate=blur`", passes([Deletion(substrate=blur), Insertion()])),
        (
            f"{both}, both with `substrate=blur`, deletion with `order=least_relevant_first`",
            passes([Deletion(substrate=blur, order=least), Insertion()]),
        ),
        ("all four with their defaults", passes(defaults)),
        ("all four with `profile=reference`", passes(reference)),
        ("a pair, `deletion`, side `image` or `partner`", 1 + passes([Deletion()])),
        ("a pair, `deletion`, sides `image`, `partner` and `both`", passes([Deletion()], 2)),
        (
            f"PairFaith's curves: {len(fractions)} shares, both orders, all three sides",
            passes(orders, 2),
        ),
    ]
    rows = ["| asked for together | passes |", "|---|---|"]
    return "\n".join([*rows, *(f"| {what} | {count} |" for what, count in asked)])


def _metric(metric: type[Metric]) -> str:
    lines = [
        f"{metric.summary[0].upper()}{metric.summary[1:]}.",
        "",
        f"- **Source**: {metric.paper}.",
        f"- **Better**: {_BETTER[metric.higher_is_better]}{_unless(metric)}.",
        f"- **Cost in forward passes**: {_costs(metric)}.",
    ]
    parameters = metric.parameters(BOARD)
    if parameters:
        lines += ["", "| parameter | values | default | |", "|---|---|---|---|"]
        lines += map(_parameter, parameters)
    return "\n".join(lines)


def _unless(metric: type[Metric]) -> str:
    if not issubclass(metric, CurveMetric):
        return ""
    other = _BETTER[not metric.higher_is_better]
    return f"; {other} with `order=least_relevant_first`"


def _costs(metric: type[Metric]) -> str:
    strict, reference = _cost(metric, None), _cost(metric, Profile.REFERENCE)
    if strict == reference:
        return strict
    return f"{strict} under `strict`, {reference} under `reference`"


def _parameter(parameter: Parameter) -> str:
    default = f"`{parameter.default_text}`" if parameter.default_text else "unset"
    return (
        f"| `{parameter.name}` | {values_text(parameter)} | {default} | {parameter.description} |"
    )


def _measures(measures: Sequence[Measure]) -> str:
    rows = ["| measure | | better | chance | |", "|---|---|---|---|---|"]
    for measure in measures:
        chance = "" if measure.chance is None else f"{measure.chance:g}"
        text = measure.description.replace("|", r"\|")
        rows.append(
            f"| `{measure.name}` | {measure.label} | {_BETTER[measure.higher_is_better]} "
            f"| {chance} | {text} |"
        )
    return "\n".join(rows)


def _controls() -> str:
    rows = ["| control | map |", "|---|---|"]
    return "\n".join([*rows, *(f"| `{name}` | {DESCRIPTIONS[name]} |" for name in CONTROL_NAMES)])
