import pytest
import torch
from torch import nn

from pairlens_server.recording import parts


def tokens(seed=0, shape=(2, 5, 4)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def projection(size=3):
    torch.manual_seed(1)
    return nn.Linear(4, size)


def test_mean_parts_sum_to_the_mean():
    x = tokens()
    torch.testing.assert_close(parts.mean_parts(x).sum(1), x.mean(1))


def test_max_parts_sum_to_the_maximum_and_share_ties():
    x = torch.tensor([[[3.0, 0], [1, 2], [3, 2]]])
    split = parts.max_parts(x)
    torch.testing.assert_close(split, torch.tensor([[[1.5, 0], [0, 1], [1.5, 1]]]))
    torch.testing.assert_close(parts.max_parts(tokens()).sum(1), tokens().amax(1))


def test_max_parts_of_a_dead_channel_are_zero():
    assert torch.equal(parts.max_parts(torch.zeros(1, 3, 2)), torch.zeros(1, 3, 2))


@pytest.mark.parametrize("affine", [True, False])
def test_norm_after_pooling_splits_exactly(affine):
    # methods.md A1: mean(α) = LN(mean(x)) with σ of the pooled vector.
    norm = nn.LayerNorm(4, eps=1e-6, elementwise_affine=affine)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = tokens()
    split = parts.normed_parts(parts.mean_parts(x), norm)
    constant = parts.embedding_constant(norm, None, 4)
    torch.testing.assert_close((split.sum(1) + constant), norm(x.mean(1)))


def test_norm_and_projection_compose():
    norm = nn.LayerNorm(4)
    nn.init.normal_(norm.bias)
    linear = projection()
    x = tokens()
    split = parts.project(parts.normed_parts(parts.mean_parts(x), norm), linear)
    constant = parts.embedding_constant(norm, linear, 3)
    torch.testing.assert_close((split.sum(1) + constant), linear(norm(x.mean(1))))


def test_constant_is_zero_without_bias():
    assert torch.equal(parts.embedding_constant(None, None, 3), torch.zeros(3))
    assert torch.equal(
        parts.embedding_constant(None, nn.Linear(4, 3, bias=False), 3), torch.zeros(3)
    )
