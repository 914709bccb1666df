"""Peak memory of each method on ViT-B/16, in a process of its own, since peaks only grow.

`VmHWM`, not `ru_maxrss`: a child's begins with that of the process it was forked from.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path

from pairlens_server.methods.base import ExplanationMethod
from tests.benchmark.engine_rows import plain_forward, vit_small
from tests.benchmark.measure import Row
from tests.benchmark.method_rows import METHODS_ON_A_VIT, WHOLE, explaining, running
from tests.support import pixels

_BATCH = 4
_FORWARD = "plain forward"
# Gigabytes for each picture of the batch: TIBAV keeps every layer's tensors.
_AIM_GB = {"transformer_attribution": 1.5, "transformer_attribution, float32": 1.5}
_AIM_OF_OTHERS_GB = 0.5
_DEAREST = ("attention_relevance", "transformer_attribution")


def resident_bytes(field: str) -> int:
    """A field of this process's status: VmRSS, resident now, or VmHWM, the most ever."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(f"{field}:")))


def peak_gb(method: ExplanationMethod | None) -> float:
    """Memory above that of the loaded model, in gigabytes for each picture of a batch.

    Args:
        method: What runs; None for timm's plain forward pass.
    """
    model = vit_small(pooling="token", projection=None, embed_dim=768, num_heads=12)
    images = pixels(model, _BATCH)
    with running(model, WHOLE) as (engine, loop):
        gc.collect()
        before = resident_bytes("VmRSS")
        if method is None:
            plain_forward(model, images)()
        else:
            explaining(engine, loop, model, method, images)()
        peak = resident_bytes("VmHWM")
    return max(0, peak - before) / _BATCH / 1e9


def _measured(name: str) -> float:
    command = [sys.executable, "-m", "tests.benchmark.memory_rows", name]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(run.stdout.splitlines()[-1]))


def memory_rows(quick: bool) -> list[Row]:
    """Peak memory of methods, or of the dearest ones."""
    baseline = _measured(_FORWARD)
    rows = []
    for name, _, _ in METHODS_ON_A_VIT:
        if quick and name not in _DEAREST:
            continue
        found = _measured(name)
        rows.append(
            Row(
                name=f"{name}, peak memory a picture, ViT-B/16, batch of {_BATCH} "
                "(baseline: one plain forward)",
                ours=found,
                baseline=baseline,
                unit="GB",
                ratio=found,
                aim=_AIM_GB.get(name, _AIM_OF_OTHERS_GB),
                better="lower",
            )
        )
    return rows


def main() -> None:
    """Measure one method in this process and print it as JSON."""
    methods = {name: method for name, method, _ in METHODS_ON_A_VIT}
    sys.stdout.write(json.dumps(peak_gb(methods.get(sys.argv[1]))) + "\n")


if __name__ == "__main__":
    main()
