"""Rules and dashboard ask for what the server exports: names, labels and their values."""

from __future__ import annotations

import re
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector

from pairlens_server.telemetry.catalogue import CATALOGUE
from pairlens_server.telemetry.metric import Kind, Metric
from tests.deploy.grafana_dashboard import queries
from tests.deploy.prometheus_rules import ALERTS, RECORDING, metric_names, rules, selectors

# What Prometheus adds by itself.
OWN = {"up", "ALERTS"}
TARGET_LABELS = {"job", "instance", "namespace", "pod"}


def _exported() -> dict[str, Metric]:
    parts = ("_bucket", "_sum", "_count")
    return {
        f"{metric.name}{part}": metric
        for metric in CATALOGUE
        for part in (parts if metric.kind is Kind.HISTOGRAM else ("",))
    }


def _of_the_process() -> set[str]:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return {sample.name for family in registry.collect() for sample in family.samples}


def _expressions() -> Iterator[str]:
    for path in (RECORDING, ALERTS):
        yield from (rule["expr"] for rule in rules(path))
    yield from (query.expression for query in queries())


def test_every_metric_is_exported() -> None:
    recorded = {rule["record"] for rule in rules(RECORDING)}
    known = OWN | recorded | _exported().keys() | _of_the_process()
    asked = {name for expression in _expressions() for name in metric_names(expression)}
    assert asked - known == set()
    # And not by an accident of how names are found.
    assert len(asked & _exported().keys()) > 30


def test_every_metric_of_the_catalogue_can_be_seen() -> None:
    asked = {name for expression in _expressions() for name in metric_names(expression)}
    seen = {metric.name for name, metric in _exported().items() if name in asked}
    # Entries say less than bytes do.
    assert {metric.name for metric in CATALOGUE} - seen == {"pairlens_cache_entries"}


def test_every_label_and_value_is_exported() -> None:
    exported, checked = _exported(), 0
    for expression in _expressions():
        for selector in selectors(expression):
            name, _, matchers = selector.partition("{")
            if name not in exported:
                continue
            labels = {label.name: label.values for label in exported[name].labels}
            for label, operator, text in re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', matchers):
                assert label in labels.keys() | TARGET_LABELS, selector
                values = labels.get(label, "")
                if isinstance(values, str) or text.startswith("$"):
                    continue
                for value in text.split("|") if "~" in operator else [text]:
                    assert value in values, selector
                    checked += 1
    assert checked > 50


def test_every_grouping_label_is_exported() -> None:
    known = TARGET_LABELS | {label.name for metric in CATALOGUE for label in metric.labels} | {"le"}
    for expression in _expressions():
        for listed in re.findall(r"\b(?:by|on|without|ignoring)\s*\(([^()]*)\)", expression):
            for label in filter(None, map(str.strip, listed.split(","))):
                assert label in known, expression
