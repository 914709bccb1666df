"""What stands in for the erased pixels of a picture."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum

import numpy as np
import torch
from torch import Tensor

from pairlens_server.fidelity.imputation import impute
from pairlens_server.recording.baselines import Baseline, Fill, gaussian_blur

# σ = 5 on inputs of 224 pixels (Petsiuk et al. 2018).
_BLUR_SIGMA = 5 / 224
# Of the noise on imputed pixels, in normalised units (Rong et al. 2022, `NoisyLinearImputer`).
_IMPUTED_NOISE = 0.01
_REFERENCE_SIDE = 11
_REFERENCE_SIGMA = 5


class Substrate(str, Enum):
    """What erased pixels show."""

    MEAN = "mean"  # the mean colour of the model's training data: 0 once normalised
    BLACK = "black"
    BLUR = "blur"  # the picture itself under a Gaussian blur
    NOISE = "noise"  # normal noise with the mean and deviation of the training data
    NOISY_LINEAR = "noisy_linear"  # the mean of what is left around, and a little noise


_FILLS = {
    Substrate.MEAN: Fill.MEAN,
    Substrate.BLACK: Fill.BLACK,
    Substrate.NOISE: Fill.NOISE,
}


def default_blur_sigma(height: int, width: int) -> float:
    """Deviation of the blur where a caller gives none, in pixels of an input of this size.

    The decimal of its float32, so that it comes back as it is from an answer's message.
    """
    return float(str(np.float32(_BLUR_SIGMA * min(height, width))))


class Prepared(ABC):
    """A filling of one picture, made once for all of its copies.

    Attributes:
        pixels: [3, H, W], the picture, normalised.
        picture: [3, H, W], the picture with everything erased.
    """

    pixels: Tensor
    picture: Tensor

    @abstractmethod
    def fill(self, erased: Tensor) -> Tensor:
        """Make copies.

        Args:
            erased: bool [n, H, W] on the device of `pixels`.

        Returns:
            [n, 3, H, W] like `pixels`: unchanged where nothing is erased, `picture` where all
            is. A copy does not depend on those beside it, but for rounding.
        """


@dataclass(frozen=True, eq=False)
class _Pasted(Prepared):
    """One filling, whatever is erased."""

    pixels: Tensor
    picture: Tensor

    def fill(self, erased: Tensor) -> Tensor:
        """See `Prepared.fill`."""
        return torch.where(erased[:, None], self.picture, self.pixels)


@dataclass(frozen=True, eq=False)
class _Imputed(Prepared):
    """Erased pixels by their neighbours, and noise: `picture` is the noise alone."""

    pixels: Tensor
    picture: Tensor

    def fill(self, erased: Tensor) -> Tensor:
        """See `Prepared.fill`."""
        return torch.where(erased[:, None], impute(self.pixels, erased) + self.picture, self.pixels)


@dataclass(frozen=True)
class Filling:
    """How erased pixels are filled; a value. Fields that a substrate does not read are reset.

    Attributes:
        substrate: What they show.
        black: Normalised value of a black pixel, (0 - mean) / std per channel.
        sigma: Of BLUR, the Gaussian's deviation in pixels of the input, above 0; None for
            `default_blur_sigma`.
        seed: Of NOISE and NOISY_LINEAR.
        reference_blur: Of BLUR: the thesis' kernel, see `reference_blur`, in place of a
            Gaussian; `sigma` is then not read.
    """

    substrate: Substrate
    black: tuple[float, float, float]
    sigma: float | None = None
    seed: int = 0
    reference_blur: bool = False

    def __post_init__(self) -> None:
        if self.sigma is not None and not (self.sigma > 0 and math.isfinite(self.sigma)):
            raise ValueError(f"a Gaussian of deviation {self.sigma}")
        # Fillings that show the same are equal, and their copies are scored once.
        if self.substrate is not Substrate.BLUR:
            object.__setattr__(self, "reference_blur", False)
        if self.substrate is not Substrate.BLUR or self.reference_blur:
            object.__setattr__(self, "sigma", None)
        if self.substrate not in (Substrate.NOISE, Substrate.NOISY_LINEAR):
            object.__setattr__(self, "seed", 0)

    @property
    def imputes(self) -> bool:
        """Whether each copy's filling is solved for."""
        return self.substrate is Substrate.NOISY_LINEAR

    def prepare(self, pixels: Tensor) -> Prepared:
        """Make what all copies of a picture share.

        Args:
            pixels: [3, H, W], normalised, on the device where copies are to be made.
        """
        if self.imputes:
            return _Imputed(pixels, self.picture(pixels))
        return _Pasted(pixels, self.picture(pixels))

    def picture(self, pixels: Tensor) -> Tensor:
        """Make the picture with everything erased: [3, H, W] like the normalised `pixels`.

        Under NOISY_LINEAR, whose linear system then leaves the colour open, the mean colour
        of the training data (0, its solution of least norm) and the noise: what ends a curve
        holds nothing of the picture.
        """
        if self.imputes:
            return _IMPUTED_NOISE * Baseline(Fill.NOISE, self.black, self.seed).picture(pixels)
        if self.substrate is Substrate.BLUR:
            return reference_blur(pixels) if self.reference_blur else self._blurred(pixels)
        return Baseline(_FILLS[self.substrate], self.black, self.seed).picture(pixels)

    def fill(self, pixels: Tensor, erased: Tensor) -> Tensor:
        """Make copies of one picture, [n, 3, H, W]; see `Prepared.fill`."""
        return self.prepare(pixels).fill(erased)

    def _blurred(self, pixels: Tensor) -> Tensor:
        sigma = default_blur_sigma(*pixels.shape[1:]) if self.sigma is None else self.sigma
        return gaussian_blur(pixels, sigma)


def reference_blur(pixels: Tensor) -> Tensor:
    """Blur as the thesis' and RISE's code: [3, H, W] from the normalised [3, H, W].

    `scipy.ndimage.gaussian_filter(delta, 5)` of an 11 x 11 delta mirrors the Gaussian's tails
    back into the window, which makes nearly a box: centre .008833, corner .007737. Zeros stand
    beyond the edge, which pull border pixels to the mean colour.
    """
    height, width = pixels.shape[1:]
    # Products of matrices, because convolutions on NVIDIA GPUs keep ten bits.
    down = _reference_matrix(height).to(pixels)
    across = _reference_matrix(width).to(pixels)
    return down @ pixels @ across.T


def reference_taps() -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """One axis of the kernel of `reference_blur`, which is an outer product: float64 [11]."""
    radius = 4 * _REFERENCE_SIGMA
    offsets = np.arange(-radius, radius + 1)
    gaussian = np.exp(-0.5 * (offsets / _REFERENCE_SIGMA) ** 2)
    # scipy's "reflect" repeats the edge pixel: places 11..21 are 10..0, and so on.
    places = (offsets + _REFERENCE_SIDE // 2) % (2 * _REFERENCE_SIDE)
    places = np.minimum(places, 2 * _REFERENCE_SIDE - 1 - places)
    taps = np.bincount(places, gaussian / gaussian.sum(), _REFERENCE_SIDE)
    return taps.astype(np.float64)


def _reference_matrix(size: int) -> Tensor:
    """The blur along one axis, float64 [size, size]; weights beyond the edge are lost."""
    matrix = np.zeros((size, size))
    for offset, tap in enumerate(reference_taps(), start=-(_REFERENCE_SIDE // 2)):
        matrix += tap * np.eye(size, k=offset)
    return torch.from_numpy(matrix)
