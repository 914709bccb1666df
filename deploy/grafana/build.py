"""Write the dashboard: `python deploy/grafana/build.py`; `--out FILE` writes elsewhere.

pairlens.json is generated; change what stands in `dashboard/`. Grafana reads it by import
(Dashboards, New, Import), by provisioning, or from a ConfigMap with the label grafana_dashboard.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dashboard.engine import PROCESS, QUEUE
from dashboard.overview import OVERVIEW, STAGES
from dashboard.panel import DATASOURCE, WIDTH, Panel, Row, chosen
from dashboard.state import CACHE, MODELS

OUT = Path(__file__).with_name("pairlens.json")
ROWS = (OVERVIEW, STAGES, QUEUE, CACHE, PROCESS, MODELS)

_SCHEMA_VERSION = 39
"""Of Grafana 11; later ones read it too."""


def dashboard() -> dict[str, Any]:
    """All of it."""
    return {
        "uid": "pairlens",
        "title": "pairlens",
        "description": "pairlens servers: calls, stages, queues, caches, devices, models. Each "
        "panel says in its description what to do when it is red.",
        "tags": ["pairlens"],
        "schemaVersion": _SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": [],
        "annotations": {"list": _annotations()},
        "templating": {"list": _variables()},
        "panels": _laid_out(ROWS),
    }


def _laid_out(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Panels from left to right, and a title above each row."""
    panels: list[dict[str, Any]] = []
    top = 0
    for row in rows:
        panels.append(_title(row, len(panels) + 1, top))
        top += 1
        left, line = 0, 0
        for panel in row.panels:
            if left + panel.width > WIDTH:
                left, top, line = 0, top + line, 0
            panels.append(panel.as_json(len(panels) + 1, left, top))
            left, line = left + panel.width, max(line, panel.height)
        top += line
    return panels


def _title(row: Row, number: int, top: int) -> dict[str, Any]:
    return {
        "id": number,
        "type": "row",
        "title": row.title,
        "collapsed": False,
        "gridPos": {"h": 1, "w": WIDTH, "x": 0, "y": top},
        "panels": [],
    }


def _variables() -> list[dict[str, Any]]:
    source = {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
        "hide": 0,
        "includeAll": False,
        "multi": False,
        "options": [],
        "refresh": 1,
        "regex": "",
    }
    return [
        source,
        _variable("namespace", "Namespace", 'pairlens_ready{job="pairlens"}'),
        _variable("pod", "Replica", 'pairlens_ready{job="pairlens",namespace=~"$namespace"}'),
        _variable("rpc", "RPC", chosen("pairlens_rpc_handled_total")),
        _variable("model", "Model", chosen("pairlens_model_info")),
    ]


def _variable(name: str, label: str, series: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "definition": f"label_values({series}, {name})",
        "query": {
            "query": f"label_values({series}, {name})",
            "refId": "PrometheusVariableQueryEditor-VariableQuery",
        },
        "current": {"text": ["All"], "value": ["$__all"]},
        # Also what lacks the label: there are no namespaces outside Kubernetes.
        "allValue": ".*",
        "includeAll": True,
        "multi": True,
        "hide": 0,
        "options": [],
        "refresh": 2,
        "regex": "",
        "sort": 1,
    }


def _annotations() -> list[dict[str, Any]]:
    return [
        _annotation(
            "Starts", "{{pod}}", f"{chosen('process_start_time_seconds')} * 1000", "green", at=True
        ),
        _annotation("Draining", "{{pod}}", f"{chosen('pairlens_draining')} == 1", "orange"),
        _annotation(
            "Reloads",
            "{{change}} on {{pod}}",
            f"increase({chosen('pairlens_model_changes_total')}[$__rate_interval]) > 0",
            "purple",
        ),
    ]


def _annotation(
    name: str, text: str, expression: str, color: str, *, at: bool = False
) -> dict[str, Any]:
    return {
        "name": name,
        "datasource": DATASOURCE,
        "enable": True,
        "hide": False,
        "iconColor": color,
        "expr": expression,
        "titleFormat": f"{name}: {text}",
        "step": "15s",
        # The value is the time at which it was.
        "useValueForTime": at,
    }


def panels_of(rows: Sequence[Row] = ROWS) -> list[Panel]:
    """All panels, in order."""
    return [panel for row in rows for panel in row.panels]


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help="file to write")
    text = json.dumps(dashboard(), indent=1, ensure_ascii=False)
    parser.parse_args().out.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
