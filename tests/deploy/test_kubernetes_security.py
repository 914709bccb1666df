"""What pods may do: the restricted Pod Security Standard, and nothing secret in a manifest."""

import re
from typing import Any

import pytest

from pairlens_server import __version__
from tests.deploy.rendering import (
    OVERLAYS,
    Document,
    containers,
    needs_kubectl,
    overlay,
    pods,
    with_components,
)

pytestmark = needs_kubectl

# https://kubernetes.io/docs/concepts/security/pod-security-standards/, profile Restricted.
VOLUME_TYPES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral"),
    *("persistentVolumeClaim", "projected", "secret"),
}
ALL = [(name,) for name in OVERLAYS] + [
    ("cpu-dev", "model-store-image"),
    ("production", "model-store-image"),
    ("production", "mutual-tls", "tracing"),
    ("warm", "client-credentials"),
]


def resources(parts: tuple[str, ...]) -> tuple[Document, ...]:
    return with_components(*parts) if len(parts) > 1 else overlay(parts[0])


all_pods = pytest.mark.parametrize("parts", ALL, ids="+".join)


@all_pods
def test_pods_are_restricted(parts):
    found = list(pods(resources(parts)))
    assert found
    for name, pod in found:
        spec, context = pod["spec"], pod["spec"]["securityContext"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), name
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert "sysctls" not in context
        for volume in spec.get("volumes", ()):
            (kind,) = volume.keys() - {"name"}
            assert kind in VOLUME_TYPES, (name, kind)
        for container in containers(pod):
            security = container["securityContext"]
            assert security == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
            }, name
            assert not any("hostPort" in port for port in container.get("ports", ()))


@all_pods
def test_pods_hold_no_token_of_the_cluster(parts):
    for name, pod in pods(resources(parts)):
        assert pod["spec"]["automountServiceAccountToken"] is False, name
        assert pod["spec"]["enableServiceLinks"] is False, name
    for document in resources(parts):
        if document["kind"] == "ServiceAccount":
            assert document["automountServiceAccountToken"] is False
        assert document["kind"] not in ("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding")


@all_pods
def test_memory_is_bounded_and_never_promised_twice(parts):
    for name, pod in pods(resources(parts)):
        for container in containers(pod):
            requests = container["resources"]["requests"]
            limits = container["resources"]["limits"]
            assert requests.keys() >= {"cpu", "memory", "ephemeral-storage"}, name
            assert limits["memory"] == requests["memory"] or "loader" in name
            assert "ephemeral-storage" in limits
        for volume in pod["spec"].get("volumes", ()):
            assert "emptyDir" not in volume or "sizeLimit" in volume["emptyDir"], name


@all_pods
def test_every_mount_has_a_volume_and_every_volume_a_mount(parts):
    for name, pod in pods(resources(parts)):
        volumes = {volume["name"] for volume in pod["spec"].get("volumes", ())}
        mounts = {m["name"] for c in containers(pod) for m in c.get("volumeMounts", ())}
        assert mounts == volumes, name


@all_pods
def test_images_are_named_with_a_version(parts):
    for name, pod in pods(resources(parts)):
        for container in containers(pod):
            repository, _, tag = container["image"].rpartition(":")
            assert repository, name
            assert re.fullmatch(r"[0-9][0-9A-Za-z._-]*", tag), name
            if repository == "pairlens":
                assert tag == __version__ or tag.startswith(f"{__version__}-")


SECRET = re.compile(r"password|passwd|token|secret|private.key|credential", re.IGNORECASE)
# Names and flags that say where a secret is, or that there is none.
HARMLESS = re.compile(
    r"(/run/secrets/|automountServiceAccountToken|_FILE$|^pairlens-|^(tokens|password)$)"
)


def strings(value: Any, key: str = "") -> list[tuple[str, str]]:
    """Every text below a value, with the key or the name of the variable that it belongs to."""
    if isinstance(value, dict):
        named = str(value.get("name", "")) if "value" in value else ""
        return [
            found
            for name, below in value.items()
            for found in strings(below, named if name == "value" else str(name))
        ]
    if isinstance(value, list):
        return [found for below in value for found in strings(below, key)]
    return [(key, str(value))]


@all_pods
def test_secrets_are_named_and_never_there(parts):
    for document in resources(parts):
        assert document["kind"] != "Secret"
        if document["kind"] == "PrometheusRule" or document["kind"] == "ConfigMap":
            continue  # words for people; settings are looked at below
        for key, text in strings(document):
            if SECRET.search(key) and not HARMLESS.search(key):
                assert HARMLESS.search(text) or text == "False", (key, text)


@all_pods
def test_settings_hold_no_secret(parts):
    for document in resources(parts):
        if document["kind"] != "ConfigMap" or "dashboard" in document["metadata"]["name"]:
            continue
        for text in document["data"].values():
            settings = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
            assert not any(SECRET.search(line) for line in settings)
            assert "BEGIN" not in text
            assert not re.search(r"://[^/\s]*:[^/\s]*@", text)  # user:password@host


def test_the_search_for_secrets_finds_one():
    assert ("API_TOKEN", "abc") in strings({"env": [{"name": "API_TOKEN", "value": "abc"}]})
    assert SECRET.search("API_TOKEN")
    assert not HARMLESS.search("API_TOKEN")
