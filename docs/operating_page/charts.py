"""Panels of the dashboard as Grafana would draw them, from range queries of Prometheus."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from docs.operating_page.scenario import Phase
from tests.prometheus_server import PrometheusProcess, Sample

STEP_S = 4.0
RATE_INTERVAL = "16s"
"""Grafana's is four scrapes."""

PALETTE = (
    *("#56a64b", "#e0b400", "#3274d9", "#fa6400", "#e02f44", "#a352cc"),
    *("#37872d", "#ff9830", "#1f60c4", "#c4162a", "#8f3bb8", "#5794f2"),
)
COLOURS = {"green": "#56a64b", "orange": "#ff780a", "red": "#e02f44", "purple": "#a352cc"}
_LEGEND_LINES, _LEGEND_LETTERS = 2, 78

Json = dict[str, Any]


@dataclass(frozen=True)
class Watch:
    """Whom the panels ask, and about when.

    Attributes:
        prometheus: It.
        phases: In order.
        replicas: What to call each, by what the label `pod` says.
    """

    prometheus: PrometheusProcess
    phases: Sequence[Phase]
    replicas: dict[str, str]

    @property
    def start_s(self) -> float:
        """Unix time at which the graphs begin."""
        return self.phases[0].start_s

    @property
    def end_s(self) -> float:
        """And end."""
        return self.phases[-1].end_s

    def series(self, panel: Json) -> list[tuple[str, Sample]]:
        """Names and points of all that a panel shows."""
        found = []
        for target in panel["targets"]:
            samples = self.prometheus.query_range(
                asked(target["expr"]), self.start_s, self.end_s, STEP_S
            )
            found += [(self._name(target["legendFormat"], s.labels), s) for s in samples]
        return sorted(found, key=lambda named: named[0])

    def rows(self, panel: Json) -> list[dict[str, str]]:
        """Labels, and the value under `Value`, of what a table shows at the end."""
        (target,) = panel["targets"]
        found = self.prometheus.query(asked(target["expr"]), self.end_s)
        return [
            {k: self.replicas.get(v, v) for k, v in s.labels.items()} | {"Value": f"{s.value:g}"}
            for s in found
        ]

    def _name(self, legend: str, labels: dict[str, str]) -> str:
        named = re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), legend)
        for pod, name in self.replicas.items():
            named = named.replace(pod, name)
        return named.replace("__auto", "")


def asked(expression: str) -> str:
    """An expression of the dashboard with nothing chosen."""
    expression = expression.replace("$__rate_interval", RATE_INTERVAL)
    return re.sub(r"\$(namespace|pod|rpc|model)\b", ".*", expression)


def drawn(axes: Axes, panel: Json, watch: Watch) -> None:
    """Draw a panel."""
    size = 8 if panel["type"] == "stat" else 9
    axes.set_title(panel["title"], fontsize=size, loc="left", fontweight="bold")
    kind = {
        "timeseries": _lines,
        "stat": _number,
        "heatmap": _heatmap,
        "state-timeline": _states,
        "table": _table,
    }[panel["type"]]
    kind(axes, panel, watch)


def _lines(axes: Axes, panel: Json, watch: Watch) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    series = watch.series(panel)
    at = np.arange(watch.start_s, watch.end_s, STEP_S)
    values = [_on_grid(sample, at) for _, sample in series]
    minutes = (at - watch.start_s) / 60
    colours = [PALETTE[i % len(PALETTE)] for i in range(len(series))]
    labels = [name for name, _ in series]
    if defaults["custom"]["stacking"]["mode"] == "normal" and values:
        whole = np.nan_to_num(np.array(values))
        axes.stackplot(minutes, whole, labels=labels, colors=colours, alpha=0.7, linewidth=0)
        values = [whole.sum(axis=0)]
    else:
        for value, label, colour in zip(values, labels, colours, strict=True):
            axes.plot(minutes, value, label=label, color=colour, linewidth=1.1)
    highest = max((np.nanmax(v) for v in values if not np.isnan(v).all()), default=0.0)
    _mark_thresholds(axes, defaults, highest)
    _time_axis(axes, watch)
    axes.set_ylim(0, _top(defaults, highest))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: text_of(v, defaults["unit"])))
    if not series:
        axes.text(0.5, 0.5, "No data", transform=axes.transAxes, ha="center", color="grey")
    elif len(series) > 1 or series[0][0]:
        _legend(axes)


def _legend(axes: Axes) -> None:
    """Names below the axis, as many as there is room for."""
    handles, names = axes.get_legend_handles_labels()
    columns = max(1, _LEGEND_LETTERS // (max(map(len, names)) + 5))
    shown = columns * _LEGEND_LINES
    if len(names) > shown:
        axes.text(
            1, -0.32, f"and {len(names) - shown} more", fontsize=5.5, color="grey",
            transform=axes.transAxes, ha="right", va="top",
        )  # fmt: skip
    axes.legend(
        handles[:shown], names[:shown], fontsize=6, loc="upper left", bbox_to_anchor=(0, -0.12),
        ncol=min(columns, len(names)), frameon=False, borderaxespad=0, handlelength=1,
        columnspacing=0.8, labelspacing=0.25, handletextpad=0.4,
    )  # fmt: skip


def _on_grid(sample: Sample, at: np.ndarray) -> np.ndarray:
    """Values at some times; NaN where there was none, so that lines have gaps."""
    values = np.full(len(at), np.nan)
    for when_s, value in sample.points:
        index = round((when_s - at[0]) / STEP_S)
        if 0 <= index < len(at):
            values[index] = value
    return values


def _top(defaults: Json, highest: float) -> float:
    """Upper end of the axis: a little above what is highest, or the threshold where all is 0."""
    if "max" in defaults:
        return float(defaults["max"])
    bounds = [step["value"] for step in defaults["thresholds"]["steps"][1:]] or [1.0]
    return (highest if highest > 0 else float(bounds[0])) * 1.2


def _mark_thresholds(axes: Axes, defaults: Json, highest: float) -> None:
    for step in defaults["thresholds"]["steps"][1:]:
        if step["value"] <= _top(defaults, highest):
            colour = COLOURS[step["color"]]
            axes.axhline(step["value"], color=colour, linewidth=0.8, linestyle="--")


def _time_axis(axes: Axes, watch: Watch, *, named: bool = True) -> None:
    for phase in watch.phases:
        left, right = ((t - watch.start_s) / 60 for t in (phase.start_s, phase.end_s))
        if phase.name != "calm":
            axes.axvspan(left, right, color="#eceef0", linewidth=0, zorder=0)
        if phase.name != "calm" and named:
            axes.text(
                (left + right) / 2, 0.985, phase.name.replace(" ", "\n"), fontsize=5.5,
                transform=axes.get_xaxis_transform(), ha="center", va="top", color="#555",
            )  # fmt: skip
    axes.set_xlim(0, (watch.end_s - watch.start_s) / 60)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g} min"))
    axes.tick_params(labelsize=6.5, length=2)
    axes.grid(alpha=0.25, linewidth=0.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _number(axes: Axes, panel: Json, watch: Watch) -> None:
    (target,) = panel["targets"]
    found = watch.prometheus.query(asked(target["expr"]), watch.end_s)
    defaults = panel["fieldConfig"]["defaults"]
    value = found[0].value if found else math.nan
    steps = defaults["thresholds"]["steps"]
    colour = steps[0]["color"]
    for step in steps[1:]:
        if value >= step["value"]:
            colour = step["color"]
    axes.set_facecolor(COLOURS[colour])
    words = text_of(value, defaults["unit"]) if found else "No data"
    axes.text(0.5, 0.45, words, fontsize=15, color="white", ha="center", va="center",
              transform=axes.transAxes, fontweight="bold")  # fmt: skip
    _bare(axes)


def _heatmap(axes: Axes, panel: Json, watch: Watch) -> None:
    series = watch.series(panel)
    bounded = sorted((float(s.labels["le"]), s) for _, s in series)
    at = np.arange(watch.start_s, watch.end_s, STEP_S)
    counts = np.nan_to_num(np.array([_on_grid(s, at) for _, s in bounded]))
    # Buckets hold all below their bound.
    counts[1:] -= counts[:-1].copy()
    # The last bucket has no bound to be drawn at.
    bounds = [bound for bound, _ in bounded if not math.isinf(bound)]
    edges = np.array([bounds[0] / 2, *bounds])
    shown = np.where(counts[: len(bounds)] > 0.01, counts[: len(bounds)], np.nan)
    minutes = (np.append(at, at[-1] + STEP_S) - watch.start_s) / 60
    axes.pcolormesh(minutes, edges, shown, cmap="Blues", vmin=0)
    axes.set_yscale("log", base=2)
    axes.set_ylim(edges[0], edges[1:][~np.isnan(shown).all(axis=1)].max(initial=edges[1]) * 4)
    _time_axis(axes, watch)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: text_of(v, "s")))


def _states(axes: Axes, panel: Json, watch: Watch) -> None:
    meaning = panel["fieldConfig"]["defaults"]["mappings"][0]["options"]
    series = watch.series(panel)
    for row, (name, sample) in enumerate(reversed(series)):
        for when_s, value in sample.points:
            colour = COLOURS[meaning[f"{value:g}"]["color"]]
            left = (when_s - watch.start_s) / 60
            axes.broken_barh([(left, STEP_S / 60)], (row + 0.1, 0.7), color=colour, zorder=2)
        axes.text(0.1, row + 0.45, name, fontsize=7, color="white", va="center")
    _time_axis(axes, watch, named=False)
    axes.set_yticks([])
    for state in meaning.values():
        axes.plot([], [], color=COLOURS[state["color"]], linewidth=5, label=state["text"])
    _legend(axes)
    axes.set_ylim(0, len(series))


def _table(axes: Axes, panel: Json, watch: Watch) -> None:
    columns = panel["transformations"][0]["options"]["renameByName"]
    rows = sorted(watch.rows(panel), key=lambda row: [row.get(name, "") for name in columns])
    cells = [[row.get(name, "") for name in columns] for row in rows]
    table = axes.table(cells, colLabels=list(columns.values()), loc="upper left", cellLoc="left")
    table.auto_set_font_size(False)
    table.set_fontsize(7)
    table.auto_set_column_width(list(range(len(columns))))
    for (row, _), cell in table.get_celld().items():
        cell.set_edgecolor("#ddd")
        cell.set_text_props(fontweight="bold" if row == 0 else "normal")
    _bare(axes)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def text_of(value: float, unit: str) -> str:
    """A number with its unit, as Grafana writes it."""
    if math.isnan(value):
        return "No data"
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "s":
        days = ((86400, "d"), (3600, "h"), (60, "min"))
        for size, name in (*days, (1, "s"), (1e-3, "ms"), (1e-6, "µs")):
            if abs(value) >= size:
                return f"{value / size:.3g} {name}"
        return "0 s"
    if unit == "bytes":
        for size, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
            if abs(value) >= size:
                return f"{value / size:.3g} {name}"
        return f"{value:g} B"
    return f"{value:.3g}{' /s' if unit in ('reqps', 'ops') else ''}"
