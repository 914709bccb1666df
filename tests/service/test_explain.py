import dataclasses

import numpy as np
import pytest

from pairlens.rendering import ColorScale
from pairlens_server.errors import (
    ImageUndecodableError,
    InvalidParameterError,
    MethodUnsupportedError,
    ModelNotFoundError,
)
from pairlens_server.images.render import RenderOptions
from pairlens_server.methods.attention import RawAttention
from pairlens_server.methods.cam import GradCam
from pairlens_server.methods.full_grad import FullGrad
from pairlens_server.methods.rollout import Rollout
from pairlens_server.service.commands import ClassTarget, ExplainCommand
from tests.service.conftest import CLS, CNN, HEADLESS, MEAN, png


async def test_the_default_method_runs_and_is_told(bench):
    vit = await bench.use_cases.explain(ExplainCommand(CLS, png(0)))
    assert vit.method == FullGrad().resolve(bench.engine.facts(bench.models[CLS]))
    assert vit.heatmap.shape == (4, 6)
    assert vit.heatmap.dtype == np.float32
    assert (vit.geometry.image_height, vit.geometry.image_width) == (40, 56)
    cnn = await bench.use_cases.explain(ExplainCommand(CNN, png(0)))
    assert cnn.method == GradCam("layer4.0")
    for outcome in (vit, cnn):
        assert 0 <= outcome.target.class_index < 5
        assert 0 < outcome.target.probability <= 1
        assert outcome.target.similarities == ()
    headless = await bench.use_cases.explain(ExplainCommand(HEADLESS, png(0)))
    assert headless.method == Rollout(0, 2, discard_ratio=0.0)
    assert headless.target is None


async def test_the_same_call_again_runs_no_forward_pass_and_gives_the_same_map(bench):
    command = ExplainCommand(MEAN, png(1), RawAttention(block=1))
    cold = await bench.use_cases.explain(command)
    warm = await bench.use_cases.explain(command)
    assert (cold.timings.cached_images, warm.timings.cached_images) == (0, 1)
    assert warm.timings.compute_s == warm.timings.queue_s == 0
    np.testing.assert_array_equal(cold.heatmap, warm.heatmap)
    other_head = dataclasses.replace(command, method=RawAttention(block=1, head=1))
    assert (await bench.use_cases.explain(other_head)).timings.cached_images == 1
    other_block = dataclasses.replace(command, method=RawAttention(block=0))
    assert (await bench.use_cases.explain(other_block)).timings.cached_images == 0


async def test_targets_change_the_map_and_are_described(bench):
    outcomes = [
        await bench.use_cases.explain(
            ExplainCommand(CNN, png(2), GradCam(), ClassTarget(class_index=index))
        )
        for index in range(5)
    ]
    assert [o.target.class_index for o in outcomes] == list(range(5))
    assert sum(o.target.probability for o in outcomes) == pytest.approx(1)
    predicted = await bench.use_cases.explain(ExplainCommand(CNN, png(2), GradCam(), ClassTarget()))
    best = max(outcomes, key=lambda o: o.target.logit)
    assert predicted.target.class_index == best.target.class_index
    np.testing.assert_array_equal(predicted.heatmap, best.heatmap)
    assert any(not np.allclose(o.heatmap, best.heatmap) for o in outcomes)


async def test_drawings_are_of_the_original_size(bench):
    options = RenderOptions(upsampled=True, overlay=True)
    outcome = await bench.use_cases.explain(ExplainCommand(MEAN, png(3), rendering=options))
    assert outcome.rendered.upsampled.shape == (40, 56)
    assert outcome.rendered.overlay_png.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("command", "error", "field"),
    [
        (ExplainCommand("no-such-model", b""), ModelNotFoundError, "model"),
        (ExplainCommand(CLS, b""), ImageUndecodableError, "image"),
        (ExplainCommand(CNN, png(0), Rollout()), MethodUnsupportedError, "method"),
        (
            ExplainCommand(CLS, png(0), Rollout(), ClassTarget(0)),
            InvalidParameterError,
            "target",
        ),
        (
            ExplainCommand(CNN, png(0), GradCam(), ClassTarget(5)),
            InvalidParameterError,
            "target.class_index",
        ),
        (
            ExplainCommand(CLS, png(0), RawAttention(block=3)),
            InvalidParameterError,
            "method.raw_attention.block",
        ),
        (
            ExplainCommand(CLS, png(0), rendering=RenderOptions(scale=ColorScale.PAIR)),
            InvalidParameterError,
            "rendering.scale",
        ),
        (
            ExplainCommand(CLS, png(0, (1000, 1100)), rendering=RenderOptions(overlay=True)),
            InvalidParameterError,
            "rendering.max_side",
        ),
    ],
)
async def test_mistakes_are_told_with_their_field(bench, command, error, field):
    with pytest.raises(error) as caught:
        await bench.use_cases.explain(command)
    assert caught.value.field == field
    await bench.use_cases.explain(ExplainCommand(CLS, png(0)))
