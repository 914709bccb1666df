"""What right answers hold, over the wire."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from pairlens.v1 import common_pb2
from pairlens_server import __version__
from tests.contract.support import (
    Stubs,
    array,
    decomposition,
    encoded,
    noise,
    png,
    values,
)
from tests.server_process import LABELS, server_process, write_models

PAIR_MODELS = ["tiny-vit", "tiny-registers", "tiny-resnet", "tiny-bit", "tiny-headless"]


@pytest.mark.parametrize("model", PAIR_MODELS)
def test_strict_parts_add_up_to_the_similarity_on_either_side(server, model):
    answer = server.pair(model, png(1), png(2, 30, 90), png(3))
    for result in answer.results:
        match = result.match
        assert -1.00001 <= match.similarity <= 1.00001
        for side in (match.query, match.candidate):
            assert side.sum == pytest.approx(values(side).sum(), abs=1e-5)
            total = side.sum + side.bias_share + side.prefix_share
            assert total == pytest.approx(match.similarity, abs=1e-5)


@pytest.mark.parametrize("model", PAIR_MODELS)
def test_a_picture_and_itself(server, model):
    (result,) = server.pair(model, png(4), png(4)).results
    match = result.match
    assert match.similarity == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(values(match.query), values(match.candidate), atol=1e-6)


@pytest.mark.parametrize("model", PAIR_MODELS)
def test_there_and_back_again(server, model):
    there = server.pair(model, png(1), png(2)).results[0].match
    back = server.pair(model, png(2), png(1)).results[0].match
    np.testing.assert_allclose(values(there.query), values(back.candidate), atol=1e-6)
    np.testing.assert_allclose(values(there.candidate), values(back.query), atol=1e-6)


def test_match_matrix(server):
    method = decomposition(
        redistribution="REDISTRIBUTION_NONE", bias_mode="BIAS_MODE_IN_TOKENS", match_matrix=True
    )
    match = server.pair("tiny-vit", png(1), png(2), method=method).results[0].match
    matrix = array(match.match_matrix)
    assert matrix.shape == (24, 24)
    np.testing.assert_allclose(matrix.sum(1), values(match.query).ravel(), atol=1e-5)
    np.testing.assert_allclose(matrix.sum(0), values(match.candidate).ravel(), atol=1e-5)


def test_geometry_follows_the_oriented_picture(server):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    turned = encoded(noise(1, 40, 56), "JPEG", exif=exif)
    geometry = server.explain("tiny-vit", turned).heatmap.geometry
    assert (geometry.image_height, geometry.image_width) == (56, 40)
    assert (geometry.region.right, geometry.region.bottom) == (40, 56)


def test_a_crop_is_told(server):
    geometry = server.explain("tiny-resnet", png(1, 100, 400)).heatmap.geometry
    assert geometry.region.left > 0
    assert geometry.region.right < 400


@pytest.mark.parametrize(
    ("target", "expected"),
    [({"class_index": 4}, 4), ({"label": "dog"}, 1), ({"label": "house cat"}, 0)],
)
def test_targets(server, target, expected):
    answer = server.explain("tiny-resnet", target=target)
    assert answer.target.class_index == expected
    assert answer.target.label == LABELS[expected]
    assert 0 < answer.target.probability < 1


def test_a_whole_label_goes_before_a_part(server):
    assert server.explain("tiny-resnet", target={"label": "newt"}).target.class_index == 2


def test_the_predicted_class_is_the_default(server):
    answer = server.explain("tiny-resnet")
    assert answer.target == server.explain("tiny-resnet", target={"predicted": True}).target
    others = [server.explain("tiny-resnet", target={"class_index": k}).target for k in range(8)]
    assert answer.target.logit == max(other.logit for other in others)
    assert sum(other.probability for other in others) == pytest.approx(1, abs=1e-5)


def test_flat_maps_are_flagged_and_no_others(server):
    flat = 0
    for seed in range(4):
        for index in range(len(LABELS)):
            answer = server.explain(
                "tiny-resnet",
                png(seed),
                method={"grad_cam": {}},
                target={"class_index": index},
                rendering={"overlay": True},
            )
            heatmap = array(answer.heatmap.values)
            assert answer.heatmap.constant == (np.unique(heatmap).size == 1)
            assert (answer.heatmap.min, answer.heatmap.max) == (heatmap.min(), heatmap.max())
            flat += answer.heatmap.constant
            drawn = Image.open(io.BytesIO(answer.rendered.overlay_png))
            # The picture itself, without the veil of colours and the dimmed rim.
            same = np.array_equal(np.asarray(drawn), np.asarray(noise(seed)))
            assert same == answer.heatmap.constant
    assert 0 < flat < 4 * len(LABELS)


def test_every_head_of_every_block(server):
    method = {"raw_attention": {"each": "EACH_BLOCK_AND_HEAD"}}
    answer = server.explain("tiny-vit-cls", method=method, rendering={"upsampled": True})
    assert [(p.block, p.head) for p in answer.panels] == [(b, h) for b in range(3) for h in (0, 1)]
    for panel in answer.panels:
        alone = server.explain(
            "tiny-vit-cls",
            method={"raw_attention": {"block": panel.block, "head": panel.head}},
            rendering={"upsampled": True},
        )
        assert panel.heatmap == alone.heatmap
        assert panel.rendered == alone.rendered
    last = np.mean([values(panel) for panel in answer.panels[-2:]], axis=0)
    np.testing.assert_allclose(values(answer), last, atol=1e-6)


def test_masks(server):
    asked = {"blocks": [0, 2], "ratio": 0.5, "seed": 3}
    answer = server.explain("tiny-vit-cls", method={"attention_mask": asked})
    assert [panel.block for panel in answer.panels] == [0, 2]
    for panel in answer.panels:
        assert (panel.mask.dtype, list(panel.mask.shape)) == (common_pb2.DATA_TYPE_BOOL, [4, 6])
        hidden = np.frombuffer(panel.mask.data, "?").reshape(4, 6)
        assert hidden.sum() == 12
        attended = values(panel)
        assert attended[hidden].min() >= attended[~hidden].max()
    assert answer.mask == answer.panels[0].mask


def test_drawings(server):
    answer = server.explain(
        "tiny-vit",
        png(1, 100, 60),
        rendering={"upsampled": True, "overlay": True, "max_side": 50},
    )
    assert array(answer.rendered.upsampled).shape == (50, 30)
    drawn = Image.open(io.BytesIO(answer.rendered.overlay_png))
    assert (drawn.format, drawn.mode, drawn.size) == ("PNG", "RGB", (30, 50))


def test_provenance_and_timing(server):
    info = server.get_model("tiny-vit").model
    cold = server.pair("tiny-vit", png(501), png(502))
    warm = server.pair("tiny-vit", png(501), png(502))
    provenance = cold.provenance
    assert provenance.model_fingerprint == info.fingerprint
    assert provenance.preprocessing_digest == info.preprocessing.digest
    assert provenance.server_version == __version__
    assert (cold.timing.cached_images, cold.timing.images) == (0, 2)
    assert (warm.timing.cached_images, warm.timing.images) == (2, 2)
    assert cold.timing.total.ToNanoseconds() >= cold.timing.compute.ToNanoseconds() > 0
    assert warm.timing.compute.ToNanoseconds() == 0
    assert warm.results == cold.results


@pytest.fixture
def lone_server(tmp_path):
    """The same models in a server that neither batches nor caches."""
    flags = ("--max-batch", "1", "--cache-bytes", "0")
    with server_process(write_models(tmp_path), tmp_path / "log.txt", *flags) as process:
        stubs = Stubs(process.listening())
        process.serving()
        yield stubs
        stubs.channel.close()
        assert process.stop() == 0


def test_many_at_once_get_what_each_gets_alone(server, lone_server):
    """48 calls over models, methods and targets, cold and at once; then each by itself."""

    def ask(number: int, server: Stubs = server) -> np.ndarray:
        seed = 1000 + number // 2
        if number % 4 == 0:
            return values(server.pair("tiny-vit", png(seed), png(7)).results[0].match.query)
        if number % 4 == 1:
            answer = server.explain(
                "tiny-resnet", png(seed), target={"class_index": number % len(LABELS)}
            )
        elif number % 4 == 2:
            answer = server.explain("tiny-vit-cls", png(seed))
        else:
            answer = server.explain("tiny-deit", png(seed), method={"raw_attention": {}})
        return array(answer.heatmap.values)

    with ThreadPoolExecutor(24) as pool:
        together = list(pool.map(ask, range(48)))
    alone = [ask(number, lone_server) for number in range(48)]
    for number, (first, second) in enumerate(zip(together, alone, strict=True)):
        np.testing.assert_allclose(first, second, atol=1e-5, err_msg=f"call {number}")
