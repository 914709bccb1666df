import pytest
import torch
from torch.testing import assert_close

from pairlens_server.recording.relevance import rules
from tests.recording.relevance import oracle

DTYPE = torch.float64


def tensor(*values):
    return torch.tensor(values, dtype=DTYPE)


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=DTYPE, generator=torch.Generator().manual_seed(seed))


def linear(inputs, weight, relevance, bias=None):
    """The rule for one token; `outputs` as the forward pass would give them."""
    outputs = torch.nn.functional.linear(inputs, weight, bias)
    return rules.through_linear(inputs, outputs, weight, bias, relevance)


@pytest.mark.parametrize(
    ("numerator", "denominator", "expected"),
    [
        (1, 2, 1 / (2 + 1e-9)),
        (1, -2, 1 / (-2 + 1e-9)),
        (3, 0, 0),
        (2, -1e-9, 2e9),
        (1, 1e-9, 5e8),
        (0, 0, 0),
    ],
)
def test_safe_division(numerator, denominator, expected):
    found = rules.safe_divide(tensor(numerator), tensor(denominator))
    assert_close(found, tensor(expected), rtol=1e-15, atol=0)


@pytest.mark.parametrize(
    ("inputs", "weight", "relevance", "expected"),
    [
        ((1, -2), ((2, -1),), (1,), (0.5, 0.5)),
        ((1, 2), ((1, 2), (3, -1)), (1, 1), (1.2, 0.8)),
        ((1, -2), ((-1, 2),), (1,), (0, 0)),
    ],
)
@pytest.mark.parametrize("padding", [0, 100])
def test_worked_examples_of_the_linear_rule(inputs, weight, relevance, expected, padding):
    wide = torch.nn.functional.pad
    found = linear(
        wide(tensor(*inputs), (0, padding)), wide(tensor(*weight), (0, padding)), tensor(*relevance)
    )
    assert_close(found, wide(tensor(*expected), (0, padding)), rtol=0, atol=1e-8)


@pytest.mark.parametrize("width", [20, 64, 65, 300])
@pytest.mark.parametrize("biased", [True, False])
def test_the_linear_rule_is_the_printed_one_at_every_width(width, biased):
    inputs, weight, relevance = random(4, width), random(7, width, seed=1), random(4, 7, seed=2)
    bias = random(7, seed=3) if biased else None
    found = linear(inputs, weight, relevance, bias)
    assert_close(found, oracle.linear(inputs, weight, relevance), rtol=0, atol=1e-13)
    assert_close(found.sum(1), relevance.sum(1), rtol=0, atol=1e-6)
    single = linear(
        inputs.float(), weight.float(), relevance.float(), None if bias is None else bias.float()
    )
    assert_close(single.double(), found, rtol=0, atol=2e-5)


def test_the_bias_takes_no_part():
    inputs, weight, relevance = random(4, 100), random(7, 100, seed=1), random(4, 7, seed=2)
    with_bias = linear(inputs, weight, relevance, 5 * random(7, seed=3))
    assert_close(with_bias, linear(inputs, weight, relevance), rtol=0, atol=1e-13)


def test_one_output_with_relevance_is_the_linear_rule():
    inputs, weight = random(3, 100), random(7, 100, seed=1)
    seed = torch.zeros(3, 7, dtype=DTYPE)
    seed[[0, 1, 2], [4, 0, 6]] = 0.5
    found = rules.through_logit(inputs, weight[[4, 0, 6]], 0.5)
    assert_close(found, oracle.linear(inputs, weight, seed), rtol=0, atol=1e-14)


def test_products_halve_and_may_be_negative():
    # O = (1·2 + 2·(−0.5)) = 1: X ⊙ (S Yᵀ) = (2, −1), halved; the same at Y.
    left, right = tensor((1, 2)), tensor((2,), (-0.5,))
    at_left, at_right = rules.through_matmul(left, right, left @ right, tensor((1,)))
    assert_close(at_left, tensor((1, -0.5)), rtol=0, atol=1e-8)
    assert_close(at_right, tensor((1,), (-0.5,)), rtol=0, atol=1e-8)


def test_products_are_the_printed_rule_and_conserve():
    left, right, relevance = random(2, 3, 5, 4), random(2, 3, 4, 6, seed=1), random(2, 3, 5, 6)
    product = left @ right
    at_left, at_right = rules.through_matmul(left, right, product, relevance)
    x, y = oracle.matmul(left[1, 2], right[1, 2], relevance[1, 2])
    assert_close(at_left[1, 2], x, rtol=0, atol=1e-12)
    assert_close(at_right[1, 2], y, rtol=0, atol=1e-12)
    total = at_left.sum() + at_right.sum()
    assert_close(total, relevance.sum(), rtol=0, atol=1e-6)


def test_worked_example_of_the_residual_rule():
    first, second, relevance = tensor(((1, 3),)), tensor(((3, 1),)), tensor(((4, -2),))
    found = rules.through_sum(first, second, first + second, relevance)
    # a = (1, −1.5), b = (3, −.5): sums −.5 and 2.5 take 1/6 and 5/6 of the whole 2.
    assert_close(found[0], tensor(((-2 / 3, 1),)), rtol=0, atol=1e-7)
    assert_close(found[1], tensor(((2, -1 / 3),)), rtol=0, atol=1e-7)


def test_a_branch_without_net_relevance_is_cut():
    first, second, relevance = tensor(((1, -1),)), tensor(((1, 3),)), tensor(((2, 2),))
    found = rules.through_sum(first, second, first + second, relevance)
    assert_close(found[0], tensor(((0, 0),)), rtol=0, atol=1e-8)
    assert_close(found[1].sum(), tensor(4)[0], rtol=0, atol=1e-7)


def test_residual_sums_are_of_each_picture():
    first, second, relevance = random(3, 4, 5), random(3, 4, 5, seed=1), random(3, 4, 5, seed=2)
    together = rules.through_sum(first, second, first + second, relevance)
    for picture in range(3):
        alone = oracle.add(first[picture], second[picture], relevance[picture])
        assert_close(together[0][picture], alone[0], rtol=1e-12, atol=0)
        assert_close(together[1][picture], alone[1], rtol=1e-12, atol=0)


def test_clones_add_up_but_where_the_value_is_zero():
    found = rules.through_clone(tensor(2, 0, -1), tensor(1, 5, 3))
    assert_close(found, tensor(1, 0, 3), rtol=0, atol=1e-8)


def test_pooling_gives_each_token_its_share_of_the_sum():
    tokens = tensor(((1, 2), (3, -1)))
    found = rules.through_pooling(tokens, tensor((8, 3)))
    assert_close(found, tensor(((2, 6), (6, -3))), rtol=0, atol=1e-7)


def test_one_pooled_token_takes_all():
    tokens = tensor(((4, -2, 0),))
    found = rules.through_pooling(tokens, tensor((1, 2, 3)))
    assert_close(found, tensor(((1, 2, 0),)), rtol=0, atol=1e-8)
