from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, LayerCAM, XGradCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from pairlens_server.methods import cam_weights
from pairlens_server.methods.cam_weights import (
    channel_masks,
    grad_cam,
    grad_cam_plus_plus,
    layer_cam,
    score_cam,
    score_cam_weights,
    x_grad_cam,
)
from tests.support import resnet, vit

GRADIENT_CAMS = [grad_cam, grad_cam_plus_plus, x_grad_cam, layer_cam]

# methods.md C, the hand-checked example.
FEATURES = torch.tensor([[[[1.0, 2], [3, 4]], [[2, 0], [0, 2]]]])
GRADIENTS = torch.tensor([[[[0.1, 0.1], [0.1, 0.1]], [[-0.2, 0.4], [0.0, 0.2]]]])


def scaled(cam: Tensor) -> Tensor:
    cam = cam - cam.min()
    return cam / (1e-7 + cam.max())


@pytest.mark.parametrize(
    ("cam", "expected"),
    [
        (grad_cam, [[0.25, 0], [0.25, 1]]),
        (grad_cam_plus_plus, [[0.3668, 0], [0.2111, 1]]),
        (x_grad_cam, [[0, 0.3333], [0.6667, 1]]),
    ],
)
def test_gradient_cams_match_the_hand_checked_example(cam, expected):
    torch.testing.assert_close(
        scaled(cam(FEATURES, GRADIENTS)), torch.tensor([expected]), atol=1e-4, rtol=0
    )


def test_unnormalised_values_match_the_hand_checked_weights():
    # w = (.1, .1); w = (.13333, .18254); w = (.1, 0); w = max(g, 0) in each place.
    first, second = FEATURES[0]
    for cam, expected in [
        (grad_cam, 0.1 * first + 0.1 * second),
        (grad_cam_plus_plus, 0.13333 * first + 0.18254 * second),
        (x_grad_cam, 0.1 * first),
        (layer_cam, torch.tensor([[0.1, 0.2], [0.3, 0.8]])),
    ]:
        torch.testing.assert_close(cam(FEATURES, GRADIENTS)[0], expected, atol=5e-5, rtol=0)


def test_score_cam_weights_are_a_softmax_of_logits_over_channels():
    weights = score_cam_weights(torch.tensor([[3.0, 1.0]]))
    torch.testing.assert_close(weights, torch.tensor([[0.8808, 0.1192]]), atol=1e-4, rtol=0)
    expected = weights[0, 0] * FEATURES[0, 0] + weights[0, 1] * FEATURES[0, 1]
    torch.testing.assert_close(score_cam(FEATURES, weights)[0], expected)


@pytest.mark.parametrize("cam", [grad_cam, x_grad_cam])
def test_evidence_against_the_score_is_cut_off_or_kept(cam):
    features = torch.ones(1, 2, 2, 3)
    gradients = torch.full((1, 2, 2, 3), -0.5)
    assert torch.equal(cam(features, gradients), torch.zeros(1, 2, 3))
    torch.testing.assert_close(
        cam(features, gradients, relu=False), torch.full((1, 2, 3), -1.0), atol=1e-6, rtol=0
    )


def test_score_cam_keeps_negative_features_only_without_the_relu():
    features, weights = torch.full((1, 1, 1, 2), -2.0), torch.ones(1, 1)
    assert torch.equal(score_cam(features, weights), torch.zeros(1, 1, 2))
    assert torch.equal(score_cam(features, weights, relu=False), torch.full((1, 1, 2), -2.0))


@pytest.mark.parametrize("cam", GRADIENT_CAMS)
def test_signed_maps_become_the_usual_ones_under_a_relu(cam):
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(2, 5, 3, 4, generator=generator)
    gradients = torch.randn(2, 5, 3, 4, generator=generator)
    signed = cam(features, gradients, relu=False)
    assert torch.equal(signed.relu(), cam(features, gradients))


@pytest.mark.parametrize("cam", GRADIENT_CAMS)
def test_dead_channels_and_zero_gradients_give_zeros_not_nan(cam):
    zeros, ones = torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2)
    assert torch.equal(cam(zeros, ones), torch.zeros(1, 2, 2))
    assert torch.equal(cam(ones, zeros), torch.zeros(1, 2, 2))


@pytest.mark.parametrize("cam", GRADIENT_CAMS)
def test_pictures_of_a_batch_do_not_mix(cam):
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(3, 4, 2, 3, generator=generator).double()
    gradients = torch.randn(3, 4, 2, 3, generator=generator).double()
    alone = torch.cat([cam(features[[i]], gradients[[i]]) for i in range(3)])
    torch.testing.assert_close(cam(features, gradients), alone, atol=1e-14, rtol=0)


@dataclass
class Subject:
    """A network, the layer whose output is weighed, and how that output becomes a grid."""

    network: nn.Module
    layer: nn.Module
    pixels: Tensor
    to_grid: Callable[[Tensor], Tensor] | None = None


def small_cnn() -> Subject:
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=3, padding=2),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 4),
    )
    return Subject(network, network[3], torch.randn(2, 3, 25, 37))


def conv_of_small_cnn() -> Subject:
    subject = small_cnn()
    subject.layer = subject.network[0]  # signed features, gradients that vary over places
    return subject


def timm_resnet() -> Subject:
    network = resnet(projection=None, channels=(8, 12, 16, 24)).network
    return Subject(network, network.layer4[-1], torch.randn(2, 3, 64, 96))


def timm_vit() -> Subject:
    network = vit(pooling="token", projection=None).network
    rows, columns = network.patch_embed.grid_size

    def to_grid(tokens: Tensor) -> Tensor:
        return tokens[:, 1:].unflatten(1, (rows, columns)).permute(0, 3, 1, 2)

    return Subject(network, network.blocks[-1].norm1, torch.randn(2, 3, 32, 48), to_grid)


def recorded(subject: Subject, classes: list[int]) -> tuple[Tensor, Tensor]:
    """Features and gradients by autograd, without the package under comparison."""
    kept: list[Tensor] = []
    handle = subject.layer.register_forward_hook(lambda _m, _i, output: kept.append(output))
    logits = subject.network(subject.pixels)
    handle.remove()
    score = sum(logits[row, index] for row, index in enumerate(classes))
    (gradients,) = torch.autograd.grad(score, kept[0])
    to_grid = subject.to_grid or (lambda grid: grid)
    return to_grid(kept[0]).detach(), to_grid(gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("subject", [small_cnn, conv_of_small_cnn, timm_resnet, timm_vit])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (grad_cam, GradCAM),
        (grad_cam_plus_plus, GradCAMPlusPlus),
        (x_grad_cam, XGradCAM),
        (layer_cam, LayerCAM),
    ],
)
def test_gradient_cams_agree_with_the_grad_cam_package(ours, theirs, subject, dtype):
    torch.manual_seed(4)
    subject = subject()
    subject.network.to(dtype).eval().requires_grad_(True)
    subject.pixels = subject.pixels.to(dtype)
    classes = [1, 3]
    targets = [ClassifierOutputTarget(index) for index in classes]
    maps = ours(*recorded(subject, classes))
    package = theirs(subject.network, [subject.layer], reshape_transform=subject.to_grid)
    finished = package(subject.pixels, targets)

    # On the grid, before the package scales its map.
    kept = package.activations_and_grads
    raw = package.get_cam_image(
        subject.pixels,
        subject.layer,
        targets,
        kept.activations[0].numpy(),
        kept.gradients[0].numpy(),
        False,
    )
    raw = torch.from_numpy(np.maximum(raw, 0))
    assert raw.max() > 0
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    scale = raw.abs().amax(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(maps / scale, raw / scale, atol=tolerance, rtol=0)

    # And after its tail: scaled, enlarged, scaled again.
    width, height = subject.pixels.shape[3], subject.pixels.shape[2]
    tail = scale_cam_image(scale_cam_image(maps.numpy(), (width, height)))
    np.testing.assert_allclose(tail, finished, atol=1e-4, rtol=0)


def test_grad_cam_is_x_grad_cam_where_gradients_are_constant_over_places():
    # Features that are averaged and then read linearly: Reppas, table 5.
    subject = timm_resnet()
    subject.network.double().requires_grad_(True)
    subject.pixels = subject.pixels.double()
    features, gradients = recorded(subject, [0, 2])
    spread = gradients - gradients.mean(dim=(2, 3), keepdim=True)
    assert spread.abs().max() < 1e-15
    first, second = grad_cam(features, gradients), x_grad_cam(features, gradients)
    assert first.amax() > 0.1
    torch.testing.assert_close(first, second, atol=1e-6, rtol=1e-6)


def test_grad_cam_is_not_x_grad_cam_elsewhere():
    features, gradients = recorded(conv_of_small_cnn(), [0, 2])
    first, second = grad_cam(features, gradients), x_grad_cam(features, gradients)
    assert (scaled(first[0]) - scaled(second[0])).abs().max() > 0.1


def test_equal_channels_share_one_mask():
    ramp = torch.arange(6.0).reshape(2, 3)
    features = torch.stack([ramp, ramp * 0, ramp + 4, ramp * 0 + 7.3, ramp.flip(1), ramp])
    masks, index = channel_masks(features)
    assert masks.shape == (3, 2, 3)
    assert index[0] == index[2] == index[5]
    assert index[1] == index[3]
    assert torch.equal(masks[index[0]], ramp)
    assert torch.equal(masks[index[1]], torch.zeros(2, 3))
    assert torch.equal(masks[index[4]], ramp.flip(1))


def test_every_map_of_the_family_is_here():
    # A new formula must join the tests above.
    names = {name for name in vars(cam_weights) if name.endswith(("_cam", "_plus_plus"))}
    assert names == {cam.__name__ for cam in [*GRADIENT_CAMS, score_cam]}
