"""The page of metrics of the server is what the code says."""

import importlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pairlens_server.command_line import parse_command_line
from pairlens_server.telemetry.catalogue import CATALOGUE

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "prometheus.md").read_text(encoding="utf-8")
QUERIES = re.findall(r"```promql\n(.*?)\n```", TEXT, re.DOTALL)


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS)
        yield importlib.import_module("write_prometheus")


def test_the_page_is_as_written_by_the_script(script):
    assert script.page() == TEXT, "run: python docs/write_prometheus.py"


def test_every_metric_is_on_it_once():
    found = re.findall(r"^### (pairlens_\w+)$", TEXT, re.MULTILINE)
    assert sorted(found) == sorted(metric.name for metric in CATALOGUE)


@pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.name)
def test_what_it_says_of_a_metric(metric):
    (entry,) = re.findall(rf"^### {metric.name}\n(.*?)(?=^##|\Z)", TEXT, re.DOTALL | re.MULTILINE)
    assert metric.help in entry
    assert f"\n{metric.kind.value}" in entry
    for label in metric.labels:
        assert f"- `{label.name}`: " in entry
        if not isinstance(label.values, str):
            assert all(f"`{value}`" in entry for value in label.values)
    assert (metric.query in QUERIES) or not metric.query


def test_the_examples_are_promql(tmp_path):
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not here (Debian package prometheus)")
    assert len(QUERIES) > 10
    rules = "".join(
        f"  - record: example:{number}\n    expr: |\n      {query}\n"
        for number, query in enumerate(QUERIES)
    ).replace("example:", "example:n")
    path = tmp_path / "rules.yaml"
    path.write_text(f"groups:\n- name: examples\n  rules:\n{rules}", encoding="utf-8")
    checked = subprocess.run(
        ["promtool", "check", "rules", str(path)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr + checked.stdout


def test_the_commands_are_taken():
    (block,) = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    server, scrape = (line.split() for line in block.splitlines())
    assert server[0] == "pairlens-server"
    listen = parse_command_line(server[1:]).settings.metrics_listen
    assert scrape == ["curl", f"http://{listen}/metrics"]


def test_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+?)\)", TEXT):
        assert link.startswith("https://") or (DOCS / link).exists(), link
