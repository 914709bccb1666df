import pytest
import torch

from pairlens_server.errors import InvalidParameterError
from pairlens_server.methods.attention import RawAttention
from pairlens_server.methods.base import Profile
from pairlens_server.methods.rollout import Rollout, RolloutRow, rollout_matrix, rollout_row
from pairlens_server.recording.activations import MeanAttention, ReadoutAttention
from tests.support import facts

# methods.md A2
FIRST = torch.tensor([[[1.0, 0], [1, 0]]])
SECOND = torch.tensor([[[0.0, 1], [0, 1]]])


def random_attentions(blocks: int, tokens: int, batch: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.softmax(3 * torch.randn(batch, tokens, tokens, generator=generator), dim=-1)
        for _ in range(blocks)
    ]


def slow_rollout(attentions: list[torch.Tensor], *, first_block_left: bool) -> torch.Tensor:
    """Abnar and Zuidema written out in float64, one entry at a time."""
    product = None
    for attention in attentions:
        batch, tokens, _ = attention.shape
        mixed = torch.zeros(batch, tokens, tokens, dtype=torch.float64)
        for b in range(batch):
            for i in range(tokens):
                row = [float(attention[b, i, j]) + (i == j) for j in range(tokens)]
                mixed[b, i] = torch.tensor([v / sum(row) for v in row])
        if product is None:
            product = mixed
        else:
            product = product @ mixed if first_block_left else mixed @ product
    return product


@pytest.mark.parametrize(
    ("first_block_left", "expected"), [(True, [0.5, 0.5]), (False, [0.75, 0.25])]
)
def test_hand_checked_rows_in_both_orders(first_block_left, expected):
    # methods.md B3: row 0 is (.5,.5) ascending and (.75,.25) descending.
    row = rollout_row([FIRST, SECOND], (0,), first_block_left=first_block_left)
    torch.testing.assert_close(row, torch.tensor([expected]))


@pytest.mark.parametrize("first_block_left", [True, False])
def test_matrix_agrees_with_the_slow_definition(first_block_left):
    attentions = random_attentions(4, 5)
    matrix = rollout_matrix(attentions, first_block_left=first_block_left)
    slow = slow_rollout(attentions, first_block_left=first_block_left)
    torch.testing.assert_close(matrix.double(), slow, atol=1e-6, rtol=0)
    torch.testing.assert_close(matrix.sum(-1), torch.ones(2, 5))


@pytest.mark.parametrize("first_block_left", [True, False])
@pytest.mark.parametrize("readout", [(0,), (0, 1), (1, 2, 3, 4)])
def test_vector_chain_is_the_mean_of_the_matrix_rows(first_block_left, readout):
    attentions = random_attentions(3, 5)
    row = rollout_row(attentions, readout, first_block_left=first_block_left)
    matrix = rollout_matrix(attentions, first_block_left=first_block_left)
    torch.testing.assert_close(row, matrix[:, list(readout)].mean(dim=1))


@pytest.mark.parametrize("profile", list(Profile))
@pytest.mark.parametrize("block", [0, 2])
def test_rollout_over_one_block_is_raw_attention(profile, block):
    # methods.md B3: Rollout_a-a equals Raw_a (halved, since rows of A + I sum to 2).
    model = facts(2, 2, prefix=1, readout=(0,), blocks=3, heads=2)
    generator = torch.Generator().manual_seed(1)
    heads = torch.softmax(torch.randn(1, 2, 5, 5, generator=generator), dim=-1)
    raw = RawAttention(block=block).resolve(model)
    raw_map = raw.heatmap({ReadoutAttention(block): heads[:, :, 0]}, model, None)
    rollout = Rollout(start_block=block, end_block=block, profile=profile).resolve(model)
    (needed,) = rollout.needs(None)
    assert isinstance(needed, RolloutRow)
    row = needed.derive({MeanAttention(block): heads.mean(dim=1)}, model)
    rollout_map = rollout.heatmap({needed: row}, model, None)
    torch.testing.assert_close(rollout_map, raw_map / 2)


def test_profiles_choose_the_order():
    model = facts(1, 2, readout=(0,), blocks=2)
    rows = {}
    for profile in Profile:
        (needed,) = Rollout(profile=profile).resolve(model).needs(None)
        rows[profile] = needed.derive({MeanAttention(0): FIRST, MeanAttention(1): SECOND}, model)
    torch.testing.assert_close(rows[Profile.STRICT], torch.tensor([[0.75, 0.25]]))
    torch.testing.assert_close(rows[Profile.REFERENCE], torch.tensor([[0.5, 0.5]]))
    torch.testing.assert_close(rows[Profile.PAPER], rows[Profile.REFERENCE])


def test_defaults_cover_all_blocks():
    resolved = Rollout().resolve(facts(1, 2, blocks=6))
    assert (resolved.start_block, resolved.end_block) == (0, 5)


@pytest.mark.parametrize(
    ("method", "field"),
    [
        (Rollout(start_block=6), "method.rollout.start_block"),
        (Rollout(end_block=6), "method.rollout.end_block"),
        (Rollout(start_block=3, end_block=2), "method.rollout.start_block"),
    ],
)
def test_bad_ranges_are_refused(method, field):
    with pytest.raises(InvalidParameterError) as caught:
        method.resolve(facts(1, 2, blocks=6))
    assert caught.value.field == field
