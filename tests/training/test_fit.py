"""The fitted projection finds the directions that tell classes apart."""

import torch
from fit import discriminant
from metrics import retrieval
from nets import EMBEDDING


def test_discriminant_prefers_what_differs_between_classes():
    # 140 classes differ in the first 130 of 160 directions; the other 30 are loud noise.
    gen = torch.Generator().manual_seed(0)
    labels = torch.arange(140).repeat_interleave(6)
    centres = torch.zeros(140, 160)
    centres[:, :130] = torch.randn((140, 130), generator=gen)
    noise = torch.randn((len(labels), 160), generator=gen)
    noise[:, 130:] *= 20
    features = centres[labels] + noise
    weight, bias = discriminant(features, labels, shrink=0.01)
    assert weight.shape == (EMBEDDING, 160)
    torch.testing.assert_close(
        (features @ weight.T + bias).mean(0), torch.zeros(EMBEDDING), atol=1e-3, rtol=0
    )
    assert weight[:, 130:].norm() < 0.1 * weight[:, :130].norm()
    fitted, raw = features @ weight.T, features
    assert retrieval(fitted, labels)[0] > 0.9 > 0.5 > retrieval(raw, labels)[0]
