"""Drawings of answers with several maps, masks and flat maps, and their bounds."""

import io

import numpy as np
import pytest
from PIL import Image

from pairlens.masks import mask_overlay
from pairlens.rendering import ColorScale
from pairlens_server.errors import InvalidParameterError
from pairlens_server.images.render import RenderOptions
from pairlens_server.methods.attention import Each, RawAttention
from pairlens_server.methods.attention_mask import AttentionMask
from pairlens_server.methods.cam import GradCam
from pairlens_server.methods.hidden_unit import HiddenUnit
from pairlens_server.methods.semantic_attention import SemanticAttention
from pairlens_server.service.commands import ExplainCommand
from tests.service.conftest import CLS, MEAN, Bench, png

BOTH = RenderOptions(overlay=True, upsampled=True)


def opened(drawing: bytes) -> Image.Image:
    return Image.open(io.BytesIO(drawing))


async def explain(bench, model, method, rendering=None, picture=None):
    command = ExplainCommand(model, picture or png(0), method, rendering=rendering)
    return await bench.use_cases.explain(command)


@pytest.mark.parametrize(
    ("method", "places"),
    [
        (RawAttention(each=Each.HEAD), [(2, 0, None), (2, 1, None)]),
        (RawAttention(head=1, each=Each.BLOCK), [(b, 1, None) for b in range(3)]),
        (
            RawAttention(each=Each.BLOCK_AND_HEAD),
            [(b, h, None) for b in range(3) for h in range(2)],
        ),
        (AttentionMask(blocks=(2, 0)), [(2, None, None), (0, None, None)]),
    ],
)
async def test_every_panel_is_drawn_as_it_would_be_alone(bench, method, places):
    options = RenderOptions(overlay=True, upsampled=True, max_side=24)
    outcome = await explain(bench, CLS, method, options)
    assert [(p.block, p.head, p.unit) for p in outcome.panels] == places
    for panel in outcome.panels:
        if isinstance(method, AttentionMask):
            single = AttentionMask(blocks=(panel.block,))
        else:
            single = RawAttention(panel.block, panel.head)
        alone = await explain(bench, CLS, single, options)
        np.testing.assert_array_equal(panel.heatmap, alone.heatmap)
        np.testing.assert_array_equal(panel.rendered.upsampled, alone.rendered.upsampled)
        assert panel.rendered.overlay_png == alone.rendered.overlay_png
        assert panel.rendered.upsampled.shape == (17, 24)
        assert panel.geometry == outcome.geometry


async def test_without_a_wish_no_panel_is_drawn(bench):
    outcome = await explain(bench, CLS, RawAttention(each=Each.HEAD))
    assert all(panel.rendered is None for panel in outcome.panels)
    assert outcome.rendered is None


async def test_a_mask_is_drawn_as_a_mask_and_its_map_enlarged(bench):
    outcome = await explain(bench, CLS, AttentionMask(ratio=0.5), BOTH)
    picture = Image.open(io.BytesIO(png(0))).convert("RGB")
    expected = mask_overlay(picture, outcome.mask, outcome.geometry)
    drawn = opened(outcome.rendered.overlay_png)
    np.testing.assert_array_equal(np.asarray(drawn), np.asarray(expected))
    assert outcome.mask.sum() == 12
    assert outcome.rendered.upsampled.shape == (40, 56)
    np.testing.assert_allclose(
        [outcome.rendered.upsampled.min(), outcome.rendered.upsampled.max()],
        [outcome.heatmap.min(), outcome.heatmap.max()],
        atol=0.05,
    )


async def test_a_hidden_unit_lies_on_the_grid_of_its_stage(bench):
    outcome = await explain(bench, MEAN, HiddenUnit(strongest=2), BOTH)
    assert len(outcome.panels) == len(outcome.units) == 2
    np.testing.assert_array_equal(outcome.heatmap, outcome.panels[0].heatmap)
    strengths = [unit.strength for unit in outcome.units]
    assert strengths == sorted(strengths, reverse=True)
    for unit, panel in zip(outcome.units, outcome.panels, strict=True):
        assert panel.unit == unit.unit
        assert panel.heatmap.mean() == pytest.approx(unit.strength, abs=1e-5)
        assert (panel.geometry.rows, panel.geometry.columns) == panel.heatmap.shape


async def test_semantic_attention_tells_every_head(bench):
    outcome = await explain(bench, CLS, SemanticAttention())
    assert [(r.block, r.head) for r in outcome.interrelations] == [
        (block, head) for block in range(3) for head in range(2)
    ]
    assert outcome.keypoints.shape == (4, 6)
    assert outcome.keypoints.dtype == np.int64


@pytest.mark.parametrize(
    ("method", "maps"),
    [
        (RawAttention(), 1),
        (RawAttention(each=Each.HEAD), 3),
        (RawAttention(each=Each.BLOCK_AND_HEAD), 7),
        (HiddenUnit(strongest=1), 2),
        (HiddenUnit(unit=5, strongest=3), 4),
        (AttentionMask(), 1),
        (AttentionMask(blocks=(0, 1)), 3),
    ],
)
@pytest.mark.parametrize("drawings", [1, 2])
async def test_every_panel_counts_for_the_pixels_of_a_request(method, maps, drawings):
    pixels = maps * drawings * 40 * 56
    options = RenderOptions(overlay=True, upsampled=drawings == 2)
    for limit, taken in ((pixels, True), (pixels - 1, False)):
        bench = Bench(max_rendered_pixels=limit)
        await bench.start()
        try:
            if taken:
                await explain(bench, CLS, method, options)
                continue
            with pytest.raises(InvalidParameterError, match=f"{pixels} pixels") as caught:
                await explain(bench, CLS, method, options)
            assert caught.value.field == "rendering.max_side"
        finally:
            await bench.stop()


async def test_a_smaller_drawing_counts_less(bench):
    picture = png(0, (1000, 900))
    method = RawAttention(each=Each.BLOCK_AND_HEAD)
    with pytest.raises(InvalidParameterError, match="6300000 pixels"):
        await explain(bench, CLS, method, RenderOptions(overlay=True), picture)
    outcome = await explain(bench, CLS, method, RenderOptions(overlay=True, max_side=300), picture)
    assert opened(outcome.rendered.overlay_png).size == (270, 300)


async def test_one_scale_for_all_panels_when_it_is_fixed(bench):
    options = RenderOptions(overlay=True, scale=ColorScale.FIXED, fixed=(0.0, 1.0))
    outcome = await explain(bench, CLS, RawAttention(each=Each.HEAD), options)
    own = await explain(bench, CLS, RawAttention(each=Each.HEAD), RenderOptions(overlay=True))
    for fixed, scaled in zip(outcome.panels, own.panels, strict=True):
        assert fixed.rendered.overlay_png != scaled.rendered.overlay_png


async def test_a_flat_map_is_drawn_without_colour(vanishing):
    black = png(0, black=True)
    options = RenderOptions(overlay=True, opacity=1)
    flat = await explain(vanishing, "vanishing", GradCam(), options, black)
    assert not flat.heatmap.any()
    assert not np.asarray(opened(flat.rendered.overlay_png)).any()
    lively = await explain(vanishing, "vanishing", GradCam(), options, png(1))
    assert lively.heatmap.any()
    assert np.unique(np.asarray(opened(lively.rendered.overlay_png)).reshape(-1, 3), axis=0).size
