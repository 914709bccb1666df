"""All suites by the names that `--only` takes; each is told whether to be quick."""

from __future__ import annotations

from collections.abc import Callable

from tests.benchmark.engine_rows import pair_rows
from tests.benchmark.growth_rows import growth_rows
from tests.benchmark.load_rows import load_rows
from tests.benchmark.measure import Row
from tests.benchmark.memory_rows import memory_rows
from tests.benchmark.method_rows import (
    batch_rows,
    capture_rows,
    linear_head_rows,
    score_cam_rows,
    vit_rows,
)
from tests.benchmark.score_rows import score_memory_rows, score_rows
from tests.benchmark.serving_rows import (
    cached_explain_rows,
    throughput_gpu_rows,
    throughput_rows,
    warm_pair_gpu_rows,
    warm_pair_redis_gpu_rows,
    warm_pair_redis_rows,
    warm_pair_rows,
)

Suite = Callable[[bool], list[Row]]


def _repeated(suite: Callable[[int], list[Row]]) -> Suite:
    return lambda quick: suite(5 if quick else 31)


SUITES: dict[str, Suite] = {
    "methods": _repeated(vit_rows),
    "capture": _repeated(capture_rows),
    "batches": _repeated(batch_rows),
    "linear-head": _repeated(linear_head_rows),
    "score-cam": _repeated(score_cam_rows),
    "metrics": score_rows,
    "pair": _repeated(pair_rows),
    "method-memory": memory_rows,
    "metric-memory": lambda quick: score_memory_rows(),
    "warm-pairs": warm_pair_rows,
    "warm-pairs-redis": warm_pair_redis_rows,
    "throughput": throughput_rows,
    "cached-explain": cached_explain_rows,
    "load": load_rows,
    "growth": growth_rows,
}
"""Those that run anywhere."""

GPU_SUITES: dict[str, Suite] = {
    "warm-pairs-gpu": warm_pair_gpu_rows,
    "warm-pairs-redis-gpu": warm_pair_redis_gpu_rows,
    "throughput-gpu": throughput_gpu_rows,
}
"""Those that run where there is a GPU."""
