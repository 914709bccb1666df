"""Recording rules and alerts: well-formed, tested, and readable by whoever is woken up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.deploy.prometheus_rules import (
    ALERTS,
    CASES,
    FOLDER,
    RECORDING,
    alert_cases,
    metric_names,
    promtool,
    rules,
    selectors,
)

# Of the unit tests, by alert and severity, as they reach whoever is on duty.
SUMMARIES = {
    ("PairlensDown", "page"): "No pairlens server answers Prometheus",
    ("PairlensDown", "ticket"): "Replica a does not answer Prometheus",
    ("PairlensNotReady", "page"): "No pairlens replica is ready",
    ("PairlensNotReady", "ticket"): "Replica a does not get ready",
    ("PairlensErrorRate", "page"): "9.346% of calls fail by a fault of the server",
    ("PairlensErrorRate", "ticket"): "0.4% of calls fail by a fault of the server, for hours",
    ("PairlensRestarting", "ticket"): "Replica a restarted 3 times in 30 minutes",
    ("PairlensSlow", "page"): "p99 of PairSimilarity is 12.29s",
    ("PairlensSlow", "ticket"): "p99 of PairSimilarity is 12.29s",
    ("PairlensEventLoopLag", "ticket"): "The event loop of a is late by 940ms",
    ("PairlensRejecting", "page"): "30% of calls find no room, or run out of time",
    ("PairlensRejecting", "ticket"): "30% of calls find no room, or run out of time",
    ("PairlensQueueFull", "ticket"): "The queue of a is 89.84% full",
    ("PairlensQueueOld", "page"): "Work has waited 7m 0s for the device of a",
    ("PairlensQueueOld", "ticket"): "Work has waited 20s for the device of b",
    ("PairlensOutOfMemory", "ticket"): "Calls do not fit into the device memory of a",
    ("PairlensDeviceMemory", "ticket"): "Device memory of a is 95% full",
    ("PairlensFileDescriptors", "ticket"): "a has used 87.89% of its file descriptors",
    ("PairlensRedisDown", "ticket"): "a cannot reach Redis",
    ("PairlensCacheCold", "ticket"): (
        "The cache answers 10% of look-ups, less than half of yesterday's"
    ),
    ("PairlensModelReloadFailed", "ticket"): "a could not load a model",
    ("PairlensModelsDiffer", "ticket"): "Replicas do not serve the same m",
    ("PairlensCertificateExpiring", "page"): "The certificate of d has expired",
    ("PairlensCertificateExpiring", "ticket"): "The certificate of c expires in 23h 55m 0s",
    ("PairlensLogLinesDropped", "ticket"): "a drops log lines",
}


def _alerts() -> set[tuple[str, str]]:
    return {(rule["alert"], rule["labels"]["severity"]) for rule in rules(ALERTS)}


@pytest.mark.parametrize("path", [RECORDING, ALERTS], ids=lambda path: path.name)
def test_rules_are_well_formed(path: Path) -> None:
    # Duplicates are told, but by default do not fail the check.
    checked = promtool("check", "rules", "--lint=all", "--lint-fatal", str(path))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_scrape_config_is_valid() -> None:
    checked = promtool("check", "config", str(FOLDER / "prometheus.yaml"))
    assert checked.returncode == 0, checked.stderr
    assert "2 rule files found" in checked.stdout


def test_scrape_config_for_kubernetes_is_valid(tmp_path: Path) -> None:
    config = yaml.safe_load((FOLDER / "prometheus-kubernetes.yaml").read_text(encoding="utf-8"))
    (job,) = config["scrape_configs"]
    # Debian's promtool is built without Kubernetes, and would refuse the key.
    (discovery,) = job.pop("kubernetes_sd_configs")
    (selector,) = discovery["selectors"]
    assert discovery["role"] == selector["role"] == "pod"
    assert selector["label"] == (
        "app.kubernetes.io/name=pairlens,app.kubernetes.io/component=server"
    )
    config["rule_files"] = [str(RECORDING), str(ALERTS)]
    path = tmp_path / "prometheus.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    checked = promtool("check", "config", str(path))
    assert checked.returncode == 0, checked.stderr
    assert job["job_name"] == "pairlens"
    labels = {rule["target_label"] for rule in job["relabel_configs"] if "target_label" in rule}
    assert labels >= {"namespace", "pod"}


def test_unit_tests_record_before_they_alert() -> None:
    groups = [
        group["name"]
        for path in (RECORDING, ALERTS)
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    ]
    # promtool orders groups by name alone, and those that it is not told of at random.
    assert len(set(groups)) == len(groups)
    for case in CASES:
        order = yaml.safe_load(case.read_text(encoding="utf-8"))["group_eval_order"]
        assert order == groups, case.name


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_unit_tests_pass(path: Path) -> None:
    tested = promtool("test", "rules", str(path))
    assert tested.returncode == 0, tested.stderr + tested.stdout


def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    cases = list(alert_cases())
    firing = {(case.alert, severity) for case in cases for severity in case.firing}
    silent = {(case.alert, severity) for case in cases for severity in case.silent}
    assert _alerts() - firing == set()
    assert _alerts() - silent == set()
    # Nor does a test ask for an alert that is none.
    assert firing - _alerts() == set()


def test_each_alert_says_what_to_do() -> None:
    for rule in rules(ALERTS):
        name, notes = rule["alert"], rule["annotations"]
        assert rule["labels"].keys() == {"severity"}, name
        assert notes.keys() == {"summary", "description", "runbook_url"}, name
        assert re.search(r"\b[Ff]irst ", notes["description"]), name
        assert notes["runbook_url"] == f"deploy/README.md#{name.lower()}"


def test_pages_want_more_than_tickets() -> None:
    pages = {name for name, severity in _alerts() if severity == "page"}
    tickets = {name for name, severity in _alerts() if severity == "ticket"}
    # What wakes somebody up has been worse for longer than what is read the next day.
    assert pages < tickets


def _rendered(folder: Path) -> list[tuple[str, str, str, str]]:
    """Alert, severity, summary and description of all that fires in the unit tests.

    They are told by expecting nothing. promtool takes one rule of a name only, hence new names.
    """
    alerts = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))
    for rule in [rule for group in alerts["groups"] for rule in group["rules"]]:
        rule["alert"] += f"_{rule['labels']['severity']}"
    (folder / "alerts.yaml").write_text(yaml.safe_dump(alerts), encoding="utf-8")
    first = {
        (case.alert, severity): case
        for case in reversed(list(alert_cases()))
        for severity in case.firing
    }
    output = ""
    for file in CASES:
        suite = yaml.safe_load(file.read_text(encoding="utf-8"))
        suite["rule_files"] = [str(RECORDING), "alerts.yaml"]
        for group in suite["tests"]:
            del group["promql_expr_test"]
            group["alert_rule_test"] = [
                {"eval_time": case.at, "alertname": f"{alert}_{severity}", "exp_alerts": []}
                for (alert, severity), case in first.items()
                if case.name == group["name"]
            ]
        suite["tests"] = [group for group in suite["tests"] if group["alert_rule_test"]]
        path = folder / file.name
        path.write_text(yaml.safe_dump(suite), encoding="utf-8")
        tested = promtool("test", "rules", str(path))
        output += tested.stdout + tested.stderr
    found = re.findall(
        r'Labels:\{alertname="(\w+)_(\w+)".*\n'
        r'\s*Annotations:\{description="(.*)", runbook_url=.*, summary="(.*)"\}',
        output,
    )
    return [(alert, severity, summary, text) for alert, severity, text, summary in found]


def test_annotations_are_as_whoever_is_on_duty_reads_them(tmp_path: Path) -> None:
    seen: dict[tuple[str, str], set[str]] = {}
    for alert, severity, summary, description in _rendered(tmp_path):
        for words in (summary, description):
            assert not re.search(r"\{\{|<error|<no value>|NaN|%!| in [.,:]", words), words
        assert len(summary) < 80, summary
        seen.setdefault((alert, severity), set()).add(summary)
    assert seen.keys() == SUMMARIES.keys()
    for key, summary in SUMMARIES.items():
        assert summary in seen[key], f"{key}: {seen[key]}"


def test_rules_ask_only_for_recorded_metrics_that_are_recorded() -> None:
    recorded = {rule["record"] for rule in rules(RECORDING)}
    asked = {
        name
        for rule in [*rules(ALERTS), *rules(RECORDING)]
        for name in metric_names(rule["expr"])
        if ":" in name
    }
    assert asked <= recorded


def test_every_selector_names_the_job() -> None:
    # A metric of the same name from elsewhere, such as process_open_fds, wakes nobody up.
    for rule in [*rules(ALERTS), *rules(RECORDING)]:
        for selector in selectors(rule["expr"]):
            assert ":" in selector.partition("{")[0] or 'job="pairlens"' in selector, selector


def test_selectors_are_read_from_expressions() -> None:
    expression = """
        sum by (code, rpc) (rate(a_total{job="x",code=~"A|B"}[5m] offset 1h)) / on (pod)
        group_left (model) b:c:rate5m > 14.4 * 0.001 and ignoring(kind) d{e="f(g)"} or absent(h)
        unless histogram_quantile(0.99, i_bucket) offset 30m == 1e9
    """
    assert selectors(expression) == {
        'a_total{job="x",code=~"A|B"}',
        "b:c:rate5m",
        'd{e="f(g)"}',
        "h",
        "i_bucket",
    }
