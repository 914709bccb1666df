from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import captum.attr
import numpy as np
import pytest
import torch
from pytorch_grad_cam import ScoreCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from pairlens_server.methods.cam_weights import channel_masks, score_cam, score_cam_weights
from pairlens_server.models.loaded import TokenLayout
from pairlens_server.recording.baselines import Baseline, Fill, gaussian_blur
from pairlens_server.recording.probes import (
    MaskedScores,
    OcclusionScores,
    PathGradients,
    Probe,
    cells_of_pixels,
    enlarge_masks,
    occlusion_map,
    sum_over_cells,
)
from pairlens_server.recording.targets import ClassLogit, ScoreTarget
from tests.support import resnet, vit

BLACK = (-2.1, -2.0, -1.8)
MEAN = Baseline(Fill.MEAN, BLACK)
TARGET = ClassLogit(2)


@dataclass
class Asked:
    """A network that answers probes with its class logits."""

    network: Callable[[Tensor], Tensor]

    def scores(self, pixels: Tensor, target: ScoreTarget) -> Tensor:
        with torch.no_grad():
            return self.network(pixels)[:, target.class_index]

    def input_gradients(self, pixels: Tensor, target: ScoreTarget) -> Tensor:
        pixels = pixels.detach().requires_grad_()
        score = self.network(pixels)[:, target.class_index].sum()
        return torch.autograd.grad(score, pixels)[0]


@dataclass
class Subject:
    network: nn.Module
    layout: TokenLayout
    pixels: Tensor

    @property
    def asked(self) -> Asked:
        return Asked(self.network)


def vit_subject(dtype: torch.dtype = torch.float64) -> Subject:
    model = vit(pooling="token", projection=None)
    pixels = torch.randn(3, 32, 48, generator=torch.Generator().manual_seed(5))
    return Subject(model.network.to(dtype), model.layout, pixels.to(dtype))


def resnet_subject(dtype: torch.dtype = torch.float64) -> Subject:
    model = resnet(projection=None, channels=(8, 12, 16, 24))
    pixels = torch.randn(3, 64, 96, generator=torch.Generator().manual_seed(6))
    return Subject(model.network.to(dtype), model.layout, pixels.to(dtype))


SUBJECTS = [vit_subject, resnet_subject]


def grid(rows: int, columns: int, unseen_bottom: int = 0, unseen_right: int = 0) -> TokenLayout:
    readout = tuple(range(rows * columns))
    return TokenLayout(rows, columns, 0, readout, unseen_bottom, unseen_right)


def answer(probe: Probe, model: Asked, pixels: Tensor, chunk: int = 1000) -> Tensor:
    """Run a probe in chunks, as an engine does."""
    starts = range(0, probe.steps, chunk)
    parts = [probe.run(model, pixels, a, min(a + chunk, probe.steps)).cpu() for a in starts]
    return probe.combine(parts)


def linear(size: tuple[int, int]) -> Asked:
    weights = torch.randn(4, 3, *size, generator=torch.Generator().manual_seed(9)).double()
    return Asked(partial(torch.einsum, "kchw,nchw->nk", weights))


# ---- ScoreCAM


def vit_features(subject: Subject) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    def to_grid(tokens: Tensor) -> Tensor:
        sizes = (subject.layout.rows, subject.layout.columns)
        return tokens[:, 1:].unflatten(1, sizes).permute(0, 3, 1, 2)

    return subject.network.blocks[-1].norm1, to_grid


def resnet_features(subject: Subject) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    return subject.network.layer4[-1], lambda features: features


def cnn_subject(dtype: torch.dtype = torch.float64) -> Subject:
    torch.manual_seed(7)
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 4)]
    network = nn.Sequential(nn.Conv2d(3, 10, 5, stride=4, padding=2), nn.ReLU(), *pool)
    return Subject(network.to(dtype), grid(6, 7), torch.randn(3, 23, 28).to(dtype))


def cnn_features(subject: Subject) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    return subject.network[1], lambda features: features


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("make", "where"),
    [
        (vit_subject, vit_features),
        (resnet_subject, resnet_features),
        (cnn_subject, cnn_features),
    ],
)
def test_score_cam_agrees_with_the_grad_cam_package(make, where, dtype):
    subject = make(dtype)
    layer, to_grid = where(subject)
    package = ScoreCAM(subject.network, [layer], reshape_transform=to_grid)
    targets = [ClassifierOutputTarget(TARGET.class_index)]
    package(subject.pixels[None], targets)
    features = package.activations_and_grads.activations[0]
    raw = package.get_cam_image(subject.pixels[None], layer, targets, features.numpy(), None)

    package.activations_and_grads.release()
    masks, index = channel_masks(features[0])
    scores = answer(MaskedScores(TARGET, masks), subject.asked, subject.pixels, chunk=5)
    ours = score_cam(features, score_cam_weights(scores[index])[None], relu=False)
    assert np.abs(raw).max() > 1e-3
    np.testing.assert_allclose(ours, raw, atol=1e-4, rtol=1e-4)


def test_dead_channels_cost_one_copy_and_change_nothing():
    subject = vit_subject()
    features = torch.randn(9, 4, 6, generator=torch.Generator().manual_seed(8)).double()
    features[[1, 4, 5]] = 0
    features[7] = features[2]
    masks, index = channel_masks(features)
    assert len(masks) == 6
    shared = answer(MaskedScores(TARGET, masks), subject.asked, subject.pixels)[index]
    every = answer(MaskedScores(TARGET, features), subject.asked, subject.pixels)
    torch.testing.assert_close(shared, every, atol=1e-6, rtol=1e-6)
    mean_colour = subject.asked.scores(torch.zeros_like(subject.pixels)[None], TARGET)
    torch.testing.assert_close(shared[1], mean_colour[0].float())


def test_masks_are_enlarged_with_corners_aligned():
    # methods.md: row 0 of [[0,1],[2,3]] enlarged to 4×4 is 0, 1/3, 2/3, 1; the corner is 3.
    mask = enlarge_masks(torch.tensor([[[0.0, 1], [2, 3]]]), 4, 4)[0]
    torch.testing.assert_close(mask[0], torch.tensor([0, 1 / 3, 2 / 3, 1]) / 3)
    assert mask.min() == 0
    torch.testing.assert_close(mask[3, 3], torch.tensor(1.0))


def test_masks_are_scaled_after_they_are_enlarged():
    # A peak at the middle of three falls between pixels of an even size: 2/3 of its height.
    mask = torch.tensor([[[0.0, 1, 0]]]).expand(1, 3, 3)
    torch.testing.assert_close(
        enlarge_masks(mask, 4, 4)[0, 0], torch.tensor([0.0, 1, 1, 0]), atol=1e-6, rtol=0
    )


def test_masks_leave_out_what_no_patch_covers():
    model = linear((5, 7))
    pixels = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(13)).double()
    mask = torch.tensor([[[0.0, 1], [1, 1]]]).double()
    probe = MaskedScores(TARGET, mask, unseen_bottom=1, unseen_right=3)
    copy = torch.zeros(1, 3, 5, 7).double()
    copy[0, :, :4, :4] = pixels[:, :4, :4] * enlarge_masks(mask, 4, 4)
    expected = model.scores(copy, TARGET).float()
    torch.testing.assert_close(answer(probe, model, pixels), expected)


# ---- occlusion


@pytest.mark.parametrize("fill", list(Fill))
@pytest.mark.parametrize("make", SUBJECTS)
def test_occlusion_agrees_with_captum(make, fill):
    subject = make()
    layout = subject.layout
    baseline = Baseline(fill, BLACK, seed=3)
    scores = answer(OcclusionScores(TARGET, layout, 1, baseline), subject.asked, subject.pixels, 7)
    ours = occlusion_map(scores, layout.rows, layout.columns)

    cell = subject.pixels.shape[1] // layout.rows
    theirs = captum.attr.Occlusion(subject.network).attribute(
        subject.pixels[None],
        sliding_window_shapes=(3, cell, cell),
        strides=(3, cell, cell),
        baselines=baseline.picture(subject.pixels)[None],
        target=TARGET.class_index,
    )[0, 0, ::cell, ::cell]
    assert ours.abs().max() > 1e-3
    torch.testing.assert_close(ours, theirs.float(), atol=1e-5, rtol=1e-5)


def test_wide_windows_are_centred_and_cut_off_at_the_edges():
    subject = vit_subject()
    rows, columns = subject.layout.rows, subject.layout.columns
    black = Baseline(Fill.BLACK, BLACK)
    scores = answer(
        OcclusionScores(TARGET, subject.layout, 3, black), subject.asked, subject.pixels
    )
    clean = subject.asked.scores(subject.pixels[None], TARGET)[0]
    torch.testing.assert_close(scores[0], clean.float())
    for row in range(rows):
        for column in range(columns):
            copy = subject.pixels.clone()
            top, left = max(0, row - 1) * 8, max(0, column - 1) * 8
            copy[:, top : (row + 2) * 8, left : (column + 2) * 8] = torch.tensor(
                BLACK, dtype=torch.float64
            )[:, None, None]
            expected = subject.asked.scores(copy[None], TARGET)[0]
            torch.testing.assert_close(
                scores[1 + row * columns + column], expected.float(), atol=1e-6, rtol=1e-6
            )


def test_a_window_over_everything_shows_the_baseline_alone():
    subject = vit_subject()
    noise = Baseline(Fill.NOISE, BLACK, seed=1)
    scores = answer(
        OcclusionScores(TARGET, subject.layout, 13, noise), subject.asked, subject.pixels
    )
    hidden = subject.asked.scores(noise.picture(subject.pixels)[None], TARGET)[0]
    torch.testing.assert_close(scores[1:], hidden.float().expand(24))


@pytest.mark.parametrize("window", [0, 2, -1])
def test_windows_need_a_cell_at_their_centre(window):
    with pytest.raises(ValueError, match="centre"):
        OcclusionScores(TARGET, grid(2, 2), window, MEAN)


def test_occlusion_maps_are_drops_of_the_score_for_every_picture():
    scores = torch.tensor([[5.0, 4, 3, 5, 7], [1, 1, 1, 1, 0]])
    expected = torch.tensor([[[1.0, 2], [0, -2]], [[0, 0], [0, 1]]])
    assert torch.equal(occlusion_map(scores, 2, 2), expected)
    assert torch.equal(occlusion_map(scores[0], 2, 2), expected[0])


# ---- integrated gradients


@pytest.mark.parametrize("fill", list(Fill))
@pytest.mark.parametrize("make", SUBJECTS)
def test_integrated_gradients_agree_with_captum(make, fill):
    subject = make()
    baseline = Baseline(fill, BLACK, seed=4)
    probe = PathGradients(TARGET, subject.layout, baseline, points=12)
    theirs, delta = captum.attr.IntegratedGradients(subject.network).attribute(
        subject.pixels[None],
        baselines=baseline.picture(subject.pixels)[None],
        target=TARGET.class_index,
        n_steps=12,
        return_convergence_delta=True,
    )
    ours = probe.attributions(subject.asked, subject.pixels, 0, 12)
    assert ours.abs().max() > 1e-4
    # captum keeps the quadrature's weights in float32.
    torch.testing.assert_close(ours, theirs[0], atol=1e-6, rtol=1e-6)
    result = answer(probe, subject.asked, subject.pixels)
    torch.testing.assert_close(result[-1].double(), delta[0].double(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(result[:-1].sum().double(), theirs.sum(), atol=1e-5, rtol=1e-5)


def test_attributions_sum_to_the_change_of_the_score():
    subject = vit_subject()
    difference = subject.asked.scores(
        torch.stack([subject.pixels, torch.zeros_like(subject.pixels)]), TARGET
    )
    change = (difference[0] - difference[1]).item()
    deltas = []
    for points in (2, 8, 128):
        probe = PathGradients(TARGET, subject.layout, MEAN, points)
        result = answer(probe, subject.asked, subject.pixels)
        deltas.append(abs(result[-1].item()))
        torch.testing.assert_close(
            result[:-1].double().sum().item() - result[-1].item(), change, atol=1e-5, rtol=0
        )
    assert deltas[0] > deltas[2]
    assert deltas[2] < 1e-3 * abs(change)


def test_both_methods_are_exact_on_a_linear_model():
    # Each cell then owes Σ w (x − x₀) over its pixels, and one point is enough.
    size, layout = (19, 29), grid(2, 3, unseen_bottom=3, unseen_right=5)
    model = linear(size)
    pixels = torch.randn(3, *size, generator=torch.Generator().manual_seed(10)).double()
    black = Baseline(Fill.BLACK, BLACK)
    owed = (pixels - black.picture(pixels)) * model.input_gradients(pixels[None], TARGET)[0]
    owed[:, 16:] = 0
    owed[:, :, 24:] = 0
    expected = torch.stack(
        [owed[:, 8 * r : 8 * r + 8, 8 * c : 8 * c + 8].sum() for r in range(2) for c in range(3)]
    ).float()
    scores = answer(OcclusionScores(TARGET, layout, 1, black), model, pixels)
    torch.testing.assert_close(
        occlusion_map(scores, 2, 3).flatten(), expected, atol=1e-5, rtol=1e-5
    )
    result = answer(PathGradients(TARGET, layout, black, points=1), model, pixels)
    torch.testing.assert_close(result[:-1], expected, atol=1e-6, rtol=1e-6)


# ---- cells


@pytest.mark.parametrize(
    ("size", "count", "unseen", "expected"),
    [
        (6, 3, 0, [0, 0, 1, 1, 2, 2]),
        (7, 3, 1, [0, 0, 1, 1, 2, 2, 3]),
        (7, 2, 0, [0, 0, 0, 1, 1, 1, 1]),  # the middle pixel's middle is on the border
        (5, 3, 0, [0, 0, 1, 2, 2]),
    ],
)
def test_a_pixel_belongs_to_the_cell_under_its_middle(size, count, unseen, expected):
    layout = grid(count, count, unseen_bottom=unseen, unseen_right=unseen)
    rows, columns = cells_of_pixels(layout, torch.zeros(size, size))
    assert rows.tolist() == columns.tolist() == expected


def test_every_seen_pixel_counts_in_one_cell():
    layout = grid(3, 2, unseen_bottom=1, unseen_right=2)
    values = torch.arange(8.0 * 9).reshape(8, 9).double()
    sums = sum_over_cells(values, layout)
    rows, columns = cells_of_pixels(layout, values)
    slow = torch.zeros(3, 2).double()
    for y in range(7):
        for x in range(7):
            slow[rows[y], columns[x]] += values[y, x]
    torch.testing.assert_close(sums, slow)


# ---- chunks


def all_probes(subject: Subject) -> list[Probe]:
    masks = torch.rand(11, 4, 6, generator=torch.Generator().manual_seed(11))
    blur = Baseline(Fill.BLUR, BLACK)
    noise = Baseline(Fill.NOISE, BLACK, seed=2)
    return [
        MaskedScores(TARGET, masks),
        OcclusionScores(TARGET, subject.layout, 3, blur),
        PathGradients(TARGET, subject.layout, noise, points=9),
    ]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
@pytest.mark.parametrize("make", SUBJECTS)
def test_results_do_not_depend_on_the_chunks(make, chunk):
    subject = make()
    for probe in all_probes(subject):
        whole = answer(probe, subject.asked, subject.pixels)
        cut = answer(probe, subject.asked, subject.pixels, chunk)
        assert whole.dtype == torch.float32
        torch.testing.assert_close(cut, whole, atol=1e-6, rtol=1e-6)


def test_float32_chunks_agree_to_rounding():
    subject = vit_subject(torch.float32)
    exact = vit_subject()
    for probe in all_probes(subject):
        whole = answer(probe, exact.asked, exact.pixels)
        cut = answer(probe, subject.asked, subject.pixels, chunk=4)
        torch.testing.assert_close(cut, whole, atol=2e-5, rtol=2e-5)


# ---- baselines


def test_baselines_show_what_they_say():
    pixels = torch.randn(3, 40, 60, generator=torch.Generator().manual_seed(12))
    assert torch.equal(MEAN.picture(pixels), torch.zeros(3, 40, 60))
    black = Baseline(Fill.BLACK, BLACK).picture(pixels)
    assert torch.equal(black, torch.tensor(BLACK)[:, None, None].expand(3, 40, 60))
    blur = Baseline(Fill.BLUR, BLACK).picture(pixels)
    torch.testing.assert_close(blur, gaussian_blur(pixels, 40 * 10 / 224))


def test_noise_is_normal_and_depends_on_its_seed_alone():
    pixels = torch.zeros(3, 100, 100)
    noise = Baseline(Fill.NOISE, BLACK, seed=5).picture(pixels)
    again = Baseline(Fill.NOISE, BLACK, seed=5).picture(pixels + 1)
    other = Baseline(Fill.NOISE, BLACK, seed=6).picture(pixels)
    assert torch.equal(noise, again)
    assert abs(noise.mean().item()) < 0.02
    assert abs(noise.std().item() - 1) < 0.02
    assert abs((noise * other).mean().item()) < 0.02


@pytest.mark.parametrize("sigma", [0.4, 1.5, 10])
def test_the_blur_is_a_gaussian_with_mirrored_edges(sigma):
    # With σ = 10 the mirrored edges reach across the whole picture and back.
    picture = np.random.default_rng(0).normal(size=(3, 17, 23))
    expected = np.stack([gaussian_filter(plane, sigma, mode="mirror") for plane in picture])
    ours = gaussian_blur(torch.from_numpy(picture), sigma)
    np.testing.assert_allclose(ours, expected, atol=1e-12)


def test_a_blur_keeps_constants_and_single_rows():
    constant = torch.full((3, 1, 9), 2.5)
    torch.testing.assert_close(gaussian_blur(constant, 2.0), constant)
