"""The dashboard of deploy/grafana, as Grafana asks its queries."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "grafana"
DASHBOARD = FOLDER / "pairlens.json"

ALL = {"namespace": ".*", "pod": ".*", "rpc": ".*", "model": ".*"}
"""What the variables stand for while nothing is chosen."""


def load() -> dict[str, Any]:
    """The dashboard."""
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return loaded


def panels() -> list[dict[str, Any]]:
    """All panels, without the titles of rows."""
    return [panel for panel in load()["panels"] if panel["type"] != "row"]


@dataclass(frozen=True)
class DashboardQuery:
    """One query.

    Attributes:
        panel: Title of its panel, or name of an annotation or variable.
        expression: PromQL, with Grafana's variables.
    """

    panel: str
    expression: str

    def asked(self, interval: str, values: Mapping[str, str] = ALL) -> str:
        """What Prometheus gets.

        Args:
            interval: Instead of `$__rate_interval`.
            values: Instead of the dashboard's variables.
        """
        text = self.expression.replace("$__rate_interval", interval)
        for name, value in values.items():
            text = text.replace(f"${name}", value)
        assert "$" not in text, text
        return text


def queries() -> Iterator[DashboardQuery]:
    """Of panels, annotations and variables."""
    for panel in panels():
        for target in panel["targets"]:
            yield DashboardQuery(panel["title"], target["expr"])
    for annotation in load()["annotations"]["list"]:
        yield DashboardQuery(annotation["name"], annotation["expr"])
    for variable in load()["templating"]["list"]:
        if variable["type"] == "query":
            series, _, label = variable["query"]["query"][:-1].rpartition(", ")
            series = series.removeprefix("label_values(")
            yield DashboardQuery(variable["name"], f"count by ({label}) ({series})")
