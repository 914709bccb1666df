"""The configuration of a Prometheus that scrapes the replicas."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

_FOLDER = Path(__file__).parents[1] / "prometheus"
_INTERVAL = "5s"  # a set is tried out for minutes, in which the usual 15 s show little


def prometheus_configuration(metrics: Sequence[str]) -> str:
    """That of `deploy/prometheus/prometheus.yaml`, rules and alerts included, for these replicas.

    Args:
        metrics: HOST:PORT of each replica's /metrics.
    """
    configuration = yaml.safe_load((_FOLDER / "prometheus.yaml").read_text(encoding="utf-8"))
    configuration["global"] = {"scrape_interval": _INTERVAL, "evaluation_interval": _INTERVAL}
    configuration["rule_files"] = [str(_FOLDER / name) for name in configuration["rule_files"]]
    (job,) = configuration["scrape_configs"]
    job["static_configs"] = [{"targets": list(metrics)}]
    text: str = yaml.safe_dump(configuration, sort_keys=False)
    return text
