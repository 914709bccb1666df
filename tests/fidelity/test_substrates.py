from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

from pairlens_server.fidelity.imputation import impute
from pairlens_server.fidelity.substrates import (
    Filling,
    Substrate,
    default_blur_sigma,
    reference_blur,
    reference_taps,
)

BLACK = (-2.1, -2.0, -1.8)


def picture(height: int = 24, width: int = 30) -> Tensor:
    return torch.randn(3, height, width, generator=torch.Generator().manual_seed(1))


def some_erased(height: int = 24, width: int = 30) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    shares = torch.tensor([0.0, 0.3, 0.8, 1.0])[:, None, None]
    return torch.rand(4, height, width, generator=generator) < shares


def mirrored(pixels: Tensor, sigma: float) -> Tensor:
    """scipy's Gaussian with the edge pixel not repeated, its "mirror"."""
    channels = [gaussian_filter(c, sigma, mode="mirror") for c in pixels.double().numpy()]
    return torch.from_numpy(np.stack(channels)).float()


def test_mean_and_black_are_single_colours() -> None:
    pixels = picture()
    assert Filling(Substrate.MEAN, BLACK).picture(pixels).equal(torch.zeros_like(pixels))
    black = Filling(Substrate.BLACK, BLACK).picture(pixels)
    assert black.equal(torch.tensor(BLACK)[:, None, None].expand_as(pixels))


@pytest.mark.parametrize("sigma", [0.7, 5.0, 11.0])
def test_the_blur_is_scipys(sigma: float) -> None:
    pixels = picture()
    blurred = Filling(Substrate.BLUR, BLACK, sigma=sigma).picture(pixels)
    torch.testing.assert_close(blurred, mirrored(pixels, sigma), rtol=0, atol=1e-5)


def test_the_blurs_deviation_is_5_pixels_at_224_and_goes_by_the_shorter_side() -> None:
    pixels = picture(224, 230)
    blurred = Filling(Substrate.BLUR, BLACK).picture(pixels)
    torch.testing.assert_close(blurred, mirrored(pixels, 5.0), rtol=0, atol=1e-5)
    small = picture(56, 112)
    blurred = Filling(Substrate.BLUR, BLACK).picture(small)
    torch.testing.assert_close(blurred, mirrored(small, 1.25), rtol=0, atol=1e-5)


def test_a_wide_blur_ends_at_the_mean() -> None:
    pixels = picture()
    # The widest that a metric takes is the longer side.
    blurred = Filling(Substrate.BLUR, BLACK, sigma=30).picture(pixels)
    # Mirrored without repeating them, edges and corners weigh a half and a quarter.
    weights = torch.ones(24, 30)
    weights[[0, -1]] *= 0.5
    weights[:, [0, -1]] *= 0.5
    mean = (pixels * weights).sum(dim=(1, 2), keepdim=True) / weights.sum()
    torch.testing.assert_close(blurred, mean.expand_as(pixels), rtol=0, atol=1e-3)


def test_the_default_deviation_comes_back_from_the_wire() -> None:
    assert default_blur_sigma(224, 230) == default_blur_sigma(300, 224) == 5
    for side in range(1, 1025):
        sigma = default_blur_sigma(side, side + 3)
        assert sigma == pytest.approx(5 * side / 224, rel=3e-7)
        assert float(str(np.float32(sigma))) == sigma
    pixels = picture()
    by_size = Filling(Substrate.BLUR, BLACK).picture(pixels)
    assert by_size.equal(
        Filling(Substrate.BLUR, BLACK, sigma=default_blur_sigma(24, 30)).picture(pixels)
    )


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
def test_a_gaussian_needs_a_deviation(sigma: float) -> None:
    with pytest.raises(ValueError, match="deviation"):
        Filling(Substrate.BLUR, BLACK, sigma=sigma)


def test_the_thesis_kernel_is_scipys_and_nearly_a_box() -> None:
    delta = np.zeros((11, 11))
    delta[5, 5] = 1
    kernel = np.outer(reference_taps(), reference_taps())
    np.testing.assert_allclose(kernel, gaussian_filter(delta, 5), rtol=1e-12)
    assert kernel[5, 5] == pytest.approx(0.008833, abs=5e-7)
    assert kernel[5, 0] == pytest.approx(0.008267, abs=1e-6)
    assert kernel[0, 0] == pytest.approx(0.007737, abs=5e-7)
    assert kernel.sum() == pytest.approx(1, abs=1e-12)


def test_the_thesis_blur_is_its_convolution() -> None:
    pixels = picture()
    delta = np.zeros((11, 11))
    delta[5, 5] = 1
    kernel = torch.from_numpy(gaussian_filter(delta, 5))
    expected = F.conv2d(pixels.double()[None], kernel.expand(3, 1, 11, 11), padding=5, groups=3)[
        0
    ].float()
    torch.testing.assert_close(reference_blur(pixels), expected, rtol=0, atol=1e-6)
    by_filling = Filling(Substrate.BLUR, BLACK, reference_blur=True).picture(pixels)
    assert by_filling.equal(reference_blur(pixels))


def test_the_thesis_blur_pulls_the_border_to_the_mean_colour() -> None:
    blurred = reference_blur(torch.ones(3, 40, 40))
    assert blurred[0, 20, 20] == pytest.approx(1, abs=1e-6)
    assert blurred[0, 20, 0] == pytest.approx(0.55, abs=5e-3)
    assert blurred[0, 0, 0] == pytest.approx(0.30, abs=5e-3)


def test_noise_is_standard_normal_and_seeded() -> None:
    pixels = picture(100, 100)
    noise = Filling(Substrate.NOISE, BLACK, seed=5).picture(pixels)
    assert noise.equal(Filling(Substrate.NOISE, BLACK, seed=5).picture(pixels))
    assert not noise.equal(Filling(Substrate.NOISE, BLACK, seed=6).picture(pixels))
    assert noise.mean().item() == pytest.approx(0, abs=0.02)
    assert noise.std().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("substrate", list(Substrate))
def test_copies_show_the_picture_where_nothing_is_erased(substrate: Substrate) -> None:
    pixels, erased = picture(), some_erased()
    filling = Filling(substrate, BLACK, seed=7)
    copies = filling.fill(pixels, erased)
    assert copies.shape == (4, 3, 24, 30)
    assert copies[0].equal(pixels)
    assert torch.equal(
        copies.masked_fill(erased[:, None], 0), pixels.expand(4, -1, -1, -1) * ~erased[:, None]
    )
    assert copies[3].equal(filling.picture(pixels))
    prepared = filling.prepare(pixels)
    assert prepared.fill(erased).equal(copies)
    assert prepared.picture.equal(filling.picture(pixels))


@pytest.mark.parametrize(
    "substrate", [Substrate.MEAN, Substrate.BLACK, Substrate.BLUR, Substrate.NOISE]
)
def test_erased_pixels_are_those_of_the_filled_picture(substrate: Substrate) -> None:
    pixels, erased = picture(), some_erased()
    filling = Filling(substrate, BLACK)
    filled = filling.picture(pixels)
    for copy, mask in zip(filling.fill(pixels, erased), erased, strict=True):
        for y, x in np.ndindex(24, 30):
            source = filled if mask[y, x] else pixels
            assert copy[:, y, x].equal(source[:, y, x])


def test_imputed_pixels_carry_a_little_seeded_noise() -> None:
    pixels, erased = picture(96, 96), some_erased(96, 96)
    copies = Filling(Substrate.NOISY_LINEAR, BLACK, seed=9).fill(pixels, erased)
    noise = copies - impute(pixels, erased)
    for part, mask in zip(noise[1:], erased[1:], strict=True):
        assert part[:, mask].std().item() == pytest.approx(0.01, rel=0.05)
        assert part[:, ~mask].abs().max() == 0 if (~mask).any() else True
    again = Filling(Substrate.NOISY_LINEAR, BLACK, seed=9).fill(pixels, erased)
    other = Filling(Substrate.NOISY_LINEAR, BLACK, seed=10).fill(pixels, erased)
    assert copies.equal(again)
    assert not copies.equal(other)


def test_fillings_that_show_the_same_are_equal() -> None:
    assert Filling(Substrate.MEAN, BLACK, sigma=3.0, seed=4, reference_blur=True) == Filling(
        Substrate.MEAN, BLACK
    )
    assert Filling(Substrate.BLUR, BLACK, seed=4) == Filling(Substrate.BLUR, BLACK)
    assert Filling(Substrate.BLUR, BLACK, sigma=3.0, reference_blur=True) == Filling(
        Substrate.BLUR, BLACK, reference_blur=True
    )
    different = {
        Filling(Substrate.BLUR, BLACK),
        Filling(Substrate.BLUR, BLACK, sigma=3.0),
        Filling(Substrate.BLUR, BLACK, reference_blur=True),
        Filling(Substrate.NOISE, BLACK),
        Filling(Substrate.NOISE, BLACK, seed=4),
        Filling(Substrate.NOISY_LINEAR, BLACK, seed=4),
    }
    assert len(different) == 6
