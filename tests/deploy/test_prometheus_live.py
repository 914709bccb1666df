"""A real Prometheus scrapes real servers: rules, alerts and dashboard are asked, and answered.

Calls are made first, and everything is asked within minutes after, so that rates over some minutes
have something to tell.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
import trustme
from cryptography import x509

from tests.certificates import TlsFiles, client_credentials
from tests.deploy.grafana_dashboard import queries
from tests.deploy.prometheus_rules import ALERTS, FOLDER, RECORDING, rules, selectors
from tests.deploy.traffic import RESNET, VIT, Traffic
from tests.faults.calls import Caller
from tests.prometheus_server import PrometheusProcess, QueryError, prometheus_server
from tests.redis_server import redis_server
from tests.server_process import START_TIMEOUT_S, server_process, write_models

WINDOW = "3m"
ROUNDS, FLOOD = 3, 24

NO_GPU = "there is no GPU"
QUIET = {
    "Device memory": NO_GPU,
    "Draining": "nobody drains, and then the replica would be gone",
    "Reloads": "nobody reloads",
}
"""Panels and annotations that have nothing to show here, and why."""
UNSEEN = {"pairlens_device_memory_bytes": NO_GPU}
"""Metrics of alerts that are not exported here, and why."""


@dataclass(frozen=True)
class Watched:
    """What the tests of this file look at.

    Attributes:
        prometheus: It has scraped the replicas after the last call.
        traffic: What was called.
        replicas: Where their metrics are.
        tls: What they show to clients.
    """

    prometheus: PrometheusProcess
    traffic: Traffic
    replicas: tuple[str, ...]
    tls: TlsFiles


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    models = write_models(folder, [VIT, RESNET])
    authority, tls = trustme.CA(), TlsFiles.in_folder(folder)
    tls.show(authority)
    flags = ("--metrics-listen", "127.0.0.1:0", "--max-queued", "40", "--max-candidates", "4")
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(folder / "redis"))
        servers = [
            stack.enter_context(
                server_process(
                    models, folder / f"{name}.txt", *flags, *tls.flags, "--redis-url", redis.url
                )
            )
            for name in "ab"
        ]
        trusting = client_credentials(authority)
        callers = [
            stack.enter_context(Caller(server.listening(), credentials=trusting))
            for server in servers
        ]
        metrics = tuple(server.metrics_address() for server in servers)
        prometheus = stack.enter_context(
            prometheus_server(folder / "prometheus", FOLDER / "prometheus.yaml", metrics)
        )
        # A rate is the difference of two scrapes.
        prometheus.wait_for("count(pairlens_ready == 1) == 2", START_TIMEOUT_S)
        traffic = Traffic(*callers)
        traffic.round()
        # Histograms begin with their first call, which is no difference yet.
        _scraped(prometheus, after_s=time.time())
        for _ in range(ROUNDS - 1):
            traffic.round()
        traffic.flood(FLOOD)
        _scraped(prometheus, after_s=time.time())
        yield Watched(prometheus, traffic, metrics, tls)


def _scraped(prometheus: PrometheusProcess, after_s: float) -> None:
    """Wait until both replicas were, and the rules were evaluated after that."""
    prometheus.wait_for(f"count(timestamp(pairlens_ready) > {after_s}) == 2")
    name = "namespace:pairlens_rpc_failures:ratio_rate5m"
    prometheus.wait_for(f"timestamp({name}) > {time.time()}")


def _numbers(prometheus: PrometheusProcess, expression: str) -> list[float]:
    return [s.value for s in prometheus.query(expression) if not math.isnan(s.value)]


def test_counts_are_what_callers_saw(watched: Watched) -> None:
    found = watched.prometheus.query("sum by (rpc, code) (pairlens_rpc_handled_total) > 0")
    counted = {(s.labels["rpc"], s.labels["code"]): s.value for s in found}
    assert counted == dict(watched.traffic.codes)
    assert counted["Explain", "NOT_FOUND"] == counted["Explain", "FAILED_PRECONDITION"] == 9
    refused = counted["Explain", "RESOURCE_EXHAUSTED"]
    assert 0 < refused < FLOOD
    reasons = watched.prometheus.query("sum by (reason) (pairlens_rejected_total) > 0")
    assert {s.labels["reason"]: s.value for s in reasons} == {
        "MODEL_NOT_FOUND": 9,
        "IMAGE_UNDECODABLE": 9,
        "METHOD_UNSUPPORTED": 9,
        "QUEUE_FULL": refused,
    }


def test_replicas_are_told_apart(watched: Watched) -> None:
    ready = watched.prometheus.query('pairlens_ready{job="pairlens"}')
    assert {s.labels["pod"] for s in ready} == set(watched.replicas)


def test_certificates_are_those_that_are_served(watched: Watched) -> None:
    shown = x509.load_pem_x509_certificates(watched.tls.cert.read_bytes())
    expected = shown[0].not_valid_after_utc.timestamp()
    found = _numbers(watched.prometheus, "pairlens_tls_certificate_not_after_seconds")
    assert found == [expected, expected]


def test_every_rule_is_evaluated(watched: Watched) -> None:
    evaluated = watched.prometheus.rules()
    assert len(evaluated) == len(rules(RECORDING)) + len(rules(ALERTS))
    for rule in evaluated:
        assert (rule["health"], rule.get("lastError", "")) == ("ok", ""), rule["name"]


@pytest.mark.parametrize("name", [rule["record"] for rule in rules(RECORDING)])
def test_every_recording_rule_records(watched: Watched, name: str) -> None:
    values = _numbers(watched.prometheus, name)
    assert values
    assert all(value >= 0 for value in values)
    if ":ratio" in name:
        assert all(value <= 1 for value in values)


def test_rates_are_those_of_what_was_called(watched: Watched) -> None:
    codes, prometheus = watched.traffic.codes, watched.prometheus
    (refused,) = _numbers(prometheus, "namespace:pairlens_rpc_overload:ratio_rate10m")
    share = codes["Explain", "RESOURCE_EXHAUSTED"] / sum(codes.values())
    # Prometheus extrapolates each series by the time between its scrapes, here seconds.
    assert refused == pytest.approx(share, rel=0.25)
    assert _numbers(prometheus, "namespace:pairlens_rpc_failures:ratio_rate5m") == [0]
    (hits,) = _numbers(prometheus, 'sum(pairlens_cache_requests_total{result="hit"})')
    (lookups,) = _numbers(prometheus, 'sum(pairlens_cache_requests_total{tier="memory"})')
    (shared,) = _numbers(
        prometheus, 'sum(pairlens_cache_requests_total{tier="redis",result="hit"})'
    )
    # Of three calls of a kind one is cold, one finds all in memory and one in Redis.
    assert 0 < shared < hits < lookups
    (ratio,) = _numbers(prometheus, "namespace:pairlens_cache_hits:ratio_rate5m")
    assert ratio == pytest.approx(hits / lookups, rel=0.25)


def test_every_alert_can_be_evaluated(watched: Watched) -> None:
    for rule in rules(ALERTS):
        watched.prometheus.query(rule["expr"])


def test_every_alert_watches_something(watched: Watched) -> None:
    asked = {selector for rule in rules(ALERTS) for selector in selectors(rule["expr"])}
    empty = {selector for selector in asked if not watched.prometheus.query(selector)}
    assert {selector.partition("{")[0] for selector in empty} == UNSEEN.keys()
    assert len(asked - empty) > 15


def test_nothing_fires_on_a_healthy_set(watched: Watched) -> None:
    firing = watched.prometheus.query('ALERTS{alertstate="firing"}')
    # Refused calls and a full queue are pending at most: alerts want that to last.
    assert firing == []


def test_every_query_of_the_dashboard_has_data(watched: Watched) -> None:
    for query in queries():
        values = _numbers(watched.prometheus, query.asked(WINDOW))
        assert bool(values) == (query.panel not in QUIET), f"{query.panel}: {query.expression}"


def test_variables_of_the_dashboard_choose(watched: Watched) -> None:
    one = {"namespace": "", "pod": watched.replicas[1], "rpc": "Embed", "model": RESNET}
    by_rpc = next(query for query in queries() if query.panel == "Calls by RPC")
    assert [s.labels["rpc"] for s in watched.prometheus.query(by_rpc.asked(WINDOW, one))] == [
        "Embed"
    ]
    served = next(query for query in queries() if query.panel == "Served models")
    (model,) = watched.prometheus.query(served.asked(WINDOW, one))
    assert (model.labels["model"], model.labels["pod"]) == (RESNET, watched.replicas[1])


def test_what_is_no_query_is_refused(watched: Watched) -> None:
    # So that the tests above would see it.
    with pytest.raises(QueryError, match="parse error"):
        watched.prometheus.query("sum by (rpc (pairlens_rpc_handled_total)")
