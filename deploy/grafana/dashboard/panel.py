"""A panel, as few words as it takes, and the JSON that Grafana makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24
"""Of the grid."""

_SELECTED = 'job="pairlens",namespace=~"$namespace",pod=~"$pod"'
_GREEN = "green"

Json = dict[str, Any]


def chosen(metric: str, **matchers: str) -> str:
    """A metric of the replicas that the variables choose.

    Args:
        metric: Its name.
        **matchers: Further labels, and what they are; `=~` or `!=` may stand before that.
    """
    further = "".join(
        f',{label}{value[:2]}"{value[2:]}"'
        if value.startswith(("=~", "!=", "!~"))
        else f',{label}="{value}"'
        for label, value in matchers.items()
    )
    return f"{metric}{{{_SELECTED}{further}}}"


def rate(metric: str, **matchers: str) -> str:
    """By how much a counter grows per second; see `chosen`."""
    return f"rate({chosen(metric, **matchers)}[$__rate_interval])"


def quantile(share: float, histogram: str, by: str, **matchers: str) -> str:
    """A quantile over all chosen replicas, from summed buckets."""
    buckets = rate(f"{histogram}_bucket", **matchers)
    return f"histogram_quantile({share}, sum by ({by}, le) ({buckets}))"


def mean(histogram: str, by: str, **matchers: str) -> str:
    """Mean of what a histogram saw: a ratio of sums, nothing where it saw nothing."""
    total, seen = (rate(f"{histogram}_{part}", **matchers) for part in ("sum", "count"))
    return f"sum by ({by}) ({total}) / (sum by ({by}) ({seen}) > 0)"


@dataclass(frozen=True)
class Query:
    """What a panel asks.

    Attributes:
        expression: PromQL, with Grafana's variables.
        legend: Of each series, such as `{{rpc}}`; "" where the panel shows labels itself.
    """

    expression: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: Above it.
        shows: What one sees, one sentence or two.
        red: What to do when it is red, or looks wrong.
        queries: What it asks, one at least.
        unit: As Grafana names it: `s`, `reqps`, `percentunit`, `bytes`, `short`.
        thresholds: From which value on it has which colour; green below.
        kind: Of panel.
        stacked: Whether series are drawn upon each other.
        most: Upper end of the axis, or None.
        width: Of the grid's 24.
        height: In the grid's rows.
        values: What numbers mean: text and colour.
        columns: Of a table: labels in order, by title.
    """

    title: str
    shows: str
    red: str
    queries: Sequence[Query]
    unit: str = "short"
    thresholds: Sequence[tuple[float, str]] = ()
    kind: str = "timeseries"
    stacked: bool = False
    most: float | None = None
    width: int = 8
    height: int = 8
    values: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)

    def as_json(self, number: int, left: int, top: int) -> Json:
        """What Grafana reads."""
        panel: Json = {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": f"{self.shows}\n\n**When it is red:** {self.red}",
            "datasource": DATASOURCE,
            "gridPos": {"h": self.height, "w": self.width, "x": left, "y": top},
            "fieldConfig": {"defaults": self._defaults(), "overrides": []},
            "options": _OPTIONS[self.kind],
            "targets": [self._target(i, query) for i, query in enumerate(self.queries)],
        }
        if self.kind == "table":
            panel["transformations"] = [self._columns()]
        return panel

    def _target(self, index: int, query: Query) -> Json:
        is_table = self.kind == "table"
        target: Json = {
            "refId": chr(ord("A") + index),
            "datasource": DATASOURCE,
            "editorMode": "code",
            "expr": query.expression,
            "legendFormat": query.legend or "__auto",
            "format": {"table": "table", "heatmap": "heatmap"}.get(self.kind, "time_series"),
            # Only the last value is shown, which an instant query gives.
            "instant": is_table or self.kind == "stat",
            "range": not (is_table or self.kind == "stat"),
        }
        return target

    def _defaults(self) -> Json:
        steps: list[Json] = [{"color": _GREEN, "value": None}]
        steps += [{"color": color, "value": value} for value, color in self.thresholds]
        # Lowest first, where low values are what is bad.
        if self.thresholds and self.thresholds[-1][1] == _GREEN:
            steps[0]["color"] = "red"
        colour = "thresholds" if self.kind in ("stat", "state-timeline") else "palette-classic"
        defaults: Json = {
            "unit": self.unit,
            "color": {"mode": colour},
            "thresholds": {"mode": "absolute", "steps": steps},
            "mappings": self._mappings(),
        }
        if self.kind == "timeseries":
            defaults["min"] = 0
            defaults["custom"] = self._drawing()
        if self.most is not None:
            defaults["max"] = self.most
        return defaults

    def _drawing(self) -> Json:
        return {
            "lineWidth": 1,
            "fillOpacity": 25 if self.stacked else 5,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if self.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if self.thresholds else "off"},
        }

    def _mappings(self) -> list[Json]:
        if not self.values:
            return []
        options = {
            str(value): {"text": text, "color": color, "index": index}
            for index, (value, (text, color)) in enumerate(self.values.items())
        }
        return [{"type": "value", "options": options}]

    def _columns(self) -> Json:
        hidden = ("Time", "Value", "__name__", "job", "instance", "namespace", "endpoint")
        hidden += ("service", "container", "prometheus", "node")
        return {
            "id": "organize",
            "options": {
                "excludeByName": {name: True for name in hidden if name not in self.columns},
                "indexByName": {name: index for index, name in enumerate(self.columns)},
                "renameByName": dict(self.columns),
            },
        }


_LAST = {"values": False, "calcs": ["lastNotNull"], "fields": ""}
_OPTIONS: dict[str, Json] = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {
        "reduceOptions": _LAST,
        "colorMode": "background",
        "graphMode": "none",
        "textMode": "auto",
        "justifyMode": "auto",
        "orientation": "auto",
    },
    "heatmap": {
        "calculate": False,
        "yAxis": {"unit": "s"},
        "color": {"mode": "scheme", "scheme": "Blues", "steps": 64},
        "cellGap": 1,
        "tooltip": {"mode": "single", "yHistogram": False},
        "legend": {"show": False},
    },
    "state-timeline": {
        "showValue": "auto",
        "mergeValues": True,
        "rowHeight": 0.8,
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False},
        "tooltip": {"mode": "single", "sort": "none"},
    },
    "table": {"showHeader": True, "cellHeight": "sm"},
}


@dataclass(frozen=True)
class Row:
    """Panels under a title.

    Attributes:
        title: Of the row.
        panels: From left to right, and on in the next line.
    """

    title: str
    panels: Sequence[Panel]
