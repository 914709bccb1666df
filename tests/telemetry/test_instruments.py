"""Counters and histograms."""

import pytest
from prometheus_client import CollectorRegistry

from pairlens_server.telemetry import catalogue
from pairlens_server.telemetry.instruments import Instruments
from pairlens_server.telemetry.labels import CHANGES, CODES, REASONS, RPCS


@pytest.fixture
def registry():
    return CollectorRegistry()


def test_what_is_known_to_occur_begins_with_0(registry):
    Instruments(registry, [1.0])
    for rpc in RPCS:
        for code in CODES:
            labels = {"rpc": rpc, "code": code}
            assert registry.get_sample_value("pairlens_rpc_handled_total", labels) == 0
    for reason in REASONS:
        assert registry.get_sample_value("pairlens_rejected_total", {"reason": reason}) == 0
    for change in CHANGES:
        assert registry.get_sample_value("pairlens_model_changes_total", {"change": change}) == 0


def test_values_fall_into_the_buckets_that_are_set(registry):
    instruments = Instruments(registry, [0.1, 1.0])
    for value in (0.05, 0.1, 0.5, 3.0):
        instruments.observe(catalogue.BATCH_DURATION, value, "m")
    found = [
        registry.get_sample_value(
            "pairlens_batch_duration_seconds_bucket", {"model": "m", "le": bound}
        )
        for bound in ("0.1", "1.0", "+Inf")
    ]
    assert found == [2, 3, 4]
    total = registry.get_sample_value("pairlens_batch_duration_seconds_sum", {"model": "m"})
    assert total == pytest.approx(3.65)


def test_other_histograms_keep_their_own(registry):
    instruments = Instruments(registry, [0.1])
    instruments.observe(catalogue.BATCH_SIZE, 200, "m")
    labels = {"model": "m", "le": "256.0"}
    assert registry.get_sample_value("pairlens_batch_size_bucket", labels) == 1
    labels["le"] = "128.0"
    assert registry.get_sample_value("pairlens_batch_size_bucket", labels) == 0


def test_two_live_side_by_side():
    first, second = CollectorRegistry(), CollectorRegistry()
    Instruments(first, [1.0]).count(catalogue.MODEL_CHANGES, "added")
    Instruments(second, [1.0])
    labels = {"change": "added"}
    assert first.get_sample_value("pairlens_model_changes_total", labels) == 1
    assert second.get_sample_value("pairlens_model_changes_total", labels) == 0


def test_nobody_is_told_when_a_series_began(registry):
    Instruments(registry, [1.0])
    names = {sample.name for family in registry.collect() for sample in family.samples}
    assert not [name for name in names if name.endswith("_created")]
