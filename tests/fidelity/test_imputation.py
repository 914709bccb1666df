from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import spsolve
from torch import Tensor

from pairlens_server.fidelity import imputation
from pairlens_server.fidelity.imputation import impute


def solved_by_elimination(pixels: Tensor, erased: Tensor) -> Tensor:
    """The definition, one equation at a time, in float64."""
    picture, hidden = pixels.double().numpy(), erased.numpy()
    height, width = hidden.shape
    places = [tuple(place) for place in np.argwhere(hidden)]
    number = {place: index for index, place in enumerate(places)}
    entries: list[tuple[int, int, float]] = []
    right: NDArray[np.float64] = np.zeros((len(places), 3))
    for index, (y, x) in enumerate(places):
        around = {
            (y + dy, x + dx): 1 / 6 if dy == 0 or dx == 0 else 1 / 12
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
            if (dy, dx) != (0, 0) and 0 <= y + dy < height and 0 <= x + dx < width
        }
        total = sum(around.values())
        entries.append((index, index, 1.0))
        for place, weight in around.items():
            if place in number:
                entries.append((index, number[place], -weight / total))
            else:
                right[index] += weight / total * picture[:, place[0], place[1]]
    rows, columns, values = zip(*entries, strict=True)
    system = csc_matrix((values, (rows, columns)), shape=(len(places), len(places)))
    filled = picture.copy()
    filled[:, hidden] = spsolve(system, right).reshape(-1, 3).T
    return torch.from_numpy(filled).float()


def picture(height: int, width: int) -> Tensor:
    """Smooth shapes and fine texture, about the range of a normalised photograph."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.randn(1, 3, 5, 5, generator=generator)
    smooth = F.interpolate(coarse, size=(height, width), mode="bicubic")[0]
    return smooth + 0.3 * torch.randn(3, height, width, generator=generator)


def masks(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    scattered = [
        torch.rand(height, width, generator=generator) < share for share in (0.1, 0.5, 0.9, 0.99)
    ]
    block = torch.zeros(height, width, dtype=torch.bool)
    block[height // 8 : -height // 8, width // 4 :] = True
    one_left = torch.ones(height, width, dtype=torch.bool)
    one_left[height // 2, width // 3] = False
    top_left = torch.ones(height, width, dtype=torch.bool)
    top_left[0, : width // 2] = False
    blobs = F.interpolate(
        torch.rand(1, 1, 6, 6, generator=generator), size=(height, width), mode="bilinear"
    )[0, 0]
    return torch.stack(
        [*scattered, block, one_left, top_left, blobs > 0.5, blobs > 0.3, blobs < 0.4]
    )


@pytest.mark.parametrize(("height", "width"), [(64, 64), (45, 70), (33, 17)])
def test_agrees_with_elimination(height: int, width: int) -> None:
    pixels, erased = picture(height, width), masks(height, width)
    filled = impute(pixels, erased)
    for copy, mask in zip(filled, erased, strict=True):
        torch.testing.assert_close(copy, solved_by_elimination(pixels, mask), rtol=0, atol=1e-3)


def test_a_hole_of_one_pixel_is_the_weighted_mean() -> None:
    pixels = torch.arange(9.0).reshape(1, 3, 3).expand(3, 3, 3) ** 2
    erased = torch.zeros(2, 3, 3, dtype=torch.bool)
    erased[0, 1, 1] = erased[1, 0, 0] = True
    filled = impute(pixels, erased)
    # Squares: 0 1 4 / 9 . 25 / 36 49 64; and at the corner 1 and 9 twice as heavy as 16.
    assert filled[0, :, 1, 1].tolist() == pytest.approx([(84 * 2 + 104) / 12] * 3, abs=1e-5)
    assert filled[1, :, 0, 0].tolist() == pytest.approx([(2 * 1 + 2 * 9 + 16) / 5] * 3, abs=1e-5)


def test_what_is_left_stays_and_what_is_filled_lies_between() -> None:
    pixels, erased = picture(40, 40), masks(40, 40)
    filled = impute(pixels, erased)
    assert torch.where(erased[:, None], 0.0, filled).equal(
        torch.where(erased[:, None], 0.0, pixels)
    )
    for copy, mask in zip(filled, erased, strict=True):
        assert copy.amax() <= pixels[:, ~mask].amax() + 1e-3
        assert copy.amin() >= pixels[:, ~mask].amin() - 1e-3


def test_a_picture_of_one_colour_stays_whatever_is_erased() -> None:
    pixels = torch.tensor([-2.0, 0.5, 2.0])[:, None, None].expand(3, 50, 50)
    filled = impute(pixels, masks(50, 50))
    torch.testing.assert_close(filled, pixels.expand_as(filled), rtol=0, atol=1e-3)


def test_nothing_erased_and_everything_erased() -> None:
    pixels = picture(20, 30)
    none, everything = impute(pixels, torch.tensor([False, True])[:, None, None].expand(2, 20, 30))
    assert none.equal(pixels)
    assert everything.equal(torch.zeros_like(pixels))


def test_a_copy_does_not_depend_on_those_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, erased = picture(32, 32), masks(32, 32)
    together = impute(pixels, erased)
    alone = torch.cat([impute(pixels, erased[index : index + 1]) for index in range(len(erased))])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    monkeypatch.setattr(imputation, "_CPU_NUMBERS", 4 * pixels.numel())
    torch.testing.assert_close(impute(pixels, erased), alone, rtol=0, atol=1e-5)
