"""What kubectl makes of deploy/kubernetes."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAYS = tuple(sorted(path.name for path in (KUBERNETES / "overlays").iterdir()))
"""All overlays."""

SERVING = tuple(name for name in OVERLAYS if name not in ("warm", "model-loader"))
"""Overlays with a Deployment."""

Document = dict[str, Any]

needs_kubectl = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="kubectl 1.21 or newer is not installed"
)


@cache
def overlay(name: str) -> tuple[Document, ...]:
    """The resources of an overlay; never change them."""
    return render(KUBERNETES / "overlays" / name)


@cache
def with_components(name: str, *components: str) -> tuple[Document, ...]:
    """An overlay with further components upon it; never change them."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        way = os.path.relpath(KUBERNETES, folder)  # kustomize takes no absolute paths
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": "pairlens",
            "resources": [f"{way}/overlays/{name}"],
            "components": [f"{way}/components/{component}" for component in components],
        }
        text = yaml.safe_dump(kustomization)
        (folder / "kustomization.yaml").write_text(text, encoding="utf-8")
        return render(folder)


def render(folder: Path) -> tuple[Document, ...]:
    """The resources that a kustomization describes."""
    command = ["kubectl", "kustomize", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    # It warns of what is deprecated.
    assert not result.stderr, result.stderr
    return tuple(yaml.safe_load_all(result.stdout))


def one(documents: tuple[Document, ...], kind: str, name: str | None = None) -> Document:
    """The only resource of a kind, or with that name; the hash at its end left out."""
    found = [
        document
        for document in documents
        if document["kind"] == kind
        and (name is None or document["metadata"]["name"].startswith(name))
    ]
    assert len(found) == 1, [document["metadata"]["name"] for document in found]
    return found[0]


def pods(documents: tuple[Document, ...]) -> Iterator[tuple[str, Document]]:
    """Name and template of every pod."""
    for document in documents:
        name = f"{document['kind']}/{document['metadata']['name']}"
        if document["kind"] == "Pod":
            yield name, document
        elif "template" in document.get("spec", {}):
            yield name, document["spec"]["template"]


def containers(pod: Document) -> list[Document]:
    """All containers of a pod, those that run first included."""
    spec = pod["spec"]
    return [*spec.get("initContainers", ()), *spec["containers"]]


def container(documents: tuple[Document, ...], kind: str = "Deployment") -> Document:
    """The container of the only resource of a kind."""
    (found,) = one(documents, kind)["spec"]["template"]["spec"]["containers"]
    return dict(found)


def variables(found: Document, documents: tuple[Document, ...] = ()) -> dict[str, str]:
    """Environment of a container, values from ConfigMaps included, but none that a pod only has."""
    values = {}
    for variable in found.get("env", ()):
        if "value" in variable:
            values[variable["name"]] = variable["value"]
        elif "configMapKeyRef" in variable["valueFrom"]:
            reference = variable["valueFrom"]["configMapKeyRef"]
            config = one(documents, "ConfigMap", reference["name"])
            values[variable["name"]] = config["data"][reference["key"]]
    return values
