"""The rule files of deploy/prometheus, and what promtool says of them."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"
RECORDING = FOLDER / "recording.yaml"
ALERTS = FOLDER / "alerts.yaml"
CASES = sorted((FOLDER / "tests").glob("*.yaml"))

_LABELS_FOLLOW = {"by", "without", "on", "ignoring", "group_left", "group_right"}
_KEYWORDS = _LABELS_FOLLOW | {"and", "or", "unless", "bool", "offset", "inf", "nan"}
_SELECTOR = re.compile(r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?P<matchers>\{[^{}]*\})?")
_STRING = r'"(?:[^"\\]|\\.)*"'


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run promtool; the test is skipped where there is none."""
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("needs promtool, of the package prometheus")
    return subprocess.run([found, *arguments], capture_output=True, text=True, timeout=60)


def rules(path: Path) -> list[dict[str, Any]]:
    """Rules of a file, in order."""
    groups = yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


@dataclass(frozen=True)
class AlertCase:
    """What a unit test expects of an alert at one time.

    Attributes:
        name: Of the test, one of a kind.
        alert: Name.
        at: Time of evaluation, such as `5m`.
        firing: Severities that are to fire then.
        silent: Those that are not to.
    """

    name: str
    alert: str
    at: str
    firing: frozenset[str]
    silent: frozenset[str]


def alert_cases() -> Iterator[AlertCase]:
    """All expectations about alerts in the unit tests."""
    for file in CASES:
        for group in yaml.safe_load(file.read_text(encoding="utf-8"))["tests"]:
            for test in group["promql_expr_test"]:
                asked = re.search(r'ALERTS\{alertname="(\w+)"([^}]*)\}', test["expr"])
                if asked is None:
                    continue
                only = re.search(r'severity="(\w+)"', asked[2])
                samples = " ".join(sample["labels"] for sample in test["exp_samples"])
                firing = frozenset(re.findall(r'severity="(\w+)"', samples))
                of_interest = {only[1]} if only else {"page", "ticket"}
                silent = frozenset(of_interest - firing)
                yield AlertCase(group["name"], asked[1], test["eval_time"], firing, silent)


def selectors(expression: str) -> set[str]:
    """The vector selectors of a PromQL expression, each with its matchers: `up{job="x"}`.

    Functions, keywords and lists of labels are left out; a metric name of whatever spelling is not.
    """
    found = set()
    # Within quotes anything may stand.
    strings = re.findall(_STRING, expression)
    text = re.sub(_STRING, '""', re.sub(r"\[[^\]]*\]", "", expression))
    for word in _LABELS_FOLLOW:
        text = re.sub(rf"\b{word}\s*\([^)]*\)", lambda m: '""' * m[0].count('""'), text)
    text = re.sub(r"\boffset\s+\S+", "", text)
    text = re.sub(r"(?<![\w:])[0-9][\w.]*", "", text)
    remaining = iter(strings)
    for match in _SELECTOR.finditer(text):
        name, matchers = match["name"], match["matchers"] or ""
        matchers = re.sub('""', lambda _: next(remaining), matchers)
        is_function = text[match.end() :].lstrip().startswith("(")
        if name in _KEYWORDS or (is_function and not matchers):
            continue
        found.add(name + matchers)
    return found


def metric_names(expression: str) -> set[str]:
    """Names of the metrics that a PromQL expression asks for."""
    return {selector.partition("{")[0] for selector in selectors(expression)}
