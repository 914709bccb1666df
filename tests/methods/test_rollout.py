"""Attention rollout in every profile and fusion, with and without its smallest entries."""

import pytest
import torch

from pairlens_server.errors import InvalidParameterError
from pairlens_server.methods.attention import RawAttention
from pairlens_server.methods.parameters import Profile
from pairlens_server.methods.rollout import (
    Rollout,
    RolloutRow,
    discard_smallest,
    mixing,
    rollout_matrix,
    rollout_row,
)
from pairlens_server.recording.attention import HeadFusion
from pairlens_server.recording.facts import Refusals
from pairlens_server.recording.primitives import FusedAttention, ReadoutAttention
from tests.oracles import explicit_run
from tests.oracles import rollout as slow_rollout
from tests.support import explained, facts, pixels, zoo_model, zoo_recorder

# methods.md A2
FIRST = torch.tensor([[[1.0, 0], [1, 0]]])
SECOND = torch.tensor([[[0.0, 1], [0, 1]]])
# methods.md B4
SMALL = torch.tensor([[[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8]]])
ROLLED = [
    *("vit", "vit-avg", "vit-registers", "deit-distilled", "eva02", "dinov3", "dinov3-token"),
    *("pit", "pit-distilled", "convit"),
]


def random_attentions(blocks: int, tokens: int, batch: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.softmax(3 * torch.randn(batch, tokens, tokens, generator=generator), dim=-1)
        for _ in range(blocks)
    ]


def slow_matrix(attentions: list[torch.Tensor], *, first_block_left: bool) -> torch.Tensor:
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
    slow = slow_matrix(attentions, first_block_left=first_block_left)
    torch.testing.assert_close(matrix.double(), slow, atol=1e-6, rtol=0)
    torch.testing.assert_close(matrix.sum(-1), torch.ones(2, 5))


@pytest.mark.parametrize("first_block_left", [True, False])
@pytest.mark.parametrize("readout", [(0,), (0, 1), (1, 2, 3, 4)])
def test_vector_chain_is_the_mean_of_the_matrix_rows(first_block_left, readout):
    attentions = random_attentions(3, 5)
    row = rollout_row(attentions, readout, first_block_left=first_block_left)
    matrix = rollout_matrix(attentions, first_block_left=first_block_left)
    torch.testing.assert_close(row, matrix[:, list(readout)].mean(dim=1))


@pytest.mark.parametrize("fusion", [HeadFusion.MAX, HeadFusion.MIN])
def test_the_vector_chain_does_not_rely_on_rows_that_sum_to_one(fusion):
    heads = torch.softmax(torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(1)), -1)
    fused = heads.amax(1) if fusion is HeadFusion.MAX else heads.amin(1)
    row = rollout_row([fused, fused], (0, 2))
    torch.testing.assert_close(row, rollout_matrix([fused, fused])[:, [0, 2]].mean(1))
    torch.testing.assert_close(row.sum(-1), torch.ones(2))


def test_the_smallest_entries_go_and_the_first_stays():
    # methods.md B4: floor(9 · .5) = 4 of the smallest: .1, .1, .1 and .2.
    kept = discard_smallest(SMALL, 0.5)
    assert torch.equal(kept, SMALL * (SMALL > 0.25))
    attention = torch.tensor([[[0.0, 1.0], [0.5, 0.5]]])
    assert torch.equal(discard_smallest(attention, 0.25), attention)
    first_is_least = torch.tensor([[[0.1, 0.9], [0.5, 0.5]]])
    assert discard_smallest(first_is_least, 0.5).tolist() == [
        [[pytest.approx(0.1), pytest.approx(0.9)], [0.0, 0.5]]
    ]


def test_rows_are_divided_by_their_own_sums_after_discarding():
    # methods.md B4: vit-explain divides columns and gives (.8421, .1667, 0) here.
    row = rollout_row([discard_smallest(SMALL, 0.5)], (0,))
    torch.testing.assert_close(row / row.max(), torch.tensor([[1.0, 0.1875, 0.0]]))
    torch.testing.assert_close(row, torch.tensor([[0.8421, 0.1579, 0]]), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("ratio", "tokens", "gone"), [(0.5, 3, 4), (0.9, 10, 90), (0.7, 10, 70), (0.05, 4, 0)]
)
def test_how_many_entries_go(ratio, tokens, gone):
    # A ratio arrives as a float32, and 0.9 is a little less than nine tenths there.
    ratio = float(torch.tensor(ratio))
    attention = 1 + torch.randperm(tokens**2).float().view(1, tokens, tokens)
    attention[0, 0, 0] = 1000
    assert int((discard_smallest(attention, ratio) == 0).sum()) == gone


def test_every_picture_of_a_batch_loses_its_own_entries():
    attentions = random_attentions(1, 4, batch=3)[0]
    for picture in range(3):
        alone = discard_smallest(attentions[picture : picture + 1], 0.6)
        assert torch.equal(discard_smallest(attentions, 0.6)[picture], alone[0])


def test_mixing_of_uneven_rows():
    mixed = mixing(torch.tensor([[0.5, 0.0], [3.0, 0.0]]))
    torch.testing.assert_close(mixed, torch.tensor([[1.0, 0.0], [0.75, 0.25]]))


@pytest.mark.parametrize("profile", list(Profile))
@pytest.mark.parametrize("block", [0, 2])
def test_rollout_over_one_block_is_raw_attention(profile, block):
    # methods.md B3: Rollout_a-a equals Raw_a (halved, since rows of A + I sum to 2).
    model = facts(2, 2, prefix=1, readout=(0,), blocks=3, heads=2)
    generator = torch.Generator().manual_seed(1)
    heads = torch.softmax(torch.randn(1, 2, 5, 5, generator=generator), dim=-1)
    raw = RawAttention(block=block).resolve(model)
    raw_map = raw.explain({ReadoutAttention(block): heads[0, :, 0]}, model, None).heatmap
    rollout = Rollout(start_block=block, end_block=block, profile=profile).resolve(model)
    (needed,) = rollout.needs(model, None)
    assert isinstance(needed, RolloutRow)
    row = needed.derive({FusedAttention(block): heads.mean(dim=1)}, model)
    rollout_map = rollout.explain({needed: row[0]}, model, None).heatmap
    torch.testing.assert_close(rollout_map, raw_map / 2)


def test_profiles_choose_the_order():
    model = facts(1, 2, readout=(0,), blocks=2)
    recorded = {FusedAttention(0): FIRST, FusedAttention(1): SECOND}
    rows = {}
    for profile in Profile:
        (needed,) = Rollout(profile=profile).resolve(model).needs(model, None)
        rows[profile] = needed.derive(recorded, model)
    torch.testing.assert_close(rows[Profile.STRICT], torch.tensor([[0.75, 0.25]]))
    torch.testing.assert_close(rows[Profile.REFERENCE], torch.tensor([[0.5, 0.5]]))
    torch.testing.assert_close(rows[Profile.PAPER], rows[Profile.REFERENCE])


@pytest.mark.parametrize("name", ROLLED)
def test_maps_of_real_models_agree_with_the_slow_definition(name):
    model, recorder = zoo_model(name), zoo_recorder(name)
    images, layout = pixels(model, 2), model.layout
    attentions = [a.detach() for a in explicit_run(model, images).attentions]
    for method, settings in (
        (Rollout(), {}),
        (Rollout(profile=Profile.REFERENCE), {"first_block_left": True}),
        (Rollout(fusion=HeadFusion.MAX, discard_ratio=0.5), {"fusion": "max"}),
        (Rollout(fusion=HeadFusion.MIN), {"fusion": "min"}),
    ):
        if method.discard_ratio:
            settings = {**settings, "discard_ratio": method.discard_ratio}
        rows = slow_rollout(attentions, layout.readout, **settings)
        found = explained(recorder, images, method)
        for findings, row in zip(found, rows, strict=True):
            expected = row[layout.prefix :].reshape(layout.rows, layout.columns)
            torch.testing.assert_close(findings.heatmap.double(), expected, atol=1e-5, rtol=0)


def test_a_range_of_blocks_leaves_the_others_out():
    model, recorder = zoo_model("vit"), zoo_recorder("vit")
    images = pixels(model)
    attentions = [a.detach() for a in explicit_run(model, images).attentions]
    found = explained(recorder, images, Rollout(start_block=1, end_block=2))
    expected = slow_rollout(attentions[1:], (0,))[:, 1:].reshape(2, 4, 6)
    maps = torch.stack([f.heatmap for f in found])
    torch.testing.assert_close(maps.double(), expected, atol=1e-5, rtol=0)


def test_the_class_token_of_a_convit_changes_nothing_before_it_joins():
    # Its attention is zero there, so that A + I leaves it where it is.
    model = facts(1, 2, prefix=1, readout=(0,), blocks=2)
    early = torch.tensor([[[0.0, 0, 0], [0, 0.3, 0.7], [0, 0.6, 0.4]]])
    late = torch.tensor([[[0.2, 0.5, 0.3], [0.1, 0.6, 0.3], [0.3, 0.3, 0.4]]])
    (needed,) = Rollout().resolve(model).needs(model, None)
    row = needed.derive({FusedAttention(0): early, FusedAttention(1): late}, model)
    torch.testing.assert_close(
        row, torch.tensor([[0.6, 0.25 * 0.65 + 0.15 * 0.3, 0.25 * 0.35 + 0.15 * 0.7]])
    )


def test_defaults_cover_all_blocks():
    resolved = Rollout().resolve(facts(1, 2, blocks=6))
    assert (resolved.start_block, resolved.end_block) == (0, 5)
    assert (resolved.fusion, resolved.discard_ratio) == (HeadFusion.MEAN, 0.0)


@pytest.mark.parametrize(
    ("method", "field"),
    [
        (Rollout(start_block=6), "method.rollout.start_block"),
        (Rollout(end_block=6), "method.rollout.end_block"),
        (Rollout(end_block=-1), "method.rollout.end_block"),
        (Rollout(start_block=3, end_block=2), "method.rollout.start_block"),
        (Rollout(discard_ratio=1.0), "method.rollout.discard_ratio"),
        (Rollout(discard_ratio=-0.1), "method.rollout.discard_ratio"),
        (Rollout(discard_ratio=float("inf")), "method.rollout.discard_ratio"),
    ],
)
def test_bad_ranges_are_refused(method, field):
    with pytest.raises(InvalidParameterError) as caught:
        method.resolve(facts(1, 2, blocks=6))
    assert caught.value.field == field


def test_a_model_without_all_attention_is_refused_with_its_reason():
    assert (
        Rollout.refusal(facts(1, 2, refusals=Refusals(matrix="over channels"))) == "over channels"
    )
    assert Rollout.refusal(zoo_recorder("xcit").facts)
    assert Rollout.refusal(zoo_recorder("vit").facts) == ""
