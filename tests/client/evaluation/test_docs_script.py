"""The script behind the page of results, on a small evaluation."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest

from pairlens.evaluation.runner import run_protocol
from tests.client.evaluation.fakes import FakeProtocol

SCRIPT = Path(__file__).parents[3] / "docs" / "evaluate_methods.py"


@pytest.fixture
def script(monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("evaluate_methods", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "evaluate_methods", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    return module


def test_results_are_kept_and_make_a_table(script, tmp_path):
    evaluation = run_protocol(FakeProtocol(12), tmp_path / "run", progress=False)
    script.keep(evaluation, "tiny", tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == [
        "tiny.json",
        "tiny.png",
    ]
    document = json.loads((tmp_path / "results" / "tiny.json").read_text())
    difference = evaluation.difference("rollout", "random")
    assert document["better_than_best_control"] == {
        "control": "random",
        "differences": {"rollout": [difference.mean, difference.low, difference.high]},
    }
    table = script.table((script.Column("good", "tiny", "good"),)).splitlines()
    assert [line.split(" | ")[0] for line in table[2:4]] == ["| `rollout`", "| *random*"]
    assert f"tiny: 12 cases (configuration {evaluation.hash})." in table[-1]
    shutil.rmtree(tmp_path / "results")
    assert script.results("tiny") == {"table": [], "hash": ""}
