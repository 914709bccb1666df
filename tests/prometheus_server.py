"""A real Prometheus in a process of its own, on a free port."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

_START_TIMEOUT_S = 60
_REQUEST_TIMEOUT_S = 30
_STOP_TIMEOUT_S = 20


@dataclass(frozen=True)
class Sample:
    """One series of an answer.

    Attributes:
        labels: Its name among them, as `__name__`.
        points: Unix time in seconds, and value; of an instant query, one.
    """

    labels: dict[str, str]
    points: tuple[tuple[float, float], ...]

    @property
    def value(self) -> float:
        """The last one."""
        return self.points[-1][1]


class QueryError(Exception):
    """Prometheus refuses an expression, and says why."""


@dataclass
class PrometheusProcess:
    """A Prometheus under test.

    Attributes:
        url: `http://HOST:PORT`.
        process: It.
        folder: With its configuration, its data and `log.txt`.
    """

    url: str
    process: subprocess.Popen[bytes]
    folder: Path

    def get(self, path: str, **parameters: str) -> Any:
        """`data` of an answer of its HTTP API.

        Raises:
            QueryError: It answers with an error.
        """
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=_REQUEST_TIMEOUT_S) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise QueryError(f"{parameters}: {error.read().decode()}") from error

    def query(self, expression: str, at_s: float | None = None) -> list[Sample]:
        """Series that a PromQL expression gives now, or at a Unix time."""
        when = {} if at_s is None else {"time": str(at_s)}
        data = self.get("query", query=expression, **when)
        if data["resultType"] == "scalar":
            return [Sample({}, (_point(data["result"]),))]
        return [Sample(s["metric"], (_point(s["value"]),)) for s in data["result"]]

    def query_range(
        self, expression: str, start_s: float, end_s: float, step_s: float
    ) -> list[Sample]:
        """Series of an expression from one Unix time to another."""
        data = self.get(
            "query_range",
            query=expression,
            start=str(start_s),
            end=str(end_s),
            step=str(step_s),
        )
        return [Sample(s["metric"], tuple(map(_point, s["values"]))) for s in data["result"]]

    def rules(self) -> list[dict[str, Any]]:
        """All rules with their health; `lastError` says what is wrong with one."""
        return [rule for group in self.get("rules")["groups"] for rule in group["rules"]]

    def wait_for(self, expression: str, timeout_s: float = 60) -> list[Sample]:
        """Ask until an expression gives something."""
        end = time.monotonic() + timeout_s
        while not (found := self.query(expression)):
            assert time.monotonic() < end, f"nothing in {timeout_s} s: {expression}"
            time.sleep(0.2)
        return found

    @property
    def log(self) -> str:
        """What it has written so far."""
        return (self.folder / "log.txt").read_text(encoding="utf-8")

    def ready(self) -> None:
        """Wait until it listens, and answers queries."""
        end = time.monotonic() + _START_TIMEOUT_S
        while True:
            assert self.process.poll() is None, self.log
            assert time.monotonic() < end, self.log
            bound = re.search(r'msg="Listening on" address=(127\.0\.0\.1:\d+)', self.log)
            if bound:
                self.url = f"http://{bound[1]}"
                if _is_ready(self.url):
                    return
            time.sleep(0.05)


def _point(point: Sequence[Any]) -> tuple[float, float]:
    return float(point[0]), float(point[1])


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=_REQUEST_TIMEOUT_S) as answer:
            return bool(answer.status == 200)
    except urllib.error.URLError:
        return False


def scrape_config(config: Path, targets: Sequence[str], interval_s: float) -> dict[str, Any]:
    """A Prometheus configuration with other targets and intervals."""
    settings: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8"))
    interval = f"{round(interval_s * 1000)}ms"
    settings["global"] = {"scrape_interval": interval, "evaluation_interval": interval}
    (job,) = settings["scrape_configs"]
    job["static_configs"] = [{"targets": list(targets)}]
    # Not above the interval.
    job["scrape_timeout"] = interval
    return settings


@contextmanager
def prometheus_server(
    folder: Path, config: Path, targets: Sequence[str], interval_s: float = 1.0
) -> Iterator[PrometheusProcess]:
    """Start a Prometheus that scrapes some servers; it is ended with the block.

    The test is skipped where there is no Prometheus.

    Args:
        folder: Where it keeps its data.
        config: Configuration with one job, whose targets are replaced; its rules are copied.
        targets: HOST:PORT of the servers.
        interval_s: Between scrapes, and between evaluations of the rules.
    """
    executable = shutil.which("prometheus")
    if executable is None:
        pytest.skip("needs a Prometheus: install the package prometheus")
    folder.mkdir(parents=True, exist_ok=True)
    settings = scrape_config(config, targets, interval_s)
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    for name in settings["rule_files"]:
        shutil.copy(config.parent / name, folder / name)
    # Relative, since its pages show the paths of the rules.
    command = [executable, "--config.file=prometheus.yaml", "--storage.tsdb.path=data"]
    command += ["--web.listen-address=127.0.0.1:0"]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        server = PrometheusProcess("", process, folder)
        server.ready()
        yield server
    finally:
        # It writes down first what it knows, for whoever starts it again on its folder.
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
