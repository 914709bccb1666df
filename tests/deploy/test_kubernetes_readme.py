"""What deploy/kubernetes/README.md has people type."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from pairlens_server import __version__
from pairlens_server.config import ServerSettings
from pairlens_server.rpc.auth import Authorizer
from tests.deploy.rendering import (
    KUBERNETES,
    OVERLAYS,
    ROOT,
    container,
    containers,
    needs_kubectl,
    one,
    overlay,
    pods,
    render,
    variables,
)

README = (KUBERNETES / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^ *```(\w+)\n(.*?)^ *```$", README, re.MULTILINE | re.DOTALL)
LINES = [line.strip() for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]


def test_all_overlays_are_in_the_table():
    assert set(re.findall(r"^\| `([a-z-]+)` \|", README, re.MULTILINE)) == set(OVERLAYS)


def test_names_of_settings_are_settings():
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", README))
    assert named
    assert named <= ServerSettings.model_fields.keys()


def test_paths_are_there():
    named = set(re.findall(r"\b(?:deploy|overlays|components)/[\w./-]*\w", README))
    assert len(named) >= 8
    for path in named:
        assert (ROOT / path).exists() or (KUBERNETES / path).exists(), path


def test_numbers_are_those_of_the_manifests():
    documents = overlay("gpu")
    pod = one(documents, "Deployment")["spec"]["template"]["spec"]
    settings = yaml.safe_load(one(documents, "ConfigMap")["data"]["config.yaml"])
    slept = container(documents)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert f"sleeps {slept} s" in README
    assert f"`drain_delay_s` ({settings['drain_delay_s']} s)" in README
    assert f"`drain_s` ({settings['drain_s']} s)" in README
    assert f"({pod['terminationGracePeriodSeconds']} s)" in README
    assert f"pairlens:{__version__}" in README


@needs_kubectl
def test_an_overlay_of_ones_own(tmp_path: Path):
    (text,) = (b for kind, b in BLOCKS if kind == "yaml" and "kind: Kustomization" in b)
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    folder = tmp_path / "my-pairlens"
    folder.mkdir()
    (folder / "kustomization.yaml").write_text(text, encoding="utf-8")
    for name in ("config.yaml", "models.yaml"):
        (folder / name).write_text(f"# mine: {name}\n", encoding="utf-8")
    documents = render(folder)
    data = one(documents, "ConfigMap", "pairlens-config")["data"]
    assert data == {name: f"# mine: {name}\n" for name in ("config.yaml", "models.yaml")}
    images = {c["image"] for _, pod in pods(documents) for c in containers(pod)}
    assert "registry.example.com/search/pairlens:0.1.0-cu132" in images
    claim = one(documents, "PersistentVolumeClaim", "pairlens-models")
    assert claim["spec"]["storageClassName"] == "nfs"


@needs_kubectl
def test_the_secrets_have_the_keys_that_are_mounted(tmp_path: Path, certificate_files):
    (tmp_path / "password").write_text("5f9a1c\n", encoding="utf-8")
    (tmp_path / "tokens.yaml").write_text("[]\n", encoding="utf-8")
    for name, content in certificate_files.items():
        (tmp_path / name).write_bytes(content)
    keys: dict[str, set[str]] = {}
    for line in LINES:
        if line.startswith("kubectl create secret"):
            command = [*shlex.split(line), "--dry-run=client", "--output=json"]
            result = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
            assert result.returncode == 0, result.stderr
            secret = json.loads(result.stdout)
            assert secret["metadata"]["namespace"] == "pairlens"
            keys[secret["metadata"]["name"]] = set(secret["data"])
    found = {
        match[1]: match[2]
        for value in variables(container(overlay("production"))).values()
        if (match := re.fullmatch(r"/run/secrets/([\w-]+)/([\w.]+)", value))
    }
    assert found.keys() == keys.keys()
    assert all(key in keys[name] for name, key in found.items())


@pytest.fixture
def certificate_files() -> dict[str, bytes]:
    trustme = pytest.importorskip("trustme")
    issued = trustme.CA().issue_cert("pairlens")
    return {
        "tls.crt": issued.cert_chain_pems[0].bytes(),
        "tls.key": issued.private_key_pem.bytes(),
    }


def test_the_tokens_are_tokens(tmp_path: Path):
    (text,) = (b for kind, b in BLOCKS if kind == "yaml" and "token:" in b)
    assert [sorted(entry) for entry in yaml.safe_load(text)] == [
        ["name", "token"],
        ["admin", "name", "sha256"],
    ]
    real = text.replace("WHAT-SHA256SUM-SAYS", "a" * 64)
    (tmp_path / "tokens.yaml").write_text(real, encoding="utf-8")
    Authorizer.from_file(tmp_path / "tokens.yaml")
