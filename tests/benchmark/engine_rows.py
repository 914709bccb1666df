"""What explanations cost on top of the forward pass that they need anyway."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import timm
import torch

from pairlens_server.cache.packing import Precision, pack
from pairlens_server.engine.engine import Engine, EngineSettings
from pairlens_server.methods.similarity import PooledDecomposition
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.service.pair_matches import compute_maps
from pairlens_server.service.recorded import PictureRecording, Recorded
from tests.benchmark.measure import Row, compare
from tests.support import pixels, vit

BATCH = 8


def vit_small(**options: object) -> LoadedModel:
    """timm's ViT-S/16 at 224 pixels with random weights; mean pooled with a projection."""
    settings: dict[str, object] = {"depth": 12, "embed_dim": 384, "num_heads": 6, "patch_size": 16}
    return vit(
        architecture="vit_small_patch16_224",
        size=(224, 224),
        classes=1000,
        **{**settings, **options},
    )


def plain_forward(model: LoadedModel, images: torch.Tensor) -> Callable[[], object]:
    """timm's own forward pass, fused attention on, on the same pictures."""
    assert timm.layers.use_fused_attn()

    def run() -> object:
        with torch.inference_mode():
            return model.network(images)

    return run


def pair_rows(repeats: int) -> list[Row]:
    """Both maps of a pair whose folded tokens are at hand."""
    model = vit_small(pooling="avg", projection=512, fc_norm=False)
    images = pixels(model, 2)
    loop = asyncio.new_event_loop()
    engine = Engine(EngineSettings())
    loop.run_until_complete(engine.start(lambda: [model]))
    facts = engine.facts(model)
    method = PooledDecomposition().resolve(facts)
    query, candidate = (
        {
            activation: pack(value, Precision.HALF, exact=activation.exact)
            for activation, value in loop.run_until_complete(
                engine.record(model, picture, method.pair_needs())
            ).values.items()
        }
        for picture in images
    )
    loop.run_until_complete(engine.stop())
    loop.close()
    one, other = plain_forward(model, images[:1]), plain_forward(model, images[1:])

    def maps() -> object:
        one, other = (PictureRecording(Recorded(kept), cached=True) for kept in (query, candidate))
        return compute_maps(method, one, [other], facts)

    def two_forwards() -> None:
        one()
        other()

    return [
        compare(
            "maps of a pair with its tokens at hand, ViT-S/16 vs two plain fused timm forwards",
            maps,
            two_forwards,
            repeats=repeats,
            aim=100.0,
            better="higher",
        )
    ]
