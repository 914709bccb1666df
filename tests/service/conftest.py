import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from pairlens_server.cache.memory import ActivationCache
from pairlens_server.engine.engine import Engine, EngineSettings
from pairlens_server.images.admission import ImageLimits
from pairlens_server.models.registry import ModelRegistry
from pairlens_server.service.explanations import ExplanationUseCases
from pairlens_server.service.limits import ServiceLimits
from tests.support import resnet, vit


def png(seed: int, size: tuple[int, int] = (40, 56)) -> bytes:
    """A noisy picture of a height and width, as a PNG file."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((size[1], size[0])).save(file, "PNG")
    return file.getvalue()


class Bench:
    """Use cases over a real engine with three small models: mean-pooled, class token, ResNet."""

    def __init__(self, max_candidates: int = 8, max_rendered_pixels: int = 1_000_000):
        self.models = {m.name: m for m in (vit(), vit(pooling="token"), resnet())}
        self.engine = Engine(EngineSettings())
        self.cache = ActivationCache(10_000_000)
        self.pool = ThreadPoolExecutor(2)
        self.use_cases = ExplanationUseCases(
            ModelRegistry(tuple(self.models.values())),
            self.engine,
            self.cache,
            self.pool,
            ServiceLimits(ImageLimits(), max_candidates, max_rendered_pixels, 3 * 24**2),
        )

    async def start(self) -> None:
        await self.engine.start(lambda: tuple(self.models.values()))

    async def stop(self) -> None:
        await self.engine.stop()
        self.pool.shutdown()


@pytest.fixture
async def bench():
    made = Bench()
    await made.start()
    yield made
    await made.stop()
