import dataclasses
import io
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from pairlens_server.cache.memory import MemoryTier
from pairlens_server.cache.packing import Precision
from pairlens_server.cache.tiers import Cache
from pairlens_server.engine.engine import Engine, EngineSettings
from pairlens_server.images.admission import ImageLimits, decode
from pairlens_server.images.preprocess import input_pixels
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.models.registry import ModelRegistry
from pairlens_server.recording.primitives import Embedding
from pairlens_server.service.explanations import ExplanationUseCases
from pairlens_server.service.limits import ServiceLimits
from tests.support import resnet, vit


def png(seed: int, size: tuple[int, int] = (40, 56), *, black: bool = False) -> bytes:
    """A noisy or a black picture of a height and width, as a PNG file."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    if black:
        coarse[:] = 0
    file = io.BytesIO()
    Image.fromarray(coarse).resize((size[1], size[0])).save(file, "PNG")
    return file.getvalue()


MEAN = "vit_tiny_patch16_224-avg"
CLS = "vit_tiny_patch16_224-token"
CNN = "resnet10t-avg"
HEADLESS = "headless"
MAX_TARGET_EMBEDDINGS = 20


@cache
def bench_models() -> tuple[LoadedModel, ...]:
    """Served by every bench, the same at every call."""
    headless = dataclasses.replace(vit(pooling="token", classes=0), name=HEADLESS)
    return (vit(), vit(pooling="token"), resnet(), headless)


class Bench:
    """Use cases over a real engine with small models: mean-pooled, class token, ResNet, headless.

    Args:
        models: Served besides those.
        max_candidates, max_rendered_pixels: Of a call.
        cache_bytes, image_bytes: Of the cache's tiers.
        precision: Of the cache.
        images: Limits of each picture.
        max_batch, max_queued: Of the engine.
    """

    def __init__(
        self,
        *models: LoadedModel,
        max_candidates: int = 8,
        max_rendered_pixels: int = 1_000_000,
        cache_bytes: int = 10_000_000,
        image_bytes: int = 10_000_000,
        precision: Precision = Precision.HALF,
        images: ImageLimits | None = None,
        max_batch: int = 16,
        max_queued: int = 512,
    ):
        self.models = {model.name: model for model in (*bench_models(), *models)}
        self.engine = Engine(EngineSettings(max_batch=max_batch, max_queued=max_queued))
        self.memory = MemoryTier(cache_bytes)
        self.files = MemoryTier(image_bytes)
        self.cache = Cache(self.memory, self.files, precision=precision)
        self.pool = ThreadPoolExecutor(2)
        self.limits = ServiceLimits(
            images or ImageLimits(),
            max_candidates,
            max_rendered_pixels,
            max_match_values=3 * 24**2,
            max_target_embeddings=MAX_TARGET_EMBEDDINGS,
        )
        self.use_cases = self.over(self.cache)

    def over(
        self, cache: Cache, pool: Executor | None = None, images: ImageLimits | None = None
    ) -> ExplanationUseCases:
        """Further use cases over the same engine, as of another server.

        Args:
            cache: Of theirs.
            pool: Of theirs, where it is another one.
            images: Limits of each picture, where they are others.
        """
        return ExplanationUseCases(
            ModelRegistry(tuple(self.models.values())),
            self.engine,
            cache,
            pool or self.pool,
            dataclasses.replace(self.limits, images=images or self.limits.images),
        )

    async def start(self) -> None:
        await self.engine.start(lambda: tuple(self.models.values()))

    def pixels(self, name: str, file: bytes) -> Tensor:
        """What a model gets of a picture: float32 [3, H, W]."""
        picture = decode(file, ImageLimits(), "image")
        return input_pixels(picture, self.models[name].preprocessing)

    async def embedding(self, name: str, file: bytes) -> np.ndarray:
        """The embedding of a picture, recorded apart from any method: float32 [size]."""
        pixels = self.pixels(name, file)
        recording = await self.engine.record(self.models[name], pixels, (Embedding(),))
        return recording.values[Embedding()].numpy()

    async def stop(self) -> None:
        await self.engine.stop()
        self.pool.shutdown()


@pytest.fixture
async def bench():
    made = Bench()
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def alone():
    """A bench that runs every picture by itself: how a sum is rounded depends on the batch."""
    made = Bench(max_batch=1)
    await made.start()
    yield made
    await made.stop()


def without_constant_parts():
    """A ResNet of which black pictures, and no others, have the embedding zero."""
    model = resnet(projection=None)
    for name, value in model.network.state_dict().items():
        if name.endswith(("bias", "running_mean")):
            value.zero_()
    settings = dataclasses.replace(model.preprocessing, mean=(0.0,) * 3, std=(1.0,) * 3)
    return dataclasses.replace(model, name="vanishing", preprocessing=settings)


@pytest.fixture
async def vanishing():
    made = Bench(without_constant_parts())
    await made.start()
    yield made
    await made.stop()
