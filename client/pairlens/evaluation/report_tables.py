"""The tables and lists of a report."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from pairlens.evaluation._plot_parts import looks
from pairlens.evaluation._standing import Standing
from pairlens.evaluation.plots import better, in_order
from pairlens.evaluation.records import Measure, Row
from pairlens.evaluation.report_page import details, table
from pairlens.evaluation.results import Evaluation

PEER, UNPROVEN = "≈", "†"
_FOLDED, _LISTED = 20, 500  # lines of a list that are seen at once, and at all


def anchor(evaluation: Evaluation, row: Row) -> str:
    """Where the cases of a row are: names of rows are no valid ids."""
    return f"row-{[other.name for other in evaluation.rows].index(row.name) + 1}"


def ranking(evaluation: Evaluation, standings: Mapping[str, Standing | None]) -> str:
    """All rows against all measures.

    Args:
        evaluation: What is shown.
        standings: By measure.
    """
    rows = in_order(evaluation)
    lines = {line["row"]: line for line in evaluation.table()}
    digits = {measure.name: _digits(measure, lines) for measure in evaluation.measures}
    bodies = {False: [], True: []}  # type: dict[bool, list[str]]
    for place, row in enumerate(rows, 1):
        cells = [
            _cell(evaluation, lines[row.name], measure, standings[measure.name], digits)
            for measure in evaluation.measures
        ]
        bodies[row.control].append(_line(evaluation, lines[row.name], row, place, cells))
    parts = [
        '<div class="scroll"><table class="ranking">',
        "<caption>All rows by all measures.</caption>",
        f"<thead><tr>{_heads(evaluation)}</tr></thead>",
    ]
    for control, body in bodies.items():
        if body:
            kind = ' class="controls"' if control else ""
            parts += [f"<tbody{kind}>", *body, "</tbody>"]
    return "\n".join([*parts, "</table></div>"])


def _heads(evaluation: Evaluation) -> str:
    fixed = (
        '<th scope="col" class="short number">#</th><th scope="col" class="name">Row</th>'
        '<th scope="col" class="short number">Cases</th>'
    )
    heads = []
    for measure in evaluation.measures:
        kind = " headline" if measure.name == evaluation.headline else ""
        heads.append(
            f'<th scope="col" class="number{kind}" title="{escape(measure.description)}">'
            f"{escape(measure.label)}{arrow(measure)}</th>"
        )
    return fixed + "".join(heads)


def arrow(measure: Measure) -> str:
    """An arrow in the direction of better numbers, after a name; HTML."""
    if measure.higher_is_better is None:
        return ""
    sign = "↑" if measure.higher_is_better else "↓"
    return f'&nbsp;<span title="{better(measure.higher_is_better)}">{sign}</span>'


def breakable(name: str) -> str:
    """The name of a row as HTML that breaks between its parameters."""
    return re.sub(r"(\(|, |=)", r"\1<wbr>", escape(name))


def _line(
    evaluation: Evaluation, line: Mapping[str, Any], row: Row, place: int, cells: Sequence[str]
) -> str:
    look = looks(in_order(evaluation))[row.name]
    color = "#{:02x}{:02x}{:02x}".format(*look.color)
    shown = look.shape is not None
    key = f'<span class="key" style="background:{color}"></span>' if shown else ""
    failed = f'<span class="interval">{line["failed"]} failed</span>' if line["failed"] else ""
    about = f' title="{escape(row.description)}"' if row.description else ""
    return (
        f'<tr><td class="number">{"" if row.control else place}</td>'
        f'<th scope="row" class="name"{about}>{key}<a href="#{anchor(evaluation, row)}">'
        f"{breakable(row.name)}</a></th>"
        f'<td class="number">{line["cases"]}{failed}</td>{"".join(cells)}</tr>'
    )


def _cell(
    evaluation: Evaluation,
    line: Mapping[str, Any],
    measure: Measure,
    found: Standing | None,
    digits: Mapping[str, int],
) -> str:
    name, row, places = measure.name, line["row"], digits[measure.name]
    kind = "number headline" if name == evaluation.headline else "number"
    if line[name] is None:
        none = "undefined" if line["cases"] else ""
        return f'<td class="{kind}">&ndash;<span class="interval">{none}</span></td>'
    marks = ""
    if found is not None:
        marks = (PEER if row in found.peers else "") + (UNPROVEN if row in found.unproven else "")
    best = " best" if found is not None and row == found.best else ""
    low, high = line[f"{name}.low"], line[f"{name}.high"]
    ends = "" if low is None or high is None else f"[{_fixed(low, places)}, {_fixed(high, places)}]"
    missing = line["cases"] - line[f"{name}.count"]
    undefined = f'<span class="interval">{missing} undefined</span>' if missing else ""
    return (
        f'<td class="{kind}"><span class="value{best}">{_fixed(line[name], places)}</span>'
        f'<span class="mark">{marks}</span><span class="interval">{ends}</span>{undefined}</td>'
    )


def _fixed(value: float, digits: int) -> str:
    """Fixed decimals with a true minus sign, as wide as a plus; no negative zero."""
    text = f"{value:.{digits}f}" if digits else f"{value:.1e}"
    return text.replace("-", "" if float(text) == 0 else "\N{MINUS SIGN}")


def _digits(measure: Measure, lines: Mapping[str, Mapping[str, Any]]) -> int:
    """Decimals of a column: three for shares, and as many as large or small numbers need.

    0 stands for powers of ten.
    """
    values = [abs(line[measure.name]) for line in lines.values() if line.get(measure.name)]
    largest = max(values, default=1.0)
    if largest < 1e-4:
        return 0
    return next(
        places
        for above, places in ((100, 1), (10, 2), (0.1, 3), (0.01, 4), (0, 5))
        if largest >= above
    )


def glossary(evaluation: Evaluation) -> str:
    """What each measure is."""
    parts = ['<dl class="glossary">']
    for measure in evaluation.measures:
        end = better(measure.higher_is_better) or "neither end is better"
        chance = "" if measure.chance is None else f"; by chance {measure.chance:g}"
        parts.append(
            f"<dt>{escape(measure.label)}{arrow(measure)} "
            f'<span class="faint">({escape(end)}{chance}; <code>{escape(measure.name)}</code>)'
            f"</span></dt><dd>{escape(measure.description)}</dd>"
        )
    return "\n".join([*parts, "</dl>"])


def left_out(evaluation: Evaluation) -> list[str]:
    """Refused rows, failed cases and skipped files: a table of each kind that there is."""
    refused = [(row.name, row.refusal) for row in evaluation.rows if row.refusal]
    failed = [(f"{record.row}: {record.case}", record.error) for record in evaluation.failures]
    skipped = [(file.path, file.reason) for file in evaluation.skipped]
    again = "Cases without values, by row. Running the evaluation again tries them again."
    return [
        *_reasons("Row", refused, "Rows that the model cannot give."),
        *_reasons("Row and case", failed, again),
        *_reasons("File", skipped, "Files of the data set that no case could use."),
    ]


def _reasons(what: str, lines: Sequence[tuple[str, str]], caption: str) -> list[str]:
    """A table, folded when it is long and cut when it is very long; nothing without lines."""
    if not lines:
        return []
    more = f" The first {_LISTED} of {len(lines)}." if len(lines) > _LISTED else ""
    made = table((what, "Why"), lines[:_LISTED], caption + more)
    return [made if len(lines) <= _FOLDED else details(f"{len(lines)} lines: {caption}", made)]


def configuration(evaluation: Evaluation) -> str:
    """Everything that changes the numbers, folded."""
    text = json.dumps(evaluation.configuration, indent=2, sort_keys=True, ensure_ascii=False)
    return details("Configuration as JSON", f"<pre>{escape(text)}</pre>")
