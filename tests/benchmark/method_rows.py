"""What each method costs, in plain forward passes of the same pictures."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import torch

from pairlens_server import torch_threads
from pairlens_server.engine.engine import Engine, EngineSettings
from pairlens_server.methods.attention import Each, KeyNorm, RawAttention, RawLog
from pairlens_server.methods.base import ExplanationMethod
from pairlens_server.methods.cam import GradCam, ScoreCam
from pairlens_server.methods.full_grad import FullGrad
from pairlens_server.methods.relevance import AttentionRelevance, LeGrad, TransformerAttribution
from pairlens_server.methods.rollout import Rollout
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.recording.primitives import GradientRule, Logits
from pairlens_server.recording.products import products
from pairlens_server.recording.targets import ClassLogit, ScoreTarget
from pairlens_server.service.findings import run_method
from tests.benchmark.engine_rows import BATCH, plain_forward, vit_small
from tests.benchmark.measure import Row, compare
from tests.support import pixels, resnet

# Method, and at most how many plain forward passes of the batch it may cost.
METHODS_ON_A_VIT: tuple[tuple[str, ExplanationMethod, float], ...] = (
    ("raw_attention", RawAttention(), 1.10),
    ("raw_attention, every block", RawAttention(each=Each.BLOCK), 1.10),
    ("raw_log", RawLog(), 1.10),
    ("key_norm", KeyNorm(), 1.10),
    ("rollout", Rollout(), 1.25),
    ("attention_relevance", AttentionRelevance(), 2.5),
    ("le_grad", LeGrad(), 2.5),
    ("grad_cam", GradCam(), 1.3),
    ("grad_cam, libra, blocks.0.norm1", GradCam("blocks.0.norm1", GradientRule.LIBRA), 2.5),
    ("full_grad, libra", FullGrad(), 2.5),
    ("transformer_attribution, float32", TransformerAttribution(single_precision=True), 5.0),
    ("transformer_attribution", TransformerAttribution(), 11.0),
)


# By name, of some of these: the same of a pass that keeps logits alone, by the same libraries.
CAPTURED = {
    "raw_attention": 1.10,
    "raw_attention, every block": 1.15,
    "key_norm": 1.10,
    "rollout": 1.30,
    "le_grad": 2.5,
    "grad_cam": 1.3,
}

WHOLE = EngineSettings(max_batch=256, max_wait_s=0.0)
"""Pictures that come together run together, whatever the method costs, and wait for no others."""


@contextmanager
def running(
    model: LoadedModel, settings: EngineSettings
) -> Iterator[tuple[Engine, asyncio.AbstractEventLoop]]:
    """An engine that serves one model, and the loop that it runs on; threads as in a server."""
    loop = asyncio.new_event_loop()
    engine = Engine(settings)
    usual = torch_threads.compute_alone()

    def load() -> list[LoadedModel]:
        torch_threads.compute_together(usual, loop)
        return [model]

    try:
        loop.run_until_complete(engine.start(load))
        yield engine, loop
    finally:
        loop.run_until_complete(engine.stop())
        loop.close()
        torch.set_num_threads(usual)


def on_device_thread(engine: Engine, action: Callable[[], object]) -> Callable[[], object]:
    """The action where the engine runs its own: threads of OpenMP belong to their caller."""
    return lambda: engine._device.submit(action).result()


def explaining(
    engine: Engine,
    loop: asyncio.AbstractEventLoop,
    model: LoadedModel,
    method: ExplanationMethod,
    images: torch.Tensor,
) -> Callable[[], object]:
    """All pictures through the engine at once, maps included, a class of its own for each."""
    facts = engine.facts(model)
    resolved = method.resolve(facts)

    async def one(number: int, picture: torch.Tensor) -> object:
        target: ScoreTarget | None = ClassLogit(number) if resolved.takes_class else None
        wanted = [*resolved.needs(facts, target), *([] if target is None else [Logits()])]
        recording = await engine.record(model, picture, wanted)
        assert recording.batch_size == len(images)
        return run_method(resolved, recording.values, facts, target)

    return _together(loop, one, images)


def classifying(
    engine: Engine, loop: asyncio.AbstractEventLoop, model: LoadedModel, images: torch.Tensor
) -> Callable[[], object]:
    """The same for logits and nothing else."""

    async def one(_: int, picture: torch.Tensor) -> object:
        recording = await engine.record(model, picture, [Logits()])
        assert recording.batch_size == len(images)
        return recording

    return _together(loop, one, images)


def _together(
    loop: asyncio.AbstractEventLoop,
    one: Callable[[int, torch.Tensor], Awaitable[object]],
    images: torch.Tensor,
) -> Callable[[], object]:
    async def everyone() -> object:
        return await asyncio.gather(*(one(n, picture) for n, picture in enumerate(images)))

    return lambda: loop.run_until_complete(everyone())


def vit_rows(repeats: int) -> list[Row]:
    """Methods on ViT-S/16, in batches of 8."""
    model = vit_small(pooling="token", projection=None)
    images = pixels(model, BATCH)
    rows = []
    with running(model, WHOLE) as (engine, loop):
        for name, method, aim in METHODS_ON_A_VIT:
            row = compare(
                f"{name}, batch of {BATCH}, ViT-S/16 vs one plain fused timm forward",
                explaining(engine, loop, model, method, images),
                on_device_thread(engine, plain_forward(model, images)),
                repeats=repeats,
                aim=aim,
                better="lower",
            )
            rows.append(row)
    return rows


def capture_rows(repeats: int) -> list[Row]:
    """What a pass costs that keeps nothing, and what keeping costs beside that."""
    rows = []
    model = vit_small(pooling="token", projection=None)
    images = pixels(model, BATCH)
    with running(model, WHOLE) as (engine, loop):
        plain = plain_forward(model, images)

        def by_faster_products() -> object:
            with products(model.device):
                return plain()

        gain = compare(
            f"plain timm forward with the faster products, batch of {BATCH}, ViT-S/16 vs without",
            on_device_thread(engine, by_faster_products),
            on_device_thread(engine, plain),
            repeats=repeats,
            aim=1.05,
            better="lower",
        )
        nothing_kept = classifying(engine, loop, model, images)
        nothing = compare(
            f"logits alone through the engine, batch of {BATCH}, ViT-S/16 "
            "vs one plain timm forward with the faster products",
            nothing_kept,
            on_device_thread(engine, by_faster_products),
            repeats=repeats,
            aim=1.10,
            better="lower",
        )
        rows += [gain, nothing]
        for name, method, _ in METHODS_ON_A_VIT:
            if name not in CAPTURED:
                continue
            row = compare(
                f"{name}, batch of {BATCH}, ViT-S/16 vs logits alone",
                explaining(engine, loop, model, method, images),
                nothing_kept,
                repeats=repeats,
                aim=CAPTURED[name],
                better="lower",
            )
            rows.append(row)
    return rows


def batch_rows(repeats: int) -> list[Row]:
    """A batch against its pictures one by one: whether methods are linear in the batch."""
    model = vit_small(pooling="token", projection=None)
    images = pixels(model, BATCH)
    rows = []
    with running(model, WHOLE) as (engine, loop):
        for method in (AttentionRelevance(), TransformerAttribution(single_precision=True)):
            alone = [explaining(engine, loop, model, method, image[None]) for image in images]
            row = compare(
                f"{method.name}, batch of {BATCH}, ViT-S/16 vs its pictures one by one",
                explaining(engine, loop, model, method, images),
                lambda alone=alone: [one() for one in alone],  # type: ignore[misc]
                repeats=max(3, repeats // 4),
                aim=1.1,
                better="lower",
            )
            rows.append(row)
    return rows


def linear_head_rows(repeats: int) -> list[Row]:
    """GradCAM where the gradient is a row of the head."""
    model = resnet(architecture="resnet50", size=(224, 224), classes=1000, projection=None)
    images = pixels(model, BATCH)
    with running(model, WHOLE) as (engine, loop):
        return [
            compare(
                f"grad_cam, batch of {BATCH}, ResNet-50 vs one plain timm forward",
                explaining(engine, loop, model, GradCam(), images),
                on_device_thread(engine, plain_forward(model, images)),
                repeats=repeats,
                aim=1.15,
                better="lower",
            )
        ]


def score_cam_rows(repeats: int) -> list[Row]:
    """ScoreCAM against the same number of plain forward passes, in batches of its chunks."""
    model = resnet(architecture="resnet18", size=(224, 224), classes=1000, projection=None)
    image = pixels(model, 1)[0]
    settings = EngineSettings()
    with running(model, settings) as (engine, loop):
        facts = engine.facts(model)
        method = ScoreCam("layer1").resolve(facts)
        target = ClassLogit(1)

        async def explain() -> object:
            needs = (*method.needs(facts, target), Logits())
            recorded = dict((await engine.record(model, image, needs)).values)
            probe = method.probe(recorded, facts, target)
            found = await engine.probe(model, image, probe)
            recorded[method.probed(target)] = found.result
            return run_method(method, recorded, facts, target)

        needed = loop.run_until_complete(engine.record(model, image, method.needs(facts, target)))
        masks = method.probe(needed.values, facts, target).steps
        chunk = image.expand(settings.probe_chunk, -1, -1, -1).contiguous()
        whole, rest = divmod(masks, settings.probe_chunk)

        def plain() -> object:
            with torch.inference_mode():
                model.network(image[None])
                for _ in range(whole):
                    model.network(chunk)
                return model.network(chunk[:rest]) if rest else None

        return [
            compare(
                f"score_cam, {masks} masks, ResNet-18 vs as many plain timm forwards",
                lambda: loop.run_until_complete(explain()),
                on_device_thread(engine, plain),
                repeats=max(3, repeats // 4),
                aim=1.10,
                better="lower",
            )
        ]
