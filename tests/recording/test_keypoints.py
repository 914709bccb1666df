import cv2
import numpy as np
import pytest
import torch

from pairlens_server.models.loaded import TokenLayout
from pairlens_server.recording.keypoints import keypoint_counts

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalised(rgb: np.ndarray) -> torch.Tensor:
    levels = torch.from_numpy(rgb).permute(2, 0, 1).float().div(255)
    return (levels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def blobs(height: int, width: int, centres: list[tuple[int, int]]) -> np.ndarray:
    """Bright Gaussian spots (y, x) of σ = 3 on grey: uint8 [height, width, 3]."""
    grey = np.full((height, width), 128.0)
    ys, xs = np.mgrid[:height, :width]
    for y, x in centres:
        grey += 100 * np.exp(-((ys - y) ** 2 + (xs - x) ** 2) / (2 * 3**2))
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def texture(height: int, width: int) -> np.ndarray:
    """Coloured smooth noise with many keypoints: uint8 [height, width, 3]."""
    noise = np.random.default_rng(0).normal(size=(height, width, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), 1.5)
    return cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def slow_counts(rgb: np.ndarray, patch: int, dedupe: bool) -> list[int]:
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    rows, columns = grey.shape[0] // patch, grey.shape[1] // patch
    counts, seen = [0] * (rows * columns), set()
    for keypoint in cv2.SIFT.create(0, 3, 0.04, 10, 1.6).detect(grey, None):
        (x, y), place = keypoint.pt, (*keypoint.pt, keypoint.size)
        if int(y) // patch >= rows or int(x) // patch >= columns or (dedupe and place in seen):
            continue
        seen.add(place)
        counts[int(y) // patch * columns + int(x) // patch] += 1
    return counts


def counts_of(rgb: np.ndarray, patch: int, *, dedupe: bool = False) -> torch.Tensor:
    height, width, _ = rgb.shape
    layout = TokenLayout(height // patch, width // patch, 1, (0,), height % patch, width % patch)
    return keypoint_counts(normalised(rgb), MEAN, STD, layout, dedupe=dedupe)


def test_blobs_are_counted_in_their_own_patches():
    # Patches of 16 in 4 rows and 6 columns: (12,20) is cell 1, (40,70) 16, (50,30) 19.
    counts = counts_of(blobs(64, 96, [(12, 20), (40, 70), (50, 30)]), 16, dedupe=True)
    assert counts.dtype == torch.int64
    assert counts.shape == (24,)
    assert counts.nonzero()[:, 0].tolist() == [1, 16, 19]
    assert counts.sum() == 3


def test_a_round_blob_counts_once_for_each_orientation_unless_deduped():
    picture = blobs(64, 64, [(24, 40)])
    (cell,) = counts_of(picture, 32).nonzero()[:, 0].tolist()
    assert cell == 1
    assert counts_of(picture, 32)[cell] > 1
    assert counts_of(picture, 32, dedupe=True)[cell] == 1


@pytest.mark.parametrize("dedupe", [False, True])
@pytest.mark.parametrize(("height", "width", "patch"), [(96, 128, 16), (101, 139, 16), (80, 81, 7)])
def test_counts_agree_with_opencv_on_the_original_levels(height, width, patch, dedupe):
    picture = texture(height, width)
    counts = counts_of(picture, patch, dedupe=dedupe)
    assert counts.tolist() == slow_counts(picture, patch, dedupe)
    assert counts.sum() > 100


def test_keypoints_on_edges_that_no_patch_covers_are_left_out():
    picture = blobs(96, 96, [(30, 30), (80, 30), (30, 80)])
    assert counts_of(picture, 96, dedupe=True).tolist() == [3]
    covered = counts_of(picture, 33, dedupe=True)
    assert covered.tolist() == [1, 0, 0, 0]


def test_a_flat_picture_has_no_keypoints():
    flat = np.full((48, 64, 3), 90, dtype=np.uint8)
    assert counts_of(flat, 16).tolist() == [0] * 12


def test_colour_is_weighed_as_luma():
    # Spots in one channel only: green counts most, blue falls below the contrast threshold.
    spots = blobs(64, 64, [(32, 32)])
    totals = []
    for channel in range(3):
        picture = np.full_like(spots, 128)
        scaled = 128 + 0.6 * (spots[..., channel].astype(float) - 128)
        picture[..., channel] = scaled.astype(np.uint8)
        totals.append(int(counts_of(picture, 64, dedupe=True).sum()))
    assert totals[1] == 1
    assert totals[2] == 0
