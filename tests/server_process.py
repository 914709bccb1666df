"""The real server in a process of its own, and small models for it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.request import urlopen

import grpc
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 30

_VIT = {"embed_dim": 16, "depth": 3, "num_heads": 2, "patch_size": 8}
LABELS = ("cat, house cat", "dog", "newt", "eft, newt", "ship", "tram", "oak", "elm")


def _model(name: str, architecture: str, **fields: Any) -> dict[str, Any]:
    return {
        "name": name,
        "architecture": architecture,
        "random_weights": True,
        "seed": 1,
        "device": "cpu",
        **fields,
    }


def _vit(name: str, architecture: str = "vit_tiny_patch16_224", **fields: Any) -> dict[str, Any]:
    return _model(
        name,
        architecture,
        **{
            "classes": 5,
            "preprocessing": {"size": [32, 48], "resize": "stretch"},
            **fields,
            "architecture_options": {**_VIT, **fields.get("architecture_options", {})},
        },
    )


MEAN_POOLED = {"pooling": "avg", "architecture_options": {"class_token": False, "fc_norm": False}}
MODELS: tuple[dict[str, Any], ...] = (
    _vit("tiny-vit", projection={"size": 6}, **MEAN_POOLED),
    _vit("tiny-vit-cls", pooling="token"),
    _vit("tiny-deit", "deit_tiny_distilled_patch16_224"),
    _vit("tiny-registers", pooling="avg", architecture_options={"reg_tokens": 2}),
    _model(
        "tiny-resnet",
        "resnet10t",
        architecture_options={"channels": [8, 16, 16, 32]},
        pooling="avg",
        projection={"size": 6},
        classes=len(LABELS),
        labels="labels.txt",
        preprocessing={"size": [64, 96], "resize": "crop"},
    ),
    _model(
        "tiny-bit",
        "resnetv2_50x1_bit",
        # Not narrower: the 32 groups of the norms divide a quarter of the width.
        architecture_options={"channels": [128, 128, 128, 128]},
        # Whose bias is not zero, as those of the fresh network are: without any, a picture of
        # the mean colour, where paths begin, has no embedding.
        projection={"size": 6},
        classes=5,
        preprocessing={"size": 64},
    ),
    _vit(
        "tiny-fine",
        pooling="avg",
        classes=0,
        preprocessing={"size": 60, "resize": "stretch"},
        architecture_options={"class_token": False, "patch_size": 2, "depth": 1},
    ),
    _vit("tiny-headless", projection={"size": 6}, **{**MEAN_POOLED, "classes": 0}),
)


def write_models(
    folder: Path, names: Sequence[str] | None = None, also: Sequence[dict[str, Any]] = ()
) -> Path:
    """Write a models file with all models, or those named, and others if there are any."""
    (folder / "labels.txt").write_text("\n".join(LABELS) + "\n", encoding="utf-8")
    models = [model for model in MODELS if names is None or model["name"] in names]
    models += also
    path = folder / "models.yaml"
    path.write_text(yaml.safe_dump({"models": models}), encoding="utf-8")
    return path


class Metrics:
    """What a scrape of /metrics gave.

    Args:
        text: In the format of Prometheus.
    """

    def __init__(self, text: str):
        self.families = {f.name: f for f in text_string_to_metric_families(text)}
        self._samples = [sample for family in self.families.values() for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """The sum over all series that have these labels; 0 when there is none."""
        return sum(self.series(name, **labels).values())

    def series(self, name: str, **labels: str) -> dict[tuple[tuple[str, str], ...], float]:
        """Every series that has these labels, by all its labels."""
        return {
            tuple(sorted(sample.labels.items())): sample.value
            for sample in self._samples
            if sample.name == name and labels.items() <= sample.labels.items()
        }


@dataclass
class ServerProcess:
    """A server under test.

    Attributes:
        process: `pairlens-server`.
        log: What it writes to stderr.
        target: Where it listens, "" until `listening` returns.
        metrics: Where it serves /metrics, "" until `metrics_address` returns.
    """

    process: subprocess.Popen[str]
    log: IO[str]
    target: str = ""
    metrics: str = ""

    def listening(self) -> str:
        """Wait until it listens."""
        self.target = self._said("listening on")
        return self.target

    def metrics_address(self) -> str:
        """Where it serves /metrics, if it was told to; after `listening`."""
        self.metrics = self._said("metrics on")
        return self.metrics

    def scrape(self) -> Metrics:
        """What /metrics says now."""
        return Metrics(self.get("/metrics")[1])

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of a path on the port of the metrics."""
        try:
            with urlopen(f"http://{self.metrics}{path}", timeout=STOP_TIMEOUT_S) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()

    def _said(self, words: str) -> str:
        # A server that hangs before would keep the read below waiting.
        alarm = threading.Timer(START_TIMEOUT_S, self.process.kill)
        alarm.start()
        try:
            assert self.process.stdout is not None
            line = self.process.stdout.readline().strip()
        finally:
            alarm.cancel()
        assert line.startswith(f"{words} "), f"{line!r} {self.read_log()}"
        return line.removeprefix(f"{words} ")

    def serving(self) -> None:
        """Wait until health says so."""
        with grpc.insecure_channel(self.target) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(
                health_pb2.HealthCheckRequest(), timeout=START_TIMEOUT_S
            )
            for answer in watch:
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    watch.cancel()
                    return

    def stop(self) -> int:
        """End it as an orchestrator does; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_TIMEOUT_S)

    def read_log(self) -> str:
        """What it has written to stderr so far."""
        self.log.flush()
        return Path(self.log.name).read_text(encoding="utf-8")


@contextmanager
def server_process(
    models: Path, log_file: Path, *flags: str, prefix: Sequence[str] = ()
) -> Iterator[ServerProcess]:
    """Start `pairlens-server` on a free port; it is killed if it still runs at the end.

    Args:
        models: Its models file.
        log_file: Gets what it writes to stderr.
        flags: Further arguments.
        prefix: A command that becomes the server, such as `ip netns exec NAME`.
    """
    command = [*prefix, sys.executable, "-m", "pairlens_server", "--listen", "127.0.0.1:0"]
    command += ["--models", str(models), "--torch-threads", "1", "--drain-delay-s", "0", *flags]
    with log_file.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            yield ServerProcess(process, log)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()
