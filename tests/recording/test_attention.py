"""Readings of one attention layer: every number against its definition."""

import pytest
import torch
from torch.overrides import TorchFunctionMode

from pairlens_server.recording.attention import DotProductReading, GatedReading, HeadFusion

# methods.md B7
ATTENTION = torch.tensor([[0.6, 0.4], [0.5, 0.5]])
SLOPES = torch.tensor([[0.2, -0.1], [0.3, 0.5]])
EVERYONE = (0, 1, 2)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def reading(batch: int = 3, heads: int = 2, tokens: int = 5) -> DotProductReading:
    parts = [random(batch, heads, tokens, 4, seed=seed) for seed in range(3)]
    return DotProductReading(*parts, scale=0.5)


def slow_weights(of: DotProductReading) -> torch.Tensor:
    scores = 0.5 * torch.einsum("bhqd,bhkd->bhqk", of.queries.double(), of.keys.double())
    shares = scores.exp()
    return shares / shares.sum(-1, keepdim=True)


def test_weights_scores_and_logarithms_agree_with_the_definition():
    layer = reading()
    weights = slow_weights(layer)
    for head in range(2):
        rows = layer.weights(head, None, EVERYONE)
        torch.testing.assert_close(rows.double(), weights[:, head], atol=1e-6, rtol=0)
        some = layer.scores(head, (0, 3), (1,))
        expected = 0.5 * layer.queries[1, head, [0, 3]] @ layer.keys[1, head].mT
        torch.testing.assert_close(some[0], expected)
        logs = layer.log_weights(head, (2,), EVERYONE)
        torch.testing.assert_close(logs[:, 0].double(), weights[:, head, 2].log())


def test_the_readout_is_the_mean_of_its_tokens_rows():
    layer = reading()
    weights = slow_weights(layer).float()
    found = layer.readout_weights((1, 4), (0, 2))
    torch.testing.assert_close(found, weights[[0, 2]][:, :, [1, 4]].mean(2))
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 2))
    logs = layer.readout_log_weights((1, 4), (0, 2))
    torch.testing.assert_close(logs, weights[[0, 2]][:, :, [1, 4]].log().mean(2))


@pytest.mark.parametrize("fusion", list(HeadFusion))
def test_heads_are_fused_entry_by_entry(fusion):
    layer = reading()
    heads = slow_weights(layer).float()
    expected = {"mean": heads.mean(1), "max": heads.amax(1), "min": heads.amin(1)}[fusion.value]
    torch.testing.assert_close(layer.fused(fusion, EVERYONE), expected)
    torch.testing.assert_close(layer.fused(fusion, (1,)), expected[[1]])
    torch.testing.assert_close(layer.matrix((0, 2)), heads[[0, 2]])


@pytest.mark.parametrize("fusion", list(HeadFusion))
@pytest.mark.parametrize("queries", [1, 5])
def test_attending_in_the_open_gives_matrix_and_output_at_once(fusion, queries):
    parts = [random(3, 2, 5, 4, seed=seed) for seed in range(3)]
    parts[0] = parts[0][:, :, :queries]  # XCiT's class attention has one query
    layer = DotProductReading(*parts, scale=0.5, is_plain=True)
    assert layer.can_stand_in
    matrix, output = layer.attend(fusion)
    torch.testing.assert_close(matrix, layer.fused(fusion, EVERYONE))
    expected = slow_weights(layer) @ parts[2].double()
    torch.testing.assert_close(output.double(), expected, atol=1e-6, rtol=0)
    # As the kernel lays it out, so that the projection's reshape copies nothing.
    assert output.transpose(1, 2).is_contiguous()


class Calls(TorchFunctionMode):
    """Counts the functions that it sees."""

    count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("fusion", list(HeadFusion))
def test_no_mode_sees_what_is_done_for_each_head(fusion):
    seen = []
    for heads in (1, 8):
        parts = [random(3, heads, 5, 4, seed=seed) for seed in range(3)]
        layer = DotProductReading(*parts, scale=0.5, is_plain=True)
        with Calls() as calls:
            layer.attend(fusion)
        seen.append(calls.count)
    assert seen[0] == seen[1] > 0


def test_a_layer_with_more_to_it_is_left_to_the_kernel():
    parts = [random(3, 2, 5, 4, seed=seed) for seed in range(3)]
    assert not DotProductReading(*parts, scale=0.5).can_stand_in
    halves = [part.bfloat16() for part in parts]
    assert not DotProductReading(*halves, scale=0.5, is_plain=True).can_stand_in


def test_logarithm_stays_finite_where_the_softmax_underflows():
    # methods.md B: log of an attention that underflowed to 0 would be -inf.
    queries = torch.tensor([[[[1000.0], [1000.0]]]])
    keys = torch.tensor([[[[0.0], [1.0]]]])
    layer = DotProductReading(queries, keys, keys, scale=1.0)
    assert layer.weights(0, (0,), (0,))[0, 0, 0] == 0
    torch.testing.assert_close(
        layer.readout_log_weights((0,), (0,)), torch.tensor([[[-1000.0, 0.0]]])
    )


def test_keys_are_averaged_over_heads_before_their_length_is_taken():
    # methods.md B: keys (3, 4) and (-3, -4) in two heads give 0, not 5.
    keys = torch.tensor([[[[3.0, 4]], [[-3, -4]]]])
    layer = DotProductReading(keys, keys, keys, scale=1.0)
    assert layer.key_norms((0,)).tolist() == [[[0.0], [5.0], [5.0]]]


def test_gradient_weighted_attention_of_the_hand_checked_example():
    # methods.md B7: C = max(0, ∇A ⊙ A); the values are the identity, so that ∇A = ∇O.
    values = torch.eye(2).expand(1, 1, 2, 2)
    scores = ATTENTION.log()[None, None]
    layer = DotProductReading(scores, values, values, scale=1.0)
    torch.testing.assert_close(layer.weights(0, None, (0,))[0], ATTENTION)
    found = layer.gradient_weighted(SLOPES[None, None].clone(), (0,))
    torch.testing.assert_close(found[0], torch.tensor([[0.12, 0.0], [0.15, 0.25]]))


@pytest.mark.parametrize("pictures", [(0, 1, 2), (1,), (0, 2)])
def test_gradients_at_the_output_are_gradients_at_the_attention(pictures):
    # O = A·V, so ∇A = ∇O·Vᵀ: against autograd through the product, in float64.
    layer = reading()
    attention = slow_weights(layer).requires_grad_(True)
    upstream = random(3, 2, 5, 4, seed=7).double()
    ((attention @ layer.values.double()) * upstream).sum().backward()
    chosen = list(pictures)
    slopes = attention.grad[chosen]
    given = upstream[chosen].float()
    expected = (slopes * attention.detach()[chosen]).clamp(min=0).mean(1)
    found = layer.gradient_weighted(given.clone(), pictures)
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=0)
    rows = layer.positive_gradient_rows(given.clone(), pictures)
    torch.testing.assert_close(rows.double(), slopes.clamp(min=0).mean((1, 2)), atol=1e-6, rtol=0)


def test_reading_leaves_what_it_was_given_alone():
    layer = reading()
    slopes = random(3, 2, 5, 4, seed=9)
    before = [t.clone() for t in (layer.queries, layer.keys, layer.values, slopes)]
    layer.gradient_weighted(slopes, EVERYONE)
    layer.positive_gradient_rows(slopes, EVERYONE)
    layer.fused(HeadFusion.MEAN, EVERYONE)
    for old, new in zip(before, (layer.queries, layer.keys, layer.values, slopes), strict=True):
        assert torch.equal(old, new)


def test_gated_attention_is_read_back_from_its_logarithm():
    weights = torch.softmax(3 * random(2, 2, 5, 5), dim=-1)
    layer = GatedReading(weights, random(2, 2, 5, 4, seed=1), random(2, 2, 5, 4, seed=2))
    torch.testing.assert_close(layer.matrix((0, 1)), weights)
    torch.testing.assert_close(layer.readout_weights((3,), (1,)), weights[[1], :, 3])
    torch.testing.assert_close(layer.readout_log_weights((3,), (1,)), weights[[1], :, 3].log())


def test_gated_attention_of_zero_has_a_finite_logarithm():
    weights = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]])
    layer = GatedReading(weights, torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 2, 3))
    assert torch.isfinite(layer.readout_scores((0,), (0,))).all()
    torch.testing.assert_close(layer.matrix((0,)), weights)
