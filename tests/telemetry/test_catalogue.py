"""The catalogue: complete, bounded, and true to the contract."""

import re

import pytest

from pairlens.v1 import (
    admin_service_pb2,
    explanation_service_pb2,
    image_service_pb2,
    model_service_pb2,
)
from pairlens_server.rpc.errors import CODES as ERROR_CODES
from pairlens_server.telemetry import catalogue
from pairlens_server.telemetry.catalogue import CATALOGUE
from pairlens_server.telemetry.instruments import COUNTED
from pairlens_server.telemetry.labels import CODES, REASONS, RPCS
from pairlens_server.telemetry.metric import Buckets, Kind, Metric

# Whose values the configuration bounds.
CONFIGURED = {"model", "architecture", "family", "fingerprint", "dtype", "device"}
VERSIONS = {"version", "python", "torch", "timm", "grpc"}


def test_every_metric_is_in_a_section_once():
    defined = [value for value in vars(catalogue).values() if isinstance(value, Metric)]
    assert sorted(m.name for m in defined) == sorted(m.name for m in CATALOGUE)


@pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.name)
def test_names_and_units_are_those_of_prometheus(metric):
    assert re.fullmatch(r"pairlens_[a-z_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
    assert not re.search(
        r"_(ms|milliseconds|micros\w*|kb|mb|kilobytes|megabytes)(_|$)", metric.name
    )
    in_seconds = metric.buckets in (Buckets.LATENCY, Buckets.SHORT)
    assert metric.name.endswith("_seconds") or not in_seconds
    assert (metric.buckets is not None) == (metric.kind is Kind.HISTOGRAM)
    assert metric.help.endswith(".")


@pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.name)
def test_labels_are_bounded(metric):
    for label in metric.labels:
        if isinstance(label.values, str):
            assert label.name in CONFIGURED | VERSIONS | {"method"}
        else:
            assert len(set(label.values)) == len(label.values) <= 20


@pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.name)
def test_examples_name_metrics_that_exist(metric):
    series = {m.name for m in CATALOGUE}
    series |= {
        f"{m.name}_{end}" for m in CATALOGUE if m.buckets for end in ("bucket", "sum", "count")
    }
    assert set(re.findall(r"pairlens_\w+", metric.query)) <= series


def test_rpcs_are_those_of_the_contract():
    files = (admin_service_pb2, explanation_service_pb2, image_service_pb2, model_service_pb2)
    services = [s for file in files for s in file.DESCRIPTOR.services_by_name.values()]
    assert sorted(m.name for s in services for m in s.methods) == sorted(RPCS)


def test_codes_are_those_that_calls_can_end_with():
    assert {code.name for code in ERROR_CODES.values()} <= set(CODES)
    assert {"OK", "CANCELLED", "DEADLINE_EXCEEDED", "UNKNOWN"} <= set(CODES)


def test_reasons_are_those_of_the_errors():
    assert set(REASONS) == {kind.reason for kind in ERROR_CODES}


def test_what_is_counted_is_in_the_catalogue():
    assert set(COUNTED) <= set(CATALOGUE)
