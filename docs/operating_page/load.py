"""Callers of a retrieval system: some photographs are asked for often, and some calls are wrong."""

from __future__ import annotations

import io
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from pairlens import Client, PairlensError
from pairlens_server.demo.pairs import PICTURES

MODELS = ("demo-vit", "demo-resnet")
METHODS = {
    "demo-vit": ("rollout", "raw_attention", "attention_relevance", "grad_cam"),
    "demo-resnet": ("grad_cam", "layer_cam"),
}
_CROPS = 40
_LONGEST_S = 8.0  # that a caller waits


def gallery(seed: int) -> list[bytes]:
    """Photographs of the demo, each in many crops, as JPEG files."""
    chance = random.Random(seed)
    files = []
    for path in sorted(Path(PICTURES).glob("*.jpg")):
        picture = Image.open(path)
        for _ in range(_CROPS):
            side = int(min(picture.size) * chance.uniform(0.6, 1))
            left = chance.randint(0, picture.width - side)
            top = chance.randint(0, picture.height - side)
            file = io.BytesIO()
            picture.crop((left, top, left + side, top + side)).save(file, "JPEG", quality=90)
            files.append(file.getvalue())
    chance.shuffle(files)
    return files


class Callers:
    """Threads that call all replicas in turn, as a retrieval system and its users do.

    Args:
        target: Of the replicas.
        files: Photographs; the first are asked for most.
        name: Under which the servers know them.
        calls_per_s: Of all threads together.

    Attributes:
        outcomes: How calls ended: "ok", or the reason of the error.
    """

    def __init__(self, target: str, files: Sequence[bytes], name: str, calls_per_s: float):
        self.outcomes: Counter[str] = Counter()
        self._target, self._files, self._name = target, files, name
        self._calls_per_s = calls_per_s
        self._stop = threading.Event()

    @contextmanager
    def calling(self, threads: int) -> Iterator[None]:
        """Call until the block ends."""
        pause_s = threads / self._calls_per_s
        workers = [threading.Thread(target=self._work, args=(n, pause_s)) for n in range(threads)]
        for worker in workers:
            worker.start()
        try:
            yield
        finally:
            self._stop.set()
            for worker in workers:
                worker.join()

    def _work(self, seed: int, pause_s: float) -> None:
        chance = random.Random(seed)
        with Client(self._target, timeout=_LONGEST_S, name=self._name) as client:
            while not self._stop.is_set():
                started_s = time.monotonic()
                try:
                    self._call(client, chance)
                    outcome = "ok"
                except PairlensError as error:
                    outcome = error.reason or error.code
                self.outcomes[outcome] += 1
                rest_s = chance.expovariate(1 / pause_s) - (time.monotonic() - started_s)
                self._stop.wait(max(0.0, rest_s))

    def _call(self, client: Client, chance: random.Random) -> None:
        model = chance.choice(MODELS)
        kind = chance.random()
        if kind < 0.01:
            client.explain(self._file(chance), model="demo-swin", method="rollout")
        elif kind < 0.02:
            client.explain(b"no picture", model=model, method="grad_cam")
        elif kind < 0.6:
            client.explain(self._file(chance), model=model, method=chance.choice(METHODS[model]))
        elif kind < 0.95:
            candidates = [self._file(chance) for _ in range(4)]
            client.pair_similarity(self._file(chance), candidates, model=model)
        else:
            client.embed([self._file(chance) for _ in range(4)], model=model)

    def _file(self, chance: random.Random) -> bytes:
        # Few are asked for often, most hardly ever.
        return self._files[min(int(chance.paretovariate(0.6)) - 1, len(self._files) - 1)]


class Flood(Callers):
    """Callers who take nothing from the cache, so that each of them costs passes."""

    def _call(self, client: Client, chance: random.Random) -> None:
        file = chance.choice(self._files)
        method = chance.choice(("attention_relevance", "grad_cam", "rollout"))
        client.explain(file, model="demo-vit", method=method, cache="bypass")
