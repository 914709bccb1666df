"""Real servers and real clients for benchmarks, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import timm
import torch
import yaml

from pairlens.v1 import image_service_pb2
from pairlens.v1.image_service_pb2_grpc import ImageServiceStub
from pairlens_server.images.admission import ImageLimits, decode
from pairlens_server.images.preprocess import input_pixels
from pairlens_server.models.config import ModelConfig
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.models.loading import load_model
from tests.server_process import server_process

_CALL_TIMEOUT_S = 300.0
_UPLOADED_TOGETHER = 64


def vit_entry(name: str, architecture: str, size: int = 224, **fields: Any) -> dict[str, Any]:
    """An entry of a models file: a ViT of timm with random weights, on the CPU."""
    return {
        "name": name,
        "architecture": architecture,
        "random_weights": True,
        "seed": 0,
        "device": "cpu",
        "preprocessing": {"size": size, "resize": "stretch"},
        **fields,
    }


@dataclass(frozen=True)
class Served:
    """A server that is called.

    Attributes:
        target: Where it listens.
        pid: Of its process.
        channel: To it.
    """

    target: str
    pid: int
    channel: grpc.Channel

    def upload(self, files: Sequence[bytes]) -> None:
        """Have it keep pictures."""
        stub = ImageServiceStub(self.channel)
        for start in range(0, len(files), _UPLOADED_TOGETHER):
            request = image_service_pb2.UploadImagesRequest(
                images=[
                    image_service_pb2.ImageUpload(data=data)
                    for data in files[start : start + _UPLOADED_TOGETHER]
                ]
            )
            answer = stub.UploadImages(request, timeout=_CALL_TIMEOUT_S)
            assert all(result.HasField("digest") for result in answer.results), answer

    def resident_bytes(self) -> int:
        """Memory of its process, VmRSS."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmRSS:")))


@contextmanager
def serving(model: Mapping[str, Any], *flags: str, threads: int | None = None) -> Iterator[Served]:
    """Start `pairlens-server` with one model and wait until it serves.

    Args:
        model: Entry of its models file.
        flags: Further arguments.
        threads: Of torch on the CPU; None for as many as this process has.
    """
    flags += ("--torch-threads", str(threads or torch.get_num_threads()))
    flags += ("--log-level", "warning")
    with TemporaryDirectory() as folder:
        models = Path(folder) / "models.yaml"
        models.write_text(yaml.safe_dump({"models": [dict(model)]}), encoding="utf-8")
        with server_process(models, Path(folder) / "log", *flags) as server:
            server.listening()
            server.serving()
            with grpc.insecure_channel(server.target) as channel:
                try:
                    yield Served(server.target, server.process.pid, channel)
                except Exception:
                    # Gone with the folder otherwise.
                    sys.stderr.write(server.read_log())
                    raise


class CallerProcess:
    """Clients of a server in another process; see `tests.benchmark.caller`."""

    def __init__(self, process: subprocess.Popen[str]):
        self._process = process

    def do(self, name: str, **arguments: object) -> dict[str, Any]:
        """Have them call, and wait until they have."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": name, **arguments}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the calling process failed at {name}; its error is above")
        found: dict[str, Any] = json.loads(answer)
        return found


@contextmanager
def python_process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a module of these benchmarks; it ends when its standard input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def calling(target: str, clients: int) -> Iterator[CallerProcess]:
    """Start a process with that many clients."""
    with python_process("tests.benchmark.caller", target, str(clients)) as process:
        yield CallerProcess(process)


def plain_model(model: Mapping[str, Any]) -> LoadedModel:
    """The network of a models file's entry in this process."""
    return load_model(ModelConfig(**model))


def decoded(model: LoadedModel, files: Sequence[bytes]) -> torch.Tensor:
    """Pictures as the server would give them to the model, [pictures, 3, H, W] on its device."""
    pictures = [decode(data, ImageLimits(), "") for data in files]
    pixels = torch.stack([input_pixels(picture, model.preprocessing) for picture in pictures])
    return pixels.to(model.device, model.dtype)


def plain_forwards(
    model: LoadedModel, pixels: torch.Tensor, batch: int, count: int
) -> Callable[[], None]:
    """timm's own forward passes, fused attention on, of `count` pictures taken in turn.

    Args:
        model: What runs.
        pixels: [pictures, 3, H, W].
        batch: Pictures in a pass, a divisor of `count` and of the pictures at hand.
        count: Pictures in all.
    """
    assert timm.layers.use_fused_attn()
    batches = [pixels[start : start + batch] for start in range(0, len(pixels), batch)]
    assert all(len(part) == batch for part in batches)
    assert count % batch == 0

    def run() -> None:
        with torch.inference_mode():
            for number in range(count // batch):
                model.network(batches[number % len(batches)])
        if model.device.type == "cuda":
            torch.cuda.synchronize()

    return run
