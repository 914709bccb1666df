"""Evaluate every method on the demo models, and write the page of results.

    python docs/evaluate_methods.py --data CALTECH101/test --work DIR   # runs or goes on; hours
    python docs/evaluate_methods.py --text                              # the page, from its numbers

The first command needs a server with the demo models (`pairlens-server`). It leaves journals
and reports in DIR, and in docs/faithfulness/ the tables and plots that the page shows.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pairlens import Client
from pairlens.evaluation import (
    Evaluation,
    evaluate_images,
    evaluate_mosaics,
    evaluate_pair_mosaics,
    evaluate_pairs,
)
from pairlens.evaluation.plots import write_plots
from pairlens.evaluation.report import write_report

DOCS = Path(__file__).resolve().parent
PAGE = DOCS / "faithfulness.md"
RESULTS = DOCS / "faithfulness"

_DECOMPOSITIONS = (
    "pooled_decomposition(redistribution=rollout)",
    "pooled_decomposition(profile=reference)",
    "pooled_decomposition(profile=paper)",
    "pooled_decomposition(redistribution=none)",
)
_GRADIENTS = (
    "affinity",
    "grad_cam",
    "grad_cam(rule=libra)",
    "x_grad_cam",
    "layer_cam",
    "full_grad",
)
PAIRS_OF_A_VIT = (
    *_DECOMPOSITIONS,
    *_GRADIENTS,
    "le_grad",
    "attention_relevance",
    "transformer_attribution",
    "occlusion",
)
PAIRS_OF_A_CNN = ("pooled_decomposition", *_GRADIENTS, "integrated_gradients", "occlusion")
PAIR_SETTINGS: dict[str, Any] = {
    "fractions": (0.1, 0.2, 0.3, 0.5, 0.7),
    "substrates": ("mean", "blur"),
}
METRICS = "average_drop, average_increase, deletion(steps=16), insertion(steps=16)"


@dataclass(frozen=True)
class Run:
    """One evaluation of the page.

    Attributes:
        name: Of its files.
        evaluate: Of `pairlens.evaluation`.
        model: Of the demo.
        methods: Rows, besides the controls.
        limit: Pictures, queries or mosaics.
        settings: Further arguments.
    """

    name: str
    evaluate: Callable[..., Evaluation]
    model: str
    methods: str | Sequence[str]
    limit: int
    settings: dict[str, Any] = field(default_factory=dict)


RUNS = (
    Run("resnet-images", evaluate_images, "demo-resnet", "all", 60, {"metrics": METRICS}),
    Run("resnet-pairs", evaluate_pairs, "demo-resnet", PAIRS_OF_A_CNN, 60, PAIR_SETTINGS),
    Run("vit-pairs", evaluate_pairs, "demo-vit", PAIRS_OF_A_VIT, 30, PAIR_SETTINGS),
    Run("resnet-pair-mosaics", evaluate_pair_mosaics, "demo-resnet", PAIRS_OF_A_CNN, 120),
    Run("vit-pair-mosaics", evaluate_pair_mosaics, "demo-vit", PAIRS_OF_A_VIT, 40),
    Run("resnet-mosaics", evaluate_mosaics, "demo-resnet", "all", 60),
    Run("vit-images", evaluate_images, "demo-vit", "all", 30, {"metrics": METRICS}),
    Run("vit-mosaics", evaluate_mosaics, "demo-vit", "all", 30),
)


def run(client: Client, chosen: Run, data: Path, work: Path) -> None:
    """Run an evaluation, or what is left of it, and keep its table and its forest plot."""
    directory = work / chosen.name
    evaluation = chosen.evaluate(
        client,
        data,
        model=chosen.model,
        methods=chosen.methods,
        directory=directory,
        limit=chosen.limit,
        concurrency=2,
        **chosen.settings,
    )
    keep(evaluation, chosen.name, directory)


def keep(evaluation: Evaluation, name: str, directory: Path) -> None:
    """Write the report, and what the page shows."""
    write_report(evaluation, directory / "report.html")
    write_plots(evaluation, directory)
    RESULTS.mkdir(exist_ok=True)
    document = evaluation.document()
    document["better_than_best_control"] = _against_control(evaluation)
    text = json.dumps(document, indent=1, allow_nan=False)
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    shutil.copy(directory / "headline.png", RESULTS / f"{name}.png")


def _against_control(evaluation: Evaluation) -> dict[str, Any]:
    """Paired difference by the headline of each method to the best control: [mean, low, high]."""
    measured = [row for row in evaluation.ranked() if evaluation.records_of(row.name)]
    controls = [row.name for row in measured if row.control]
    if not controls:
        return {}
    found = {}
    for row in measured:
        if not row.control:
            difference = evaluation.difference(row.name, controls[0])
            found[row.name] = [difference.mean, difference.low, difference.high]
    return {"control": controls[0], "differences": found}


@dataclass(frozen=True)
class Column:
    """A column of a table of the page.

    Attributes:
        title: Of the column, with an arrow to what is better.
        run: Whose results; one that has not run leaves the column empty.
        measure: Of that run.
        interval: Whether its interval is shown.
    """

    title: str
    run: str
    measure: str
    interval: bool = True


def _pair_columns(model: str) -> tuple[Column, ...]:
    return (
        Column("SRG, mean ↑", f"{model}-pairs", "srg"),
        Column("SRG, blur ↑", f"{model}-pairs", "srg:blur"),
        Column("specificity ↑", f"{model}-pairs", "specificity"),
        Column("recall@1 change ↓", f"{model}-pairs", "rank_drop"),
        Column("completeness error ↓", f"{model}-pairs", "completeness", interval=False),
        Column("mosaic energy ↑", f"{model}-pair-mosaics", "energy"),
    )


def _image_columns(model: str) -> tuple[Column, ...]:
    return (
        Column("insertion ↑", f"{model}-images", "insertion(steps=16)"),
        Column("deletion ↓", f"{model}-images", "deletion(steps=16)"),
        Column("average drop ↓", f"{model}-images", "average_drop"),
        Column("average increase ↑", f"{model}-images", "average_increase"),
        Column("mosaic energy ↑", f"{model}-mosaics", "energy"),
    )


TABLES = {
    "resnet pairs": _pair_columns("resnet"),
    "vit pairs": _pair_columns("vit"),
    "resnet images": _image_columns("resnet"),
    "vit images": _image_columns("vit"),
}


def results(name: str) -> dict[str, Any]:
    """What a run came to; an empty table before it has run."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return {"table": [], "hash": ""}
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def table(columns: tuple[Column, ...]) -> str:
    """A table of the page: methods by the first column, then controls."""
    found = {name: results(name) for name in dict.fromkeys(column.run for column in columns)}
    by_row = {
        name: {line["row"]: line for line in document["table"]} for name, document in found.items()
    }
    rows: dict[str, bool] = {}
    for lines in by_row.values():
        for row, line in lines.items():
            rows.setdefault(row, bool(line["control"]))
    lines = [
        "| | " + " | ".join(column.title for column in columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    for row in sorted(rows, key=lambda name: rows[name]):
        cells = [_cell(by_row[column.run].get(row), column) for column in columns]
        if any(cells):
            name = f"*{row}*" if rows[row] else f"`{row}`"
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    counts = ", ".join(
        f"{name}: {max((line['cases'] for line in document['table']), default=0)} cases "
        f"(configuration {document['hash']})"
        for name, document in found.items()
    )
    return "\n".join([*lines, "", f"{counts}."])


def _cell(line: dict[str, Any] | None, column: Column) -> str:
    if line is None or line.get(column.measure) is None:
        return ""
    mean, measure = line[column.measure], column.measure
    if not column.interval or line.get(f"{measure}.low") is None:
        return _short(mean)
    return f"{_short(mean)} [{_short(line[f'{measure}.low'])}, {_short(line[f'{measure}.high'])}]"


def _short(value: float) -> str:
    text = f"{value:.3f}" if abs(value) < 10 else f"{value:.0f}"
    return "0.000" if text == "-0.000" else text


def write_page() -> None:
    """Put the tables into the page, between their marks."""
    text = PAGE.read_text(encoding="utf-8")
    for name, columns in TABLES.items():
        mark = re.compile(rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        made = table(columns)
        text, count = mark.subn(lambda found, made=made: f"{found[1]}{made}\n{found[2]}", text)
        if count != 1:
            raise ValueError(f"the page has {count} marks for {name}")
    PAGE.write_text(text, encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="class folders")
    parser.add_argument("--work", type=Path, help="folder for journals and reports")
    parser.add_argument("--server", default="localhost:50051", help="with the demo models")
    parser.add_argument("--only", nargs="*", choices=[run.name for run in RUNS], help="some runs")
    parser.add_argument("--text", action="store_true", help="write the page alone")
    arguments = parser.parse_args()
    if arguments.text:
        write_page()
        return
    if arguments.data is None or arguments.work is None:
        parser.error("--data and --work are needed (or --text)")
    with Client(arguments.server) as client:
        for chosen in RUNS:
            if not arguments.only or chosen.name in arguments.only:
                run(client, chosen, arguments.data, arguments.work)


if __name__ == "__main__":
    main()
