"""The page of sizes and the runbook: every alert has its entry, and what is named is there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pairlens_server.cache import keys
from pairlens_server.config import ServerSettings
from pairlens_server.errors import PairlensError
from pairlens_server.methods.catalogue import EXPLANATION_METHODS
from pairlens_server.telemetry.catalogue import CATALOGUE
from pairlens_server.telemetry.record import Stage
from tests.benchmark.suites import GPU_SUITES
from tests.deploy.grafana_dashboard import load
from tests.deploy.prometheus_rules import ALERTS, RECORDING, metric_names, promtool, rules
from tests.deploy.rendering import KUBERNETES, ROOT, one, overlay
from tests.docs.pages import (
    anchor,
    blocks,
    broken_links,
    code_spans,
    headings,
    section,
    without_blocks,
)

PAGE = ROOT / "deploy" / "README.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = blocks(TEXT)
ALERT_NAMES = {rule["alert"] for rule in rules(ALERTS)}
ENTRIES = [title for title in headings(TEXT, 3) if title.startswith("Pairlens")]
QUERIES = [block.code.strip() for block in BLOCKS if block.language == "promql"]
SHELL = [block.code for block in BLOCKS if block.language == "sh"]
EXPLAINED = "Means", "Look first", "Do", "Fine to ignore"
TABLE_HEAD = (
    "| model | Redis: pairs | Redis: Explain besides | pictures a second | server, no caches |"
)
# What is no setting of the server: of models files, of requests, of the autoscaler's components.
OTHER_NAMES = {
    "single_precision",
    "max_message_bytes",
    "evicted_keys",
}


def test_every_alert_has_an_entry_and_every_entry_an_alert():
    assert sorted(ENTRIES) == sorted(ALERT_NAMES)


def test_alerts_link_to_their_entries():
    for rule in rules(ALERTS):
        path, _, place = rule["annotations"]["runbook_url"].partition("#")
        assert ROOT / path == PAGE
        assert place == anchor(rule["alert"]) == rule["alert"].lower()


@pytest.mark.parametrize("alert", sorted(ALERT_NAMES))
def test_an_entry_says_what_one_needs(alert: str):
    entry = section(TEXT, alert)
    places = [entry.index(f"**{word}**") for word in EXPLAINED]
    assert places == sorted(places)
    assert "```promql" in entry
    assert panels_of(entry)


def panels_of(text: str) -> list[tuple[str, str]]:
    """Row and panel of each pair in italics."""
    found = re.findall(r"(?<!\*)\*([^*\u203a]+) \u203a\s+([^*]+)\*(?!\*)", text)
    return [(row, " ".join(panel.split())) for row, panel in found]


def test_panels_are_those_of_the_dashboard():
    there: set[tuple[str, str]] = set()
    row = ""
    for panel in load()["panels"]:
        if panel["type"] == "row":
            row = panel["title"].partition(":")[0]
        else:
            there.add((row, panel["title"]))
    named = panels_of(TEXT)
    assert len(named) >= 30
    assert set(named) - {("Row", "Panel")} <= there


def test_queries_are_promql_about_what_is_exported(tmp_path: Path):
    exported = {"up"} | {rule["record"] for rule in rules(RECORDING)}
    for metric in CATALOGUE:
        exported |= {f"{metric.name}{part}" for part in ("", "_bucket", "_sum", "_count")}
    of_the_process = {"start_time_seconds", "cpu_seconds_total", "open_fds", "max_fds"}
    exported |= {f"process_{name}" for name in of_the_process}
    for query in QUERIES:
        assert metric_names(query) <= exported, query
    checked = {"groups": [{"name": "page", "rules": list(recorded())}]}
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(checked), encoding="utf-8")
    done = promtool("check", "rules", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(QUERIES)} rules found" in done.stdout


def recorded() -> Iterator[dict[str, str]]:
    for number, query in enumerate(QUERIES):
        yield {"record": f"page:query_{number}", "expr": query}


def test_links_are_there():
    assert list(broken_links(PAGE)) == []


def test_names_are_of_settings_metrics_and_rules():
    spans = code_spans(TEXT)
    plain = {span for span in spans if re.fullmatch(r"[a-z]+(_[a-z]+)+", span)}
    metrics = {span for span in spans if re.fullmatch(r"(\w+:)?pairlens_\w+(:\w+)?", span)}
    known = {metric.name for metric in CATALOGUE} | {rule["record"] for rule in rules(RECORDING)}
    assert len(metrics) >= 4
    assert metrics <= known
    settings = {name for name in plain - metrics if name in ServerSettings.model_fields}
    assert len(settings) >= 15
    stages = {stage.value for stage in Stage}
    assert plain - metrics - settings - stages - OTHER_NAMES <= methods()
    chosen = {span.partition(":")[0] for span in spans if re.fullmatch(r"[a-z_]+: [\w.]+", span)}
    assert chosen - {"dtype", "admin", "severity"} <= ServerSettings.model_fields.keys()


def methods() -> set[str]:
    return {method.name for method in EXPLANATION_METHODS}


def test_paths_are_there():
    named = set(re.findall(r"(?<![\w/])(?:components|overlays)/[\w-]+", TEXT))
    assert named
    for path in named:
        assert (KUBERNETES / path).exists(), path


def test_every_reason_is_in_the_table():
    rows = re.findall(r"^\| (`[A-Z_`, ]+`) \|", section(TEXT, "Refusals"), re.MULTILINE)
    named = [reason for row in rows for reason in re.findall(r"[A-Z_]+", row)]
    assert sorted(named) == sorted(reasons())


def reasons() -> set[str]:
    found, rest = set(), [PairlensError]
    while rest:
        kind = rest.pop()
        found.add(kind.reason)
        rest += kind.__subclasses__()
    return found


def test_commands_of_pairlens_are_there():
    lines = [line for code in SHELL for line in code.splitlines()]
    named = [text for text in (*lines, *code_spans(TEXT)) if text.startswith("pairlens ")]
    asked = {tuple(text.split()[1:3]) for text in named}
    assert asked == {("methods",), ("server", "status")}
    for words in asked:
        command = [sys.executable, "-m", "pairlens", *words, "--help"]
        assert subprocess.run(command, capture_output=True, timeout=60).returncode == 0


LOG = """listening on 0.0.0.0:50051
{"message": "pairlens-server ready", "logger": "pairlens_server.serving"}
{"client": "a", "peer": "10.0.0.7", "reason": "QUEUE_FULL", "code": "RESOURCE_EXHAUSTED"}
{"client": "b", "peer": "10.0.0.8", "reason": "OUT_OF_MEMORY", "code": "RESOURCE_EXHAUSTED"}
{"client": "c", "peer": "10.0.0.8", "reason": "INTERNAL", "code": "INTERNAL"}
"""


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
def test_filters_of_the_log():
    found = []
    for filter_ in re.findall(r"jq -R\w* '([^']+)'", TEXT):
        command = ["jq", "-Rr", filter_]
        done = subprocess.run(command, input=LOG, capture_output=True, text=True, check=True)
        found.append(re.findall(r"\b[abc]\b|10\.0\.0\.\d", done.stdout))
    assert found == [["c", "10.0.0.8"], ["a"], ["b"], ["10.0.0.7", "10.0.0.8", "10.0.0.8"]]


def test_benchmarks_are_there():
    (line,) = (line for code in SHELL for line in code.splitlines() if "--only" in line)
    assert set(line.partition("--only ")[2].split()) == set(GPU_SUITES)
    assert re.search(r"^bench:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def test_deployments_and_labels_are_those_of_the_manifests():
    documents = overlay("production")
    named = {(d["kind"].lower(), d["metadata"]["name"]) for d in documents}
    labels: set[str] = {
        json.dumps(d["metadata"].get("labels", {}).get("app.kubernetes.io/component"))
        for d in documents
    }
    for code in SHELL:
        for kind, name in re.findall(r"\b(deployment|job)/([\w-]+)", code):
            assert (kind, name) in named
        for component in re.findall(r"component=(\w+)", code):
            assert json.dumps(component) in labels
    policies = {name for kind, name in named if kind == "networkpolicy"}
    assert set(re.findall(r"NetworkPolicy\s+`([\w-]+)`", TEXT)) <= policies


ARITHMETIC = re.compile(r"^([\d.(][\d.() *+/-]*[\d)]) = ([\d.]+)(?: |$)", re.MULTILINE)


def test_the_arithmetic_is_right():
    examples = [b.code for b in BLOCKS if not b.language and b.code[0].isdigit()]
    lines = ARITHMETIC.findall("".join(examples))
    assert len(examples) == 3
    assert len(lines) == "".join(examples).count("\n")
    for expression, result in lines:
        value = eval(expression, {"__builtins__": {}})  # digits and operators alone
        assert value == pytest.approx(float(result), rel=0.01), expression
    in_prose = re.findall(r"(\d[\d */\u00d7.]+\d) =\s+([\d,.]*\d)", without_blocks(TEXT))
    assert len(in_prose) == 4
    for expression, result in in_prose:
        value = eval(expression.replace("\u00d7", "*"), {"__builtins__": {}})
        assert value == pytest.approx(float(result.replace(",", "")), rel=1e-9), expression


def test_numbers_are_those_of_code_and_manifests():
    words = " ".join(TEXT.split())
    assert f"keys begin with the schema, {keys.SCHEMA} now" in words
    gpu: Any = one(overlay("gpu"), "Deployment")["spec"]["template"]["spec"]["containers"][0]
    settings = yaml.safe_load(one(overlay("gpu"), "ConfigMap")["data"]["config.yaml"])
    limit = gpu["resources"]["limits"]["memory"].removesuffix("Gi")
    cache = settings["cache_bytes"] / 2**30
    assert f"gives {limit} GiB for {cache:g} GiB of cache" in words
    scaler = one(overlay("production"), "HorizontalPodAutoscaler")["spec"]["metrics"][0]
    assert f"queue of {scaler['pods']['target']['averageValue']} forward passes" in words
    keda: Any = one(overlay("gpu-keda"), "ScaledObject")["spec"]
    assert f"KEDA falls back to {keda['fallback']['replicas']} replicas" in words


def test_rates_are_those_of_the_benchmarks():
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (picture|pair|Explain).*?\| ([\d.]+) ms", TEXT, re.MULTILINE)
    assert len(rows) == 4
    for _, milliseconds in rows:
        assert f"| {milliseconds} ms |" in page, milliseconds
    for milliseconds, rate in re.findall(r"([\d.]+) ms, ([\d,]+) a second", TEXT):
        assert 1000 / float(milliseconds) == pytest.approx(float(rate.replace(",", "")), rel=0.03)


def test_the_examples_use_the_measured_size():
    table = TEXT[TEXT.index("<!-- sizing -->") : TEXT.index("<!-- /sizing -->")]
    assert TABLE_HEAD in table
    sizes = dict(re.findall(r"^\| (ViT-B/16) at 224 \| ([\d,]+) KB", table, re.MULTILINE))
    for size in sizes.values():
        assert float(size.replace(",", "")) == pytest.approx(306, rel=0.05)
