"""Run all benchmarks, print a table, write bench-results.json."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tests.benchmark.engine_rows import pair_rows
from tests.benchmark.measure import Row
from tests.benchmark.memory_rows import memory_rows
from tests.benchmark.method_rows import batch_rows, linear_head_rows, score_cam_rows, vit_rows
from tests.benchmark.score_rows import score_memory_rows, score_rows


def _shown(value: float, unit: str) -> str:
    return f"{value * 1000:.3g} ms" if unit == "s" else f"{value:.3g} {unit}"


def show(rows: list[Row], console: Console) -> None:
    """Print the table."""
    table = Table(title="pairlens benchmarks: medians of interleaved runs")
    for heading in ("benchmark", "ours", "baseline", "ratio", "aim", "holds"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        bound = "≤" if row.better == "lower" else "≥"
        table.add_row(
            row.name,
            _shown(row.ours, row.unit),
            _shown(row.baseline, row.unit),
            f"{row.ratio:.3g}",
            f"{bound} {row.aim:g}",
            "yes" if row.holds else "NO",
        )
    console.print(table)


def main() -> None:
    """Command line: `python -m tests.benchmark [--quick] [--out FILE]`."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmark", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few repeats; noisier ratios")
    parser.add_argument("--out", type=Path, default=Path("bench-results.json"))
    arguments = parser.parse_args()
    repeats = 7 if arguments.quick else 31
    console = Console()
    rows: list[Row] = []
    with Progress(console=Console(stderr=True)) as progress:
        suites = (
            vit_rows,
            batch_rows,
            linear_head_rows,
            score_cam_rows,
            score_rows,
            pair_rows,
            memory_rows,
            score_memory_rows,
        )
        task = progress.add_task("benchmarks", total=len(suites))
        for suite in suites:
            rows += suite(repeats)
            progress.advance(task)
    show(rows, console)
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    arguments.out.write_text(json.dumps([row.as_dict() for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
