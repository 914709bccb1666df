"""Every overlay renders, and is what Kubernetes and the operators take."""

import copy
import functools
import json
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest

from tests.deploy.rendering import (
    KUBERNETES,
    OVERLAYS,
    SERVING,
    Document,
    needs_kubectl,
    one,
    overlay,
    with_components,
)

pytestmark = needs_kubectl

# Each is there twice, strict and not.
VERSIONS = list(dict.fromkeys(kubernetes_validate.utils.all_versions()))[-3:]
CUSTOM = ("ScaledObject", "ServiceMonitor", "PrometheusRule")
# What the overlays leave to choose.
FURTHER = (
    ("cpu-dev", "tokens"),
    ("cpu-dev", "tls", "mutual-tls"),
    ("cpu-dev", "tracing"),
    ("cpu-dev", "hpa"),
    ("cpu-dev", "redis-in-cluster"),
    ("cpu-dev", "model-store-image"),
    ("production", "model-store-image"),
    ("warm", "client-credentials"),
    ("production", "mutual-tls", "tracing"),
)


@pytest.fixture(scope="module", autouse=True)
def _read_once():
    """It reads megabytes of schemas for every resource."""
    with pytest.MonkeyPatch.context() as patch:
        utils = kubernetes_validate.utils
        patch.setattr(utils, "schema_contents", functools.cache(utils.schema_contents))
        yield


def validator(kind: str) -> jsonschema.Draft202012Validator:
    path = Path(__file__).parent / "schemas" / f"{kind.lower()}.json"
    return jsonschema.Draft202012Validator(json.loads(path.read_text(encoding="utf-8")))


def check(documents: tuple[Document, ...], version: str) -> None:
    for document in documents:
        assert {"apiVersion", "kind", "metadata"} <= document.keys()
        if document["kind"] in CUSTOM:
            validator(document["kind"]).validate(document)
        else:
            kubernetes_validate.validate(document, version, strict=True)
    names = [(d["kind"], d["metadata"].get("namespace"), d["metadata"]["name"]) for d in documents]
    assert len(names) == len(set(names))


def test_the_newest_three_versions():
    assert len(VERSIONS) == 3
    # Of what preStop needs: `sleep` is stable since 1.34.
    assert all(tuple(map(int, v.split(".")[:2])) >= (1, 34) for v in VERSIONS)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", OVERLAYS)
def test_overlay(name, version):
    check(overlay(name), version)


@pytest.mark.parametrize("parts", FURTHER, ids="+".join)
def test_with_further_components(parts):
    check(with_components(*parts), VERSIONS[-1])


def test_every_component_is_rendered_somewhere():
    used = {component for _, *components in FURTHER for component in components}
    for name in OVERLAYS:
        text = (KUBERNETES / "overlays" / name / "kustomization.yaml").read_text(encoding="utf-8")
        used |= {line.rpartition("/")[2] for line in text.splitlines() if "/components/" in line}
    assert used == {path.name for path in (KUBERNETES / "components").iterdir()}


@pytest.mark.parametrize("name", OVERLAYS)
def test_everything_is_in_the_namespace(name):
    assert {document["metadata"].get("namespace") for document in overlay(name)} == {"pairlens"}


@pytest.mark.parametrize("kind", CUSTOM)
def test_the_schemas_of_operators_refuse_what_is_misspelt(kind):
    documents = overlay("gpu-keda" if kind == "ScaledObject" else "production")
    found = next(document for document in documents if document["kind"] == kind)
    broken = copy.deepcopy(found)
    broken["spec"]["mistake"] = 1
    assert validator(kind).is_valid(found)
    assert not validator(kind).is_valid(broken)


@pytest.mark.parametrize("name", SERVING)
def test_a_change_of_the_settings_rolls_the_pods(name):
    documents = overlay(name)
    config = one(documents, "ConfigMap", "pairlens-config-")
    volumes = one(documents, "Deployment")["spec"]["template"]["spec"]["volumes"]
    (mounted,) = [v["configMap"]["name"] for v in volumes if v["name"] == "config"]
    assert mounted == config["metadata"]["name"] != "pairlens-config"


def test_an_autoscaler_decides_about_replicas_alone():
    for name in SERVING:
        scaled = {"HorizontalPodAutoscaler", "ScaledObject"} & {d["kind"] for d in overlay(name)}
        assert ("replicas" in one(overlay(name), "Deployment")["spec"]) != bool(scaled)
