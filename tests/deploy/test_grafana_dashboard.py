"""The dashboard is what its script writes, and can be read by whoever is on duty."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.deploy.grafana_dashboard import DASHBOARD, FOLDER, load, panels, queries
from tests.deploy.prometheus_rules import ALERTS, rules, selectors

# As https://grafana.com/docs/grafana/latest/panels-visualizations/configure-standard-options names
# them.
UNITS = {"s", "reqps", "ops", "percentunit", "bytes", "short"}
KINDS = {"timeseries", "stat", "heatmap", "table", "state-timeline"}


def test_is_what_its_script_writes(tmp_path: Path) -> None:
    written = tmp_path / "pairlens.json"
    script = [sys.executable, str(FOLDER / "build.py"), "--out", str(written)]
    subprocess.run(script, check=True, timeout=60)
    assert written.read_text("utf-8") == DASHBOARD.read_text("utf-8"), (
        "run: python deploy/grafana/build.py"
    )


def test_asks_whichever_prometheus_is_chosen() -> None:
    dashboard = load()
    source, *others = dashboard["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == (
        "datasource",
        "datasource",
        "prometheus",
    )
    assert [variable["name"] for variable in others] == ["namespace", "pod", "rpc", "model"]
    asked = [*panels(), *others, *dashboard["annotations"]["list"]]
    asked += [target for panel in panels() for target in panel["targets"]]
    assert {part["datasource"]["uid"] for part in asked} == {"${datasource}"}


def test_rows_are_those_that_somebody_on_duty_looks_for() -> None:
    rows = [panel["title"] for panel in load()["panels"] if panel["type"] == "row"]
    assert [row.partition(":")[0] for row in rows] == [
        "Overview",
        "Stages",
        "Queue and batches",
        "Cache",
        "Device and process",
        "Models, versions and deploys",
    ]


def test_each_panel_says_what_it_shows_and_what_to_do() -> None:
    for panel in panels():
        shows, _, red = panel["description"].partition("\n\n**When it is red:** ")
        assert len(shows) > 10, panel["title"]
        assert len(red) > 10, panel["title"]
        assert panel["type"] in KINDS
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        assert 1 <= len(panel["targets"]) <= 3


def test_each_row_has_a_picture_in_the_documentation() -> None:
    rows = [panel["title"] for panel in load()["panels"] if panel["type"] == "row"]
    pictures = FOLDER.parents[1] / "docs" / "operating"
    for row in rows:
        picture = pictures / f"dashboard-{row.split()[0].strip(':,').lower()}.png"
        assert 10_000 < picture.stat().st_size < 300_000, picture


def test_panels_do_not_overlap_and_fill_the_grid() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in load()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies on {taken[x, y]}"
                taken[x, y] = panel["title"]
    lines = {y for _, y in taken}
    assert lines == set(range(len(lines)))
    assert len({panel["id"] for panel in load()["panels"]}) == len(load()["panels"])


def test_every_query_minds_the_chosen_replicas() -> None:
    for query in queries():
        for selector in selectors(query.expression):
            if not selector.startswith("ALERTS{"):
                assert 'job="pairlens"' in selector, selector
            if selector.startswith("ALERTS{") or query.panel in ("namespace", "pod"):
                continue
            assert 'namespace=~"$namespace",pod=~"$pod"' in selector, selector


def test_named_runbook_entries_are_those_of_alerts() -> None:
    alerts = {rule["alert"] for rule in rules(ALERTS)}
    named = {
        name for panel in panels() for name in re.findall(r"Pairlens\w+", panel["description"])
    }
    assert named == alerts


def test_thresholds_are_those_of_the_alerts() -> None:
    # One number in two places: dashed lines on the dashboard, and what an alert waits for.
    bounds = {
        "Failed, by RPC": ("PairlensErrorRate", [0.001, 0.0144]),
        "p99 duration by RPC": ("PairlensSlow", [2.5, 10]),
        "Longest wait": ("PairlensQueueOld", [15, 60]),
        "Lateness of the event loop": ("PairlensEventLoopLag", [0.5]),
        "File descriptors": ("PairlensFileDescriptors", [0.8]),
        "Device memory": ("PairlensDeviceMemory", [0.9]),
        "Refused or late": ("PairlensRejecting", [0.01, 0.2]),
        "Versions of each model": ("PairlensModelsDiffer", [2]),
        "Time until the certificate expires": ("PairlensCertificateExpiring", [86_400, 604_800]),
    }
    by_title = {panel["title"]: panel for panel in panels()}
    for title, (alert, values) in bounds.items():
        steps = by_title[title]["fieldConfig"]["defaults"]["thresholds"]["steps"]
        assert [step["value"] for step in steps if step["value"] is not None] == values, title
        text = " ".join(rule["expr"] for rule in rules(ALERTS) if rule["alert"] == alert)
        if alert == "PairlensErrorRate":
            assert "> 14.4 * 0.001" in text
            assert "> 0.001" in text
        elif alert == "PairlensModelsDiffer":
            assert "> 1\n" in text
        elif alert == "PairlensCertificateExpiring":
            assert "< 86400" in text
            assert "< 7 * 86400" in text
        else:
            assert all(re.search(rf"> {value:g}\b", text) for value in values), text
