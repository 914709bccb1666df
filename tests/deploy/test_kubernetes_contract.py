"""What the manifests say of the server is what the code does."""

import re
from pathlib import Path

import pytest
import yaml

from pairlens_server.command_line import load_settings
from pairlens_server.config import ENV_PREFIX, ServerSettings
from pairlens_server.models.config import load_model_configs
from pairlens_server.rpc import server as rpc_server
from pairlens_server.telemetry.catalogue import CATALOGUE
from tests.deploy.rendering import (
    OVERLAYS,
    SERVING,
    Document,
    container,
    needs_kubectl,
    one,
    overlay,
    pods,
    variables,
    with_components,
)

pytestmark = needs_kubectl

COMBINATIONS = [(name,) for name in SERVING] + [
    ("cpu-dev", "tls", "mutual-tls", "tokens", "tracing"),
    ("cpu-dev", "model-store-image"),
]
each = pytest.mark.parametrize("parts", COMBINATIONS, ids="+".join)
GIB = 2**30
UNITS = {"Mi": 2**20, "Gi": GIB}


def resources(parts: tuple[str, ...]) -> tuple[Document, ...]:
    return with_components(*parts) if len(parts) > 1 else overlay(parts[0])


def in_bytes(quantity: str) -> int:
    return int(quantity[:-2]) * UNITS[quantity[-2:]]


@pytest.fixture
def settings_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Has the server's own code read what a Deployment gives it."""

    def read(documents: tuple[Document, ...]) -> ServerSettings:
        for name, text in one(documents, "ConfigMap", "pairlens-config")["data"].items():
            (tmp_path / name).write_text(text, encoding="utf-8")
        for name, value in variables(container(documents), documents).items():
            monkeypatch.setenv(name, value)
        return load_settings({}, str(tmp_path / "config.yaml"))

    return read


@each
def test_the_settings_are_taken_as_they_are(parts, settings_of):
    documents = resources(parts)
    settings = settings_of(documents)
    text = one(documents, "ConfigMap", "pairlens-config")["data"]["config.yaml"]
    given = yaml.safe_load(text)
    assert given.items() <= settings.model_dump(mode="json").items()
    for name, value in variables(container(documents), documents).items():
        setting = name.removeprefix(ENV_PREFIX).lower()
        if name.startswith(ENV_PREFIX) and setting != "config":
            assert setting in ServerSettings.model_fields
            # Whoever edits the file would wonder why nothing changes.
            assert setting not in given, f"{name} hides a line of config.yaml"
        else:
            assert name == "PAIRLENS_CONFIG" or name.startswith("OTEL_")
            assert not name.startswith("OTEL_") or settings.tracing
        assert value


@each
def test_ports_are_those_that_the_server_listens_on(parts, settings_of):
    documents = resources(parts)
    settings, server = settings_of(documents), container(documents)
    ports = {port["name"]: port["containerPort"] for port in server["ports"]}
    assert settings.metrics_listen is not None
    listened = {"grpc": settings.listen, "metrics": settings.metrics_listen}
    assert {name: f"0.0.0.0:{port}" for name, port in ports.items()} == listened
    served = service_of_servers(documents)["spec"]["ports"]
    assert {p["name"]: (p["port"], p["targetPort"]) for p in served} == {
        name: (port, name) for name, port in ports.items()
    }


def service_of_servers(documents: tuple[Document, ...]) -> Document:
    (found,) = (
        document
        for document in documents
        if document["kind"] == "Service" and document["metadata"]["name"] == "pairlens"
    )
    return found


@each
def test_clients_see_every_pod_that_is_ready(parts):
    documents = resources(parts)
    spec = service_of_servers(documents)["spec"]
    assert spec["clusterIP"] == "None"
    assert spec["publishNotReadyAddresses"] is False
    labels = one(documents, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert spec["selector"].items() <= labels.items()
    assert one(documents, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels


@each
def test_probes(parts):
    server = container(resources(parts))
    paths = {}
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = server[kind]
        assert probe["httpGet"]["port"] == "metrics"
        paths[kind] = probe["httpGet"]["path"]
    assert paths == {
        "startupProbe": "/readyz",
        "readinessProbe": "/readyz",
        "livenessProbe": "/livez",
    }
    startup_s = server["startupProbe"]["periodSeconds"] * server["startupProbe"]["failureThreshold"]
    deployment = one(resources(parts), "Deployment")["spec"]
    assert startup_s >= 600  # large models from a volume over the network
    assert deployment["progressDeadlineSeconds"] > startup_s + deployment["minReadySeconds"]


@each
def test_clients_know_a_replica_before_the_next_one_goes(parts):
    # gRPC adds a tenth at random to the age; caches of DNS in a cluster keep answers for 30 s.
    ask_again_s = 1.1 * dict(rpc_server._OPTIONS)["grpc.max_connection_age_ms"] / 1000
    assert one(resources(parts), "Deployment")["spec"]["minReadySeconds"] >= ask_again_s + 30


@each
def test_the_grace_period_holds_all_waits_of_a_stop(parts, settings_of):
    documents = resources(parts)
    settings = settings_of(documents)
    pod = one(documents, "Deployment")["spec"]["template"]["spec"]
    asleep_s = container(documents)["lifecycle"]["preStop"]["sleep"]["seconds"]
    whole_s = asleep_s + settings.drain_delay_s + settings.drain_s
    assert asleep_s >= 5  # for endpoints to reach those who use them
    assert pod["terminationGracePeriodSeconds"] >= whole_s + 10


@each
def test_memory_and_processors_are_what_the_settings_ask_for(parts, settings_of):
    documents = resources(parts)
    settings = settings_of(documents)
    requests = container(documents)["resources"]["requests"]
    held = settings.cache_bytes + settings.image_cache_bytes + settings.max_bytes_under_way
    assert in_bytes(requests["memory"]) >= held + 1.5 * GIB  # torch, and a small model
    assert settings.torch_threads == settings.image_threads == int(requests["cpu"])
    assert settings.log_format == "json"


@pytest.mark.parametrize("name", [name for name in SERVING if name != "cpu-dev"])
def test_a_gpu_for_each_replica_and_models_from_the_store(name, tmp_path):
    documents = overlay(name)
    resources = container(documents)["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] == 1
    data = one(documents, "ConfigMap", "pairlens-config")["data"]
    (tmp_path / "models.yaml").write_text(data["models.yaml"], encoding="utf-8")
    mounted = {mount["mountPath"] for mount in container(documents)["volumeMounts"]}
    assert "/models" in mounted
    assert variables(container(documents), documents)["PAIRLENS_MODELS"] == (
        "/etc/pairlens/models.yaml"
    )
    for model in load_model_configs(tmp_path / "models.yaml"):
        assert model.checkpoint is not None
        assert model.checkpoint.parent == Path("/models")
        assert model.device == "cuda"


def test_an_image_of_models_takes_the_place_of_the_volume():
    documents = with_components("production", "model-store-image")
    spec = one(documents, "Deployment")["spec"]["template"]["spec"]
    (volume,) = (volume for volume in spec["volumes"] if volume["name"] == "models")
    assert volume.keys() == {"name", "emptyDir"}
    assert "PersistentVolumeClaim" not in {document["kind"] for document in documents}


def test_secrets_are_mounted_where_the_settings_look_for_them(settings_of):
    parts = ("production", "mutual-tls")
    settings = settings_of(resources(parts))
    spec = one(resources(parts), "Deployment")["spec"]["template"]["spec"]
    secrets = {v["name"]: v["secret"]["secretName"] for v in spec["volumes"] if "secret" in v}
    places = {
        mount["mountPath"]: secrets[mount["name"]]
        for mount in container(resources(parts))["volumeMounts"]
        if mount["name"] in secrets
    }
    expected = {
        settings.tokens_file: ("pairlens-tokens", "tokens.yaml"),
        settings.tls_cert_file: ("pairlens-tls", "tls.crt"),
        settings.tls_key_file: ("pairlens-tls", "tls.key"),
        settings.tls_client_ca_file: ("pairlens-tls", "ca.crt"),
        settings.redis_password_file: ("pairlens-redis", "password"),
    }
    assert len(expected) == 5
    for path, (secret, key) in expected.items():
        assert path is not None
        assert (places[str(path.parent)], path.name) == (secret, key)


@pytest.mark.parametrize("name", ["redis", "redis-external"])
def test_redis_is_named_as_it_listens(name, settings_of):
    documents = overlay(name)
    settings = settings_of(documents)
    assert settings.redis_url is not None
    port = int(settings.redis_url.get_secret_value().rpartition(":")[2].partition("/")[0])
    policy = one(documents, "NetworkPolicy", "pairlens-server-to-redis")
    assert policy["spec"]["egress"][1]["ports"] == [{"port": port}]
    if name == "redis":
        service = one(documents, "Service", "pairlens-redis")
        assert settings.redis_url.get_secret_value() == "redis://pairlens-redis:6379/0"
        assert [p["port"] for p in service["spec"]["ports"]] == [port]
        (redis,) = one(documents, "StatefulSet")["spec"]["template"]["spec"]["containers"]
        assert [p["containerPort"] for p in redis["ports"]] == [port]


def test_redis_evicts_before_it_runs_out_of_memory():
    documents = overlay("redis")
    conf = one(documents, "ConfigMap", "pairlens-redis")["data"]["redis.conf"]
    lines = [line.split() for line in conf.splitlines() if line and not line.startswith("#")]
    values = dict(lines)
    limit = container(documents, "StatefulSet")["resources"]["limits"]["memory"]
    assert re.fullmatch(r"[0-9]+gb", values["maxmemory"])
    assert int(values["maxmemory"][:-2]) * GIB <= 0.8 * in_bytes(limit)
    assert values["maxmemory-policy"] == "allkeys-lfu"
    assert (values["save"], values["appendonly"]) == ('""', "no")


METRICS = {metric.name for metric in CATALOGUE}


@pytest.mark.parametrize("name", OVERLAYS)
def test_autoscalers_ask_for_metrics_that_there_are(name, settings_of):
    for document in overlay(name):
        if document["kind"] == "HorizontalPodAutoscaler":
            (metric,) = document["spec"]["metrics"]
            asked = metric["pods"]["metric"]["name"]
            most = int(metric["pods"]["target"]["averageValue"])
        elif document["kind"] == "ScaledObject":
            (trigger,) = document["spec"]["triggers"]
            query = trigger["metadata"]["query"]
            (asked,) = re.findall(r"pairlens_\w+", query)
            assert f'namespace="{document["metadata"]["namespace"]}"' in query
            assert 'job="pairlens"' in query
            most = int(trigger["metadata"]["threshold"])
        else:
            continue
        settings = settings_of(overlay(name))
        assert asked in METRICS
        # A full batch may wait; a queue that is about to refuse is too late.
        assert settings.max_batch <= most <= settings.max_queued / 8
        target = document["spec"]["scaleTargetRef"]["name"]
        assert target == one(overlay(name), "Deployment")["metadata"]["name"]


def test_both_autoscalers_behave_alike():
    scaler = one(overlay("production"), "HorizontalPodAutoscaler")["spec"]
    scaled = one(overlay("gpu-keda"), "ScaledObject")["spec"]
    behaviour = scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behaviour == scaler["behavior"]
    assert scaler["behavior"]["scaleDown"]["stabilizationWindowSeconds"] >= 300
    assert (scaled["minReplicaCount"], scaled["maxReplicaCount"]) == (
        scaler["minReplicas"],
        scaler["maxReplicas"],
    )
    assert scaler["minReplicas"] >= 2  # as PodDisruptionBudget and rollouts suppose
    assert scaler["minReplicas"] <= scaled["fallback"]["replicas"] <= scaler["maxReplicas"]


def test_prometheus_scrapes_the_port_of_the_metrics():
    documents = overlay("production")
    (endpoint,) = one(documents, "ServiceMonitor")["spec"]["endpoints"]
    service = service_of_servers(documents)
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert endpoint["path"] == "/metrics"
    selector = one(documents, "ServiceMonitor")["spec"]["selector"]["matchLabels"]
    chosen = [
        document["metadata"]["name"]
        for document in documents
        if document["kind"] == "Service"
        and selector.items() <= document["metadata"]["labels"].items()
    ]
    assert chosen == ["pairlens"]  # of which the operator makes job="pairlens"


def test_rolling_updates_leave_a_server():
    for name in SERVING:
        spec = one(overlay(name), "Deployment")["spec"]
        least = spec["strategy"]["rollingUpdate"]["maxUnavailable"]
        if "replicas" in spec and "gpu" in name:
            assert spec["replicas"] - least >= 1


def test_labels_say_what_every_pod_is():
    for name in OVERLAYS:
        for pod, template in pods(overlay(name)):
            labels = template["metadata"]["labels"]
            assert labels["app.kubernetes.io/name"] == "pairlens", pod
            assert labels["app.kubernetes.io/component"] in (
                *("server", "redis", "warm", "model-loader"),
            )
