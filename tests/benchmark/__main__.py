"""Run benchmarks, print a table, write bench-results.json."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tests.benchmark.measure import Row
from tests.benchmark.suites import GPU_SUITES, SUITES, Suite


def show(rows: Sequence[Row], console: Console) -> None:
    """Print the table."""
    table = Table(title="pairlens benchmarks: medians of interleaved runs")
    for heading in ("benchmark", "ours", "baseline", "ratio", "aim", "holds"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(
            f"{row.name}\n[dim]{row.note}[/dim]" if row.note else row.name,
            row.shown(row.ours),
            row.shown(row.baseline),
            f"{row.ratio:.3g}",
            row.shown_aim,
            {True: "yes", False: "NO", None: ""}[row.holds],
        )
    console.print(table)


def machine() -> dict[str, Any]:
    """What the numbers were taken on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _suites(only: Sequence[str] | None) -> dict[str, Suite]:
    every = {**SUITES, **(GPU_SUITES if torch.cuda.is_available() else {})}
    return every if only is None else {name: every[name] for name in only}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmark", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of each; noisier ratios")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(_suites(None)),
        metavar="NAME",
        help="suites to run: " + ", ".join(_suites(None)),
    )
    parser.add_argument("--out", type=Path, default=Path("bench-results.json"))
    return parser.parse_args()


def main() -> None:
    """Command line: `python -m tests.benchmark [--quick] [--only NAME ...] [--out FILE]`."""
    arguments = _arguments()
    console = Console()
    rows: list[Row] = []
    lines = []
    seconds: dict[str, float] = {}
    with Progress(console=Console(stderr=True)) as progress:
        suites = _suites(arguments.only)
        task = progress.add_task("", total=len(suites))
        for name, suite in suites.items():
            progress.update(task, description=name)
            started = time.perf_counter()
            found = suite(arguments.quick)
            seconds[name] = round(time.perf_counter() - started, 1)
            rows += found
            lines += [{"suite": name, **row.as_dict()} for row in found]
            progress.advance(task)
    show(rows, console)
    circumstances = machine()
    console.print(", ".join(f"{name} {value}" for name, value in circumstances.items()))
    document = {
        "machine": circumstances,
        "quick": arguments.quick,
        "seconds": seconds,
        "rows": lines,
    }
    arguments.out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
