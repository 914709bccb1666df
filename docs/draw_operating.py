"""Draw docs/operating/: `python -m docs.draw_operating --work DIR`, from the top folder.

Runs two replicas with the demo models, a Redis and a Prometheus through ten minutes of what happens
in production, then draws every panel of deploy/grafana/pairlens.json from Prometheus' answers, as
Grafana would, and takes pictures of Prometheus' own pages. Where DIR has the data of an earlier
run it is drawn again. Needs the Debian packages prometheus and chromium.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import matplotlib as mpl
import matplotlib.pyplot as plt

from docs.operating_page.charts import Watch, drawn
from docs.operating_page.scenario import phases_of, played, played_before
from tests.prometheus_server import PrometheusProcess

ROOT = Path(__file__).resolve().parents[1]
DASHBOARD = ROOT / "deploy" / "grafana" / "pairlens.json"
PICTURES = ROOT / "docs" / "operating"

_GRID = 24
_INCHES = 13.0
_LINE_INCHES = 0.31  # of the grid's lines, of which a graph takes eight
_DPI = 110
_BROWSER = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-first-run"),
    "--virtual-time-budget=15000",
)
_BROWSER_TIMEOUT_S = 120

Json = dict[str, Any]


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for the data")
    work = parser.parse_args().work.resolve()
    mpl.use("Agg")
    PICTURES.mkdir(exist_ok=True)
    if (work / "phases.json").exists():
        with played_before(work) as prometheus:
            draw_dashboard(prometheus, work)
            photograph_graph(prometheus, phases_of(work)[-1].end_s)
        return
    work.mkdir(parents=True, exist_ok=True)
    with played(work) as prometheus:
        draw_dashboard(prometheus, work)
        photograph_graph(prometheus, phases_of(work)[-1].end_s)
        photograph_alerts(prometheus)


def draw_dashboard(prometheus: PrometheusProcess, work: Path) -> None:
    """Draw each row of the dashboard."""
    phases = phases_of(work)
    found = prometheus.query('pairlens_ready{job="pairlens"}', phases[0].end_s)
    pods = sorted(sample.labels["pod"] for sample in found)
    watch = Watch(prometheus, phases, {pod: f"pairlens-{n}" for n, pod in enumerate(pods)})
    for title, panels in rows(json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]):
        path = PICTURES / f"dashboard-{title.split()[0].strip(':,').lower()}.png"
        draw_row(title, panels, watch, path)
        sys.stdout.write(f"{path.name}: {path.stat().st_size // 1024} KB\n")


def rows(panels: Sequence[Json]) -> Iterator[tuple[str, list[Json]]]:
    """Titles of rows, and the panels of each."""
    starts = [i for i, panel in enumerate(panels) if panel["type"] == "row"]
    for start, end in zip(starts, [*starts[1:], len(panels)], strict=True):
        yield panels[start]["title"], list(panels[start + 1 : end])


def draw_row(title: str, panels: Sequence[Json], watch: Watch, path: Path) -> None:
    """Draw panels where they are on the dashboard."""
    top = min(panel["gridPos"]["y"] for panel in panels)
    lines = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) - top
    height = (lines + 1.2) * _LINE_INCHES
    figure = plt.figure(figsize=(_INCHES, height), dpi=_DPI)
    figure.text(0.008, 1 - 0.2 / height, title, fontsize=12, fontweight="bold", va="center")
    for panel in panels:
        place = panel["gridPos"]
        # Room for titles, numbers of the axis and the legend.
        left, width = place["x"] / _GRID + 0.034, place["w"] / _GRID - 0.045
        if panel["type"] in ("stat", "table"):
            left, width = place["x"] / _GRID + 0.008, place["w"] / _GRID - 0.012
        above = (place["y"] - top + 1.2 + 1.2) * _LINE_INCHES
        tall = (place["h"] - (1.7 if panel["type"] in ("stat", "table") else 3.4)) * _LINE_INCHES
        axes = figure.add_axes((left, 1 - (above + tall) / height, width, tall / height))
        drawn(axes, panel, watch)
    figure.savefig(path, pil_kwargs={"optimize": True})
    plt.close(figure)


def photograph_graph(prometheus: PrometheusProcess, end_s: float) -> None:
    """Take a picture of Prometheus' page of queries."""
    query = {
        "g0.expr": "namespace_rpc:pairlens_rpc_duration_seconds:p99_rate5m",
        "g0.tab": "0",
        "g0.range_input": "8m",
        "g0.end_input": f"{datetime.fromtimestamp(end_s, timezone.utc):%Y-%m-%d %H:%M:%S}",
    }
    _photograph(f"{prometheus.url}/graph?{urlencode(query)}", "prometheus-graph.png", 1000)


def photograph_alerts(prometheus: PrometheusProcess) -> None:
    """Take a picture of Prometheus' page of alerts."""
    # Debian builds it with the pages of before version 2.
    _photograph(f"{prometheus.url}/classic/alerts", "prometheus-alerts.png", 1560)


def _photograph(url: str, name: str, height: int) -> None:
    path = PICTURES / name
    browser = shutil.which("chromium") or "chromium"
    command = [browser, *_BROWSER, f"--window-size=1300,{height}", f"--screenshot={path}", url]
    subprocess.run(command, check=True, capture_output=True, timeout=_BROWSER_TIMEOUT_S)
    sys.stdout.write(f"{path.name}: {path.stat().st_size // 1024} KB\n")


if __name__ == "__main__":
    main()
