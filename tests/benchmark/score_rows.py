"""What ScoreSaliency costs on top of the forward passes that it needs."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from pairlens_server.cache.memory import MemoryTier
from pairlens_server.cache.tiers import Cache
from pairlens_server.engine.engine import Engine, EngineSettings
from pairlens_server.fidelity.drops import AverageDrop, AverageIncrease
from pairlens_server.fidelity.erasures import Deletion, Insertion
from pairlens_server.fidelity.metrics import Metric
from pairlens_server.methods.parameters import Profile
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.models.registry import ModelRegistry
from pairlens_server.service.explanations import ExplanationUseCases
from pairlens_server.service.limits import ServiceLimits
from pairlens_server.service.score_commands import GivenHeatmap, ScoreCommand, ScoreOutcome
from tests.benchmark.engine_rows import vit_small
from tests.benchmark.measure import Row, compare
from tests.benchmark.memory_rows import resident_bytes
from tests.benchmark.method_rows import on_device_thread, running
from tests.service.conftest import png
from tests.support import pixels, resnet

STRICT = (AverageDrop(), AverageIncrease(), Deletion(), Insertion())
REFERENCE = tuple(
    metric(Profile.REFERENCE) for metric in (AverageDrop, AverageIncrease, Deletion, Insertion)
)
_FEW, _MANY = 64, 1024


def scoring(
    engine: Engine, loop: asyncio.AbstractEventLoop, model: LoadedModel, metrics: tuple[Metric, ...]
) -> Callable[[], ScoreOutcome]:
    """A call of ScoreSaliency behind the transport: decoding, a given map, nothing cached."""
    cells = (model.layout.rows, model.layout.columns)
    heatmap = np.random.default_rng(0).random(cells, dtype=np.float32)
    use_cases = ExplanationUseCases(
        ModelRegistry([model]),
        engine,
        Cache(MemoryTier(0), MemoryTier(0)),
        ThreadPoolExecutor(1),
        ServiceLimits(),
    )
    command = ScoreCommand(model.name, png(0, (224, 224)), metrics, GivenHeatmap(heatmap))
    return lambda: loop.run_until_complete(use_cases.score(command))


def score_rows(quick: bool) -> list[Row]:
    """All metrics of one map against as many plain forward passes, in batches of its chunks."""
    turns = 3 if quick else 5
    vit = vit_small(pooling="token", projection=None)
    cnn = resnet(architecture="resnet18", size=(224, 224), classes=1000, projection=None)
    rows = [
        _row("ViT-S/16, strict", vit, STRICT, turns),
        _row("ResNet-18, strict", cnn, STRICT, turns),
    ]
    # Of the ViT it would take five minutes by itself, and say the same.
    return rows if quick else [*rows, _row("ResNet-18, reference", cnn, REFERENCE, turns)]


def _row(name: str, model: LoadedModel, metrics: tuple[Metric, ...], repeats: int) -> Row:
    settings = EngineSettings()
    with running(model, settings) as (engine, loop):
        score = scoring(engine, loop, model, metrics)
        passes = score().forward_passes
        chunk = pixels(model, settings.probe_chunk)
        whole, rest = divmod(passes, settings.probe_chunk)

        def plain() -> None:
            with torch.inference_mode():
                for _ in range(whole):
                    model.network(chunk)
                if rest:
                    model.network(chunk[:rest])

        return compare(
            f"drop, increase, deletion and insertion of a map, {passes} passes, {name} "
            "vs as many plain timm forwards",
            score,
            on_device_thread(engine, plain),
            repeats=repeats,
            aim=1.10,
            better="lower",
        )


def peak_gb(steps: int) -> float:
    """Memory of a deletion of that many steps above that of the loaded model, in gigabytes."""
    model = vit_small(pooling="token", projection=None)
    with running(model, EngineSettings()) as (engine, loop):
        gc.collect()
        before = resident_bytes("VmRSS")
        scoring(engine, loop, model, (Deletion(steps=steps),))()
        return max(0, resident_bytes("VmHWM") - before) / 1e9


def score_memory_rows() -> list[Row]:
    """Whether memory grows with the number of steps."""
    few, many = (_measured(steps) for steps in (_FEW, _MANY))
    return [
        Row(
            name=f"peak memory of a deletion of {_MANY} steps, ViT-S/16 vs one of {_FEW}",
            ours=many,
            baseline=few,
            unit="GB",
            ratio=many / few,
            aim=1.10,
            better="lower",
        )
    ]


def _measured(steps: int) -> float:
    command = [sys.executable, "-m", "tests.benchmark.score_rows", str(steps)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(run.stdout.splitlines()[-1]))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(peak_gb(int(sys.argv[1]))) + "\n")
