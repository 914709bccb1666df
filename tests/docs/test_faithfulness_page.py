"""The page of results says what the kept tables say."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "faithfulness.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("evaluate_methods", DOCS / "evaluate_methods.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["resnet pairs", "vit pairs", "resnet images", "vit images"])
def test_tables_are_those_of_the_kept_results(script, name):
    found = re.search(rf"<!-- generated: {name} -->\n(.*?)<!-- end -->", PAGE, re.DOTALL)
    assert found is not None
    assert found[1] == script.table(script.TABLES[name]) + "\n"


def test_every_run_has_kept_its_results(script):
    for run in script.RUNS:
        document = script.results(run.name)
        rows = {line["row"] for line in document["table"] if line["cases"]}
        assert {"random", "centre", "edges", "random weights"} <= rows
        most = max(line["cases"] for line in document["table"])
        assert most == run.limit, run.name
        assert not document["failures"], run.name
        if not isinstance(run.methods, str):
            assert set(run.methods) <= rows, run.name


def test_figures_exist():
    for path in re.findall(r"\]\(([^)#]+)", PAGE):
        assert (DOCS / path).exists(), path


def test_numbers_of_the_text_stand_in_the_tables(script):
    # The sentence on rollout is what the default of pairs rests on.
    lines = {line["row"]: line for line in script.results("vit-pairs")["table"]}
    rollout = lines["pooled_decomposition(redistribution=rollout)"]
    assert f"{rollout['specificity']:.3f}" == "0.002"
    assert f"{rollout['partner_correlation']:.2f}" == "0.99"
    assert "specificity of 0.002" in PAGE.replace("\n  ", " ")
