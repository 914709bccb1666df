"""What 'Operating pairlens' names is there, and its way onto Kubernetes renders."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from pairlens_server.config import ServerSettings
from pairlens_server.telemetry.catalogue import CATALOGUE
from tests.deploy.prometheus_rules import ALERTS, RECORDING, rules
from tests.deploy.rendering import (
    KUBERNETES,
    ROOT,
    Document,
    container,
    containers,
    needs_kubectl,
    one,
    overlay,
    pods,
    render,
    variables,
)
from tests.docs.operating_walk import PAGE, TEXT
from tests.docs.pages import blocks, broken_links, code_spans

IMAGE = "registry.example.com/search/pairlens:0.1.0-cu132"
SHELL = "\n".join(block.code for block in blocks(TEXT) if block.language == "sh")
SETTINGS = ServerSettings.model_fields


def yaml_block(sign: str) -> str:
    (found,) = (b.code for b in blocks(TEXT) if b.language == "yaml" and sign in b.code)
    return found


def shell_block(sign: str) -> str:
    (found,) = (b.code for b in blocks(TEXT) if b.language == "sh" and sign in b.code)
    return found


def bash(code: str, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        ["bash", "-euc", code],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_links_and_pictures_are_there():
    assert list(broken_links(PAGE)) == []
    pictures = set(re.findall(r"\]\(operating/([\w-]+\.png)\)", TEXT))
    assert pictures == {path.name for path in (PAGE.parent / "operating").glob("*.png")}


def test_settings_are_settings():
    named = {span for span in code_spans(TEXT) if re.fullmatch(r"[a-z]+(_[a-z]+)+", span)}
    assert "drain_delay_s" in named
    assert named - {"runbook_url"} <= SETTINGS.keys()
    written = yaml.safe_load(yaml_block("# mine/config.yaml"))
    assert written.keys() <= SETTINGS.keys()
    assert len(written) == 5


def test_metrics_rules_and_alerts_are_exported():
    exported = {metric.name for metric in CATALOGUE} | {r["record"] for r in rules(RECORDING)}
    asked = set(re.findall(r"(?:[\w]+:)?pairlens_[a-z_]+(?::\w+)?", TEXT)) - {"pairlens_server"}
    assert len(asked) >= 5
    assert asked <= exported
    alerts = set(re.findall(r"\bPairlens[A-Z]\w+", TEXT))
    assert len(alerts) >= 4
    assert alerts <= {rule["alert"] for rule in rules(ALERTS)}


def test_paths_are_there():
    named = set(re.findall(r"(?<![\w/])(?:deploy|overlays|components)/[\w./-]*\w", TEXT))
    assert len(named) >= 12
    for path in named:
        assert (ROOT / path).exists() or (KUBERNETES / path).exists(), path


def test_the_unit_of_systemd():
    (code,) = (block.code for block in blocks(TEXT) if block.language == "ini")
    unit = configparser.ConfigParser()
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(code)
    service = unit["Service"]
    longest_s = sum(SETTINGS[name].default for name in ("drain_delay_s", "drain_s"))
    assert float(service["TimeoutStopSec"]) >= longest_s + 10
    for name in ("drain_delay_s", "drain_s"):
        assert f"{name} ({SETTINGS[name].default:g})" in code
    assert "--config" in shlex.split(service["ExecStart"])


def test_severities_are_those_of_the_alerts():
    routing = yaml.safe_load(yaml_block("receiver:"))
    severities = {rule["labels"]["severity"] for rule in rules(ALERTS)}
    (route,) = routing["route"]["routes"]
    (inhibit,) = routing["inhibit_rules"]
    matchers = [*route["matchers"], *inhibit["source_matchers"], *inhibit["target_matchers"]]
    assert {matcher.split('"')[1] for matcher in matchers} == severities


def test_prometheus_is_where_the_manifests_expect_it():
    helm = shell_block("helm install prometheus ")
    (scaled,) = yaml.safe_load_all(
        (KUBERNETES / "components" / "keda" / "scaled-object.yaml").read_text(encoding="utf-8")
    )
    address = scaled["spec"]["triggers"][0]["metadata"]["serverAddress"]
    url, port = re.search(r"prometheus\.url=(\S+) --set prometheus\.port=(\d+)", helm).groups()
    assert f"{url}:{port}" == address
    policies = (KUBERNETES / "base" / "network-policy.yaml").read_text(encoding="utf-8")
    assert "kubernetes.io/metadata.name: monitoring" in policies
    assert set(re.findall(r"--namespace (\w+)", helm)) == {"monitoring"}


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The top of a repository in which the page is followed up to step 4."""
    folder = tmp_path_factory.mktemp("top")
    (folder / "deploy").symlink_to(ROOT / "deploy")
    bash(shell_block("mkdir my-pairlens"), folder)
    text = yaml_block("# my-pairlens/kustomization.yaml")
    (folder / "my-pairlens" / "kustomization.yaml").write_text(text, encoding="utf-8")
    return folder


@needs_kubectl
def test_the_overlay_renders(top: Path):
    documents = render(top / "my-pairlens")
    bash(shell_block("kubectl kustomize my-pairlens"), top)
    images = {c["image"] for _, pod in pods(documents) for c in containers(pod)}
    assert images - {container(overlay("production"), "StatefulSet")["image"]} == {IMAGE}
    assert len(documents) == len(overlay("production"))
    assert one(documents, "ConfigMap", "pairlens-dashboard")


@needs_kubectl
def test_without_gpus(top: Path):
    production = yaml.safe_load((KUBERNETES / "overlays/production/kustomization.yaml").read_text())
    folder = top / "my-cpu"
    folder.mkdir()
    (folder / "models.yaml").write_text("models: []\n")
    ours = yaml.safe_load(yaml_block("# my-pairlens/kustomization.yaml"))
    ours["resources"] = ["../deploy/kubernetes/overlays/cpu-dev"]
    ours["configMapGenerator"][0]["files"] = ["models.yaml"]
    own = [f"../deploy/kubernetes/overlays/production/{path}" for path in production["components"]]
    names = [os.path.normpath(path) for path in own]
    ours["components"] = [*names, "../deploy/kubernetes/components/model-store-pvc"]
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(ours))
    documents = render(folder)
    found = container(documents)
    assert "nvidia.com/gpu" not in found["resources"]["limits"]
    assert variables(found)["PAIRLENS_MODELS"] == "/etc/pairlens/models.yaml"
    assert one(documents, "HorizontalPodAutoscaler")


@needs_kubectl
def test_the_gallery_is_warmed_with_credentials(top: Path):
    code = shell_block("my-warm")
    bash(code[: code.index("kubectl")], top)
    documents = render(top / "my-warm")
    job = one(documents, "Job")
    found = variables(container(documents, "Job"))
    assert job["spec"]["completions"] == int(found["PARTS"]) == 64
    assert job["spec"]["parallelism"] == 16
    assert container(documents, "Job")["image"] == IMAGE
    models = yaml.safe_load((KUBERNETES / "overlays/gpu/models.yaml").read_text(encoding="utf-8"))
    assert found["MODEL"] in [model["name"] for model in models["models"]]
    assert "PAIRLENS_TOKEN_FILE" in found


@needs_kubectl
def test_the_loader_has_the_image(top: Path):
    code = shell_block("overlays/model-loader")
    pipeline = code[code.index("kubectl kustomize") : code.index("kubectl apply -f -")] + "cat"
    (pod,) = yaml.safe_load_all(bash(pipeline, top))
    assert [c["image"] for c in containers(pod)] == [IMAGE]
    name = pod["metadata"]["name"]
    assert f"pod/{name}" in code
    assert f"delete pod {name}" in code
    assert f"pairlens/{name}:/models" in code


@needs_kubectl
def test_the_secrets_have_the_keys_that_are_mounted(top: Path):
    mine = top / "mine"
    mine.mkdir()
    bash(shell_block("openssl req"), top)
    bash(shell_block("> mine/ops.token"), top)
    bash("openssl rand -hex 32 > mine/password", top)
    lines = SHELL.replace("\\\n", " ").splitlines()
    keys: dict[str, set[str]] = {}
    for line in lines:
        if line.startswith("kubectl create secret") and "--dry-run" not in line:
            secret: Document = json.loads(bash(f"{line} --dry-run=client --output=json", top))
            assert secret["metadata"]["namespace"] == "pairlens"
            keys[secret["metadata"]["name"]] = set(secret["data"])
    asked = [container(overlay("production")), container(render(top / "my-warm"), "Job")]
    found = [
        match.groups()
        for one_of_them in asked
        for value in variables(one_of_them).values()
        if (match := re.fullmatch(r"/run/secrets/([\w-]+)/([\w.]+)", value))
    ]
    assert {name for name, _ in found} == keys.keys()
    assert all(key in keys[name] for name, key in found)


@needs_kubectl
def test_a_token_secret_is_replaced_by_what_kubectl_makes(top: Path):
    code = shell_block("--dry-run=client").partition("|")[0]
    (secret,) = yaml.safe_load_all(bash(code, top))
    assert set(secret["data"]) == {"tokens.yaml"}
