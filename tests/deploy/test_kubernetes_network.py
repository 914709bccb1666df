"""Every connection that pairlens needs is let through, and no other."""

import pytest

from tests.deploy.network_model import Place, allowed
from tests.deploy.rendering import Document, needs_kubectl, one, overlay, pods, with_components

pytestmark = needs_kubectl

NAMESPACE = "pairlens"
CLIENT = {"pairlens-client": "true"}


def component(name: str) -> Place:
    return Place({"app.kubernetes.io/name": NAMESPACE, "app.kubernetes.io/component": name},
                 NAMESPACE)  # fmt: skip


SERVER, REDIS, LOADER = (component(name) for name in ("server", "redis", "model-loader"))
WARM = Place(component("warm").labels | CLIENT, NAMESPACE)
CLIENT_HERE = Place(CLIENT, NAMESPACE)
CLIENT_THERE = Place(CLIENT, "search", CLIENT)
STRANGER_HERE = Place({"app": "other"}, NAMESPACE)
STRANGER_THERE = Place(CLIENT, "other")  # the label alone does not admit another namespace
MONITORING = Place({"app": "prometheus"}, "monitoring")
DNS = Place({"k8s-app": "kube-dns"}, "kube-system")
DNS_CACHE = Place(address="169.254.20.10")
INTERNET = Place(address="203.0.113.7")
REDIS_OUTSIDE = Place(address="10.1.2.3")
GRPC, METRICS, REDIS_PORT, OTLP = 50051, 9464, 6379, 4317

NEEDED = {
    "cpu-dev": [
        (CLIENT_HERE, SERVER, GRPC),
        (CLIENT_THERE, SERVER, GRPC),
        (MONITORING, SERVER, METRICS),
    ],
    "redis": [(SERVER, REDIS, REDIS_PORT), (SERVER, DNS, 53), (SERVER, DNS_CACHE, 53)],
    "redis-external": [(SERVER, REDIS_OUTSIDE, REDIS_PORT), (SERVER, DNS, 53)],
    "production": [
        (CLIENT_HERE, SERVER, GRPC),
        (MONITORING, SERVER, METRICS),
        (SERVER, REDIS, REDIS_PORT),
        (SERVER, DNS, 53),
    ],
    "cpu-dev+tracing": [(SERVER, MONITORING, OTLP), (SERVER, DNS, 53)],
    "cpu-dev+warm": [(WARM, SERVER, GRPC), (WARM, DNS, 53), (WARM, DNS_CACHE, 53)],
}
FORBIDDEN = {
    "cpu-dev": [
        (STRANGER_HERE, SERVER, GRPC),
        (STRANGER_THERE, SERVER, GRPC),
        (CLIENT_HERE, SERVER, METRICS),
        (MONITORING, SERVER, GRPC),
        (INTERNET, SERVER, GRPC),
        (SERVER, INTERNET, 443),
        (SERVER, DNS, 53),
        (SERVER, REDIS, REDIS_PORT),
        (SERVER, MONITORING, OTLP),
    ],
    "redis": [
        (CLIENT_HERE, REDIS, REDIS_PORT),
        (WARM, REDIS, REDIS_PORT),
        (MONITORING, REDIS, REDIS_PORT),
        (REDIS, INTERNET, 443),
        (REDIS, DNS, 53),
        (SERVER, INTERNET, REDIS_PORT),
    ],
    "redis-external": [(SERVER, INTERNET, REDIS_PORT), (SERVER, REDIS_OUTSIDE, 443)],
    "cpu-dev+tracing": [(SERVER, INTERNET, OTLP), (SERVER, MONITORING, 9090)],
    "cpu-dev+warm": [
        (WARM, SERVER, METRICS),
        (WARM, INTERNET, 443),
        (LOADER, INTERNET, 443),
        (STRANGER_HERE, LOADER, 80),
    ],
}


def policies(name: str) -> list[Document]:
    first, _, further = name.partition("+")
    documents = overlay(first)
    if further == "warm":
        documents += overlay("warm")
    elif further:
        documents = with_components(first, further)
    return [document for document in documents if document["kind"] == "NetworkPolicy"]


@pytest.mark.parametrize(
    ("name", "connection"), [(n, c) for n, connections in NEEDED.items() for c in connections]
)
def test_needed(name, connection):
    assert allowed(policies(name), *connection)


@pytest.mark.parametrize(
    ("name", "connection"), [(n, c) for n, connections in FORBIDDEN.items() for c in connections]
)
def test_forbidden(name, connection):
    assert not allowed(policies(name), *connection)


@pytest.mark.parametrize("name", ["redis", "cpu-dev+tracing", "cpu-dev+warm"])
def test_names_are_resolved_over_udp(name):
    source = WARM if name.endswith("warm") else SERVER
    assert allowed(policies(name), source, DNS, 53, "UDP")


def test_nothing_is_let_through_where_no_policy_says_so():
    assert allowed([], SERVER, INTERNET, 443)
    deny = [one(overlay("cpu-dev"), "NetworkPolicy", "pairlens-default-deny")]
    assert not allowed(deny, SERVER, INTERNET, 443)
    assert not allowed(deny, CLIENT_HERE, SERVER, GRPC)


@pytest.mark.parametrize("name", ["production", "redis-external", "warm", "model-loader"])
def test_the_places_above_are_the_pods(name):
    modelled = (SERVER.labels, REDIS.labels, WARM.labels, LOADER.labels)
    for _, pod in pods(overlay(name)):
        assert pod["metadata"]["labels"] in modelled
