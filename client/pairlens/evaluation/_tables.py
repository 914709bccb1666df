"""The table of an evaluation: as dictionaries, on a console, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pairlens.evaluation.records import Measure

if TYPE_CHECKING:
    from pairlens.evaluation.results import Evaluation
    from pairlens.evaluation.statistics import Interval

_ARROWS = {True: " ↑", False: " ↓", None: ""}
_NAME_WIDTH, _CASES_WIDTH, _CELL_WIDTH, _PADDING = 48, 12, 24, 2


def table(evaluation: Evaluation) -> list[dict[str, Any]]:
    """See `Evaluation.table`."""
    failed: dict[str, int] = {}
    for record in evaluation.failures:
        failed[record.row] = failed.get(record.row, 0) + 1
    lines = []
    for row in evaluation.ranked():
        line: dict[str, Any] = {
            "row": row.name,
            "control": row.control,
            "refusal": row.refusal,
            "cases": len(evaluation.records_of(row.name)),
            "failed": failed.get(row.name, 0),
        }
        for measure in evaluation.measures:
            interval = evaluation.interval(row.name, measure.name)
            line[measure.name] = interval.mean
            line[f"{measure.name}.low"] = interval.low
            line[f"{measure.name}.high"] = interval.high
            line[f"{measure.name}.count"] = interval.count
        lines.append(line)
    return lines


def write_csv(evaluation: Evaluation, path: Path) -> None:
    """See `Evaluation.write_csv`."""
    lines = table(evaluation)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def document(evaluation: Evaluation) -> dict[str, Any]:
    """See `Evaluation.document`."""
    return {
        "protocol": evaluation.protocol,
        "title": evaluation.title,
        "hash": evaluation.hash,
        "configuration": evaluation.configuration,
        "complete": evaluation.complete,
        "cases": evaluation.planned,
        "headline": evaluation.headline,
        "bootstrap": asdict(evaluation.bootstrap),
        "measures": [asdict(measure) for measure in evaluation.measures],
        "table": table(evaluation),
        "failures": [
            {"row": record.row, "case": record.case, "error": record.error}
            for record in evaluation.failures
        ],
        "skipped": [asdict(file) for file in evaluation.skipped],
    }


def write_json(evaluation: Evaluation, path: Path) -> None:
    """See `Evaluation.write_json`."""
    text = json.dumps(document(evaluation), indent=1, allow_nan=False, ensure_ascii=False)
    path.write_text(text + "\n", "utf-8")


def console(evaluation: Evaluation, width: int | None) -> str:
    """See `Evaluation.console`."""
    columns = width or shutil.get_terminal_size().columns
    ranked = [row for row in evaluation.ranked() if not row.refusal]
    names = [f"{row.name} (control)" if row.control else row.name for row in ranked]
    measures = _fitting(evaluation, names, columns)
    made = Table(box=box.SIMPLE_HEAD)
    made.add_column("", overflow="fold", max_width=_NAME_WIDTH)
    made.add_column("cases", justify="right")
    for measure in measures:
        made.add_column(measure.label + _ARROWS[measure.higher_is_better], justify="right")
    for row, name in zip(ranked, names, strict=True):
        made.add_row(
            Text(name),
            str(len(evaluation.records_of(row.name))),
            *(_cell(evaluation.interval(row.name, measure.name)) for measure in measures),
        )
    stream = io.StringIO()
    printer = Console(file=stream, width=columns, highlight=False, markup=False)
    printer.print(f"{evaluation.title} (configuration {evaluation.hash})")
    printer.print(made)
    for line in _notes(evaluation, measures):
        printer.print(line)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def _fitting(evaluation: Evaluation, names: list[str], columns: int) -> list[Measure]:
    """The headline, and as many other measures as there is room for."""
    left = columns - min(max(map(len, names), default=0), _NAME_WIDTH) - _CASES_WIDTH
    ordered = sorted(evaluation.measures, key=lambda item: item.name != evaluation.headline)
    shown: list[Measure] = []
    for measure in ordered:
        left -= max(len(measure.label) + 2, _CELL_WIDTH) + _PADDING
        if shown and left < 0:
            break
        shown.append(measure)
    return shown


def _cell(interval: Interval) -> str:
    if interval.mean is None:
        return "undefined"
    return f"{interval.mean:.4f} [{interval.low:.4f}, {interval.high:.4f}]"


def _notes(evaluation: Evaluation, measures: list[Measure]) -> list[str]:
    """How to read the columns, and what is not in the table."""
    level = round(100 * evaluation.bootstrap.level)
    better = {True: " Higher is better.", False: " Lower is better.", None: ""}
    lines = [f"Mean over cases [{level} % bootstrap interval, stratified by class]."]
    lines += [
        f"{measure.label}: {measure.description}{better[measure.higher_is_better]}"
        + ("" if measure.chance is None else f" Chance: {measure.chance:g}.")
        for measure in measures
    ]
    more = len(evaluation.measures) - len(measures)
    if more:
        lines.append(f"Measures that do not fit here: {more}; see the report and table.csv.")
    lines += [f"{row.name}: refused, {row.refusal}" for row in evaluation.rows if row.refusal]
    if not evaluation.complete:
        failed = f", {len(evaluation.failures)} failed" if evaluation.failures else ""
        lines.append(f"Not complete: {len(evaluation.records)} records{failed}.")
    return lines
