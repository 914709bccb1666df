import pytest
import torch

from pairlens_server.engine.staging import Staged, Stager
from tests.support import pixels, vit

CPU = torch.device("cpu")


def test_pictures_are_stacked_once_and_handed_over():
    images = [torch.full((3, 2, 2), float(n)) for n in range(4)]
    staged = Stager().stage(images, CPU)
    taken = staged.take()
    assert taken.shape == (4, 3, 2, 2)
    assert taken[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert staged.pixels is None
    assert staged.take() is None


def test_only_those_that_are_still_wanted_are_handed_over():
    staged = Staged(torch.arange(4.0)[:, None], rows=(0, 3))
    assert staged.take().tolist() == [[0], [3]]


def test_pictures_of_two_sizes_cannot_be_stacked():
    with pytest.raises(RuntimeError):
        Stager().stage([torch.zeros(3, 2, 2), torch.zeros(3, 2, 3)], CPU)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_copies_to_a_gpu_are_whole_when_they_are_taken():
    device, images = torch.device("cuda", 0), list(pixels(vit(), 16))
    stager = Stager()
    for _ in range(20):
        staged = stager.stage(images, device)
        assert staged.pixels.device.type == "cuda"
        torch.testing.assert_close(staged.take().cpu(), torch.stack(images), atol=0, rtol=0)
