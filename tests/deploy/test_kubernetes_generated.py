"""What stands in two places is the same in both, and queries are queries."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from deploy.kubernetes import write_prometheus_rule
from tests.deploy.rendering import KUBERNETES, ROOT, needs_kubectl, one, overlay

PROMETHEUS = ROOT / "deploy" / "prometheus"
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (prometheus)"
)


def test_the_rules_of_the_operator_are_those_of_prometheus():
    assert write_prometheus_rule.PATH.read_text(encoding="utf-8") == (
        write_prometheus_rule.manifest()
    ), "run python deploy/kubernetes/write_prometheus_rule.py"


@needs_kubectl
@needs_promtool
@pytest.mark.parametrize(("name", "kind"), [("recording", "record"), ("alerts", "alert")])
def test_kustomize_keeps_every_rule(name, kind, tmp_path):
    found = one(overlay("prometheus-operator"), "PrometheusRule", f"pairlens-{name}")["spec"]
    text = (PROMETHEUS / f"{name}.yaml").read_text(encoding="utf-8")
    assert found == yaml.safe_load(text)
    assert sum(kind in rule for group in found["groups"] for rule in group["rules"]) >= 10
    promtool(tmp_path, found)


@needs_kubectl
def test_the_dashboard_is_that_of_grafana():
    config = one(overlay("prometheus-operator"), "ConfigMap", "pairlens-dashboard")
    # What Grafana's sidecar looks for.
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    (content,) = config["data"].values()
    path = ROOT / "deploy" / "grafana" / "pairlens.json"
    assert json.loads(content) == json.loads(path.read_text(encoding="utf-8"))
    assert len(content) < 2**20  # what a ConfigMap may hold


@needs_kubectl
@needs_promtool
def test_the_queries_of_the_autoscalers_are_queries(tmp_path: Path):
    (trigger,) = one(overlay("gpu-keda"), "ScaledObject")["spec"]["triggers"]
    adapter = yaml.safe_load(
        (KUBERNETES / "components" / "hpa" / "prometheus-adapter.yaml").read_text(encoding="utf-8")
    )
    (rule,) = adapter["rules"]["custom"]
    (metric,) = one(overlay("production"), "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert rule["name"]["as"] == metric["pods"]["metric"]["name"]
    query = rule["metricsQuery"]
    for placeholder, text in (
        ("<<.Series>>", rule["seriesQuery"].partition("{")[0]),
        ("<<.LabelMatchers>>", 'namespace="pairlens",pod=~"pairlens-a|pairlens-b"'),
        ("<<.GroupBy>>", "pod"),
    ):
        assert placeholder in query
        query = query.replace(placeholder, text)
    queries = [trigger["metadata"]["query"], query, rule["seriesQuery"]]
    rules = [{"record": f"query:{index}", "expr": text} for index, text in enumerate(queries)]
    promtool(tmp_path, {"groups": [{"name": "queries", "rules": rules}]})


def promtool(folder: Path, rules: object) -> None:
    path = folder / "rules.yaml"
    path.write_text(yaml.safe_dump(rules), encoding="utf-8")
    command = ["promtool", "check", "rules", "--lint=all", "--lint-fatal", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
