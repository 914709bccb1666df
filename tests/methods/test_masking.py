import numpy as np
import pytest
import torch

from pairlens_server.methods.masking import (
    MaskSelection,
    attention_mask,
    extreme_mask,
    log_scores,
    patch_count,
    power_scores,
    raw_scores,
)

HEADS = torch.tensor([[[0.04, 0.16], [0.25, 0.09]]])  # methods.md G
ROW = torch.tensor([[0.1, 0.4, 0.2, 0.3]])


def hidden(mask: torch.Tensor) -> list[int]:
    return mask.nonzero()[:, -1].tolist()


def random_scores(batch: int, patches: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, patches, generator=torch.Generator().manual_seed(seed))


def slow_mask(row: list[float], count: int, *, high: bool) -> list[bool]:
    """Hide the largest, or smallest, one after the other; of equal ones the first."""
    mask = [False] * len(row)
    for _ in range(count):
        best = None
        for index, value in enumerate(row):
            if mask[index]:
                continue
            if best is None or (value > row[best] if high else value < row[best]):
                best = index
        mask[best] = True
    return mask


def test_power_is_taken_head_by_head_and_adds_up_over_no_pictures():
    # methods.md G: image 1 of a batch is (.5, .3); the thesis' code gives (.7, .7).
    batch = HEADS.flip(1).repeat(3, 1, 1)
    batch[0] = torch.tensor([[0.04, 0.16], [0.16, 0.64]])
    scores = power_scores(batch, 0.5)
    torch.testing.assert_close(scores[0], torch.tensor([0.3, 0.6]))
    torch.testing.assert_close(scores[1], torch.tensor([0.35, 0.35]))
    torch.testing.assert_close(scores[2], torch.tensor([0.35, 0.35]))


def test_second_picture_of_the_worked_example_does_not_carry_the_first():
    # One head a picture: (.04, .16), then (.25, .09).
    scores = power_scores(HEADS.transpose(0, 1), 0.5)
    torch.testing.assert_close(scores, torch.tensor([[0.2, 0.4], [0.5, 0.3]]))
    logs = log_scores(HEADS.transpose(0, 1).log())
    torch.testing.assert_close(logs.exp(), torch.tensor([[0.04, 0.16], [0.25, 0.09]]))


def test_raw_and_log_are_arithmetic_and_geometric_means():
    torch.testing.assert_close(raw_scores(HEADS), torch.tensor([[0.145, 0.125]]))
    torch.testing.assert_close(log_scores(HEADS.log()).exp(), torch.tensor([[0.1, 0.12]]))


def test_power_one_is_raw():
    torch.testing.assert_close(power_scores(HEADS, 1.0), raw_scores(HEADS))


def test_hand_checked_masks():
    # methods.md G: (.1,.4,.2,.3), r=.5 hides 1 and 3.
    assert hidden(attention_mask(ROW, 0.5, seeds=[0])) == [1, 3]
    assert hidden(attention_mask(ROW, 0.5, seeds=[0], selection=MaskSelection.LOW)) == [0, 2]


@pytest.mark.parametrize("patches", [4, 10, 49, 196, 257, 1369])
def test_count_is_the_integer_part_however_the_ratio_was_stored(patches):
    for percent in range(101):
        expected = percent * patches // 100
        assert patch_count(percent / 100, patches) == expected
        assert patch_count(float(np.float32(percent / 100)), patches) == expected


@pytest.mark.parametrize("selection", list(MaskSelection))
def test_masks_match_the_slow_definition_with_ties(selection):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 4, (6, 23), generator=generator).float()
    counts = [0, 1, 5, 11, 22, 23]
    mask = extreme_mask(scores, counts, selection)
    high = selection is MaskSelection.HIGH
    for row, count, found in zip(scores.tolist(), counts, mask.tolist(), strict=True):
        assert found == slow_mask(row, count, high=high)


def test_equal_scores_are_hidden_from_the_first():
    for selection in MaskSelection:
        mask = extreme_mask(torch.full((1, 400), 0.5), [7], selection)
        assert hidden(mask) == list(range(7))


def test_high_and_low_are_complements_at_complementary_ratios():
    scores = random_scores(3, 40)
    high = attention_mask(scores, 0.3, seeds=[0] * 3)
    low = attention_mask(scores, 0.7, seeds=[0] * 3, selection=MaskSelection.LOW)
    assert torch.equal(high, ~low)


def test_masks_depend_on_the_order_of_scores_alone():
    scores = random_scores(2, 50)
    options = {"seeds": [3, 4], "max_ratio": 0.5, "hint_ratio": 0.6}
    expected = attention_mask(scores, 0.2, **options)
    assert torch.equal(attention_mask(scores.log(), 0.2, **options), expected)
    assert torch.equal(attention_mask(7 * scores + 1, 0.2, **options), expected)


def test_a_range_draws_a_ratio_evenly_for_each_picture():
    # r ~ U(.1, .5) of the thesis: mean .3, standard deviation .4 / sqrt(12).
    scores = random_scores(1, 1000).expand(400, -1)
    shares = attention_mask(scores, 0.1, max_ratio=0.5, seeds=range(400)).double().mean(dim=1)
    assert 0.1 <= shares.min() < 0.12
    assert 0.48 < shares.max() < 0.5
    assert abs(shares.mean() - 0.3) < 0.02
    assert abs(shares.std() - 0.4 / 12**0.5) < 0.01


@pytest.mark.parametrize("hint_ratio", [0.3, 0.5, 1.0])
def test_hints_show_a_share_of_the_top_tenth(hint_ratio):
    scores = random_scores(5, 60)
    full = attention_mask(scores, 0.4, seeds=range(5))
    hinted = attention_mask(scores, 0.4, seeds=range(5), hint_ratio=hint_ratio)
    shown = full & ~hinted
    assert not (hinted & ~full).any()
    top_tenth = extreme_mask(scores, [6] * 5, MaskSelection.HIGH)
    assert not (shown & ~top_tenth).any()
    # floor(.1 · r' · 60): 1 of 1.8, 3 and 6
    assert shown.sum(dim=1).tolist() == [{0.3: 1, 0.5: 3, 1.0: 6}[hint_ratio]] * 5


def test_every_patch_of_the_top_tenth_is_shown_equally_often():
    scores = random_scores(1, 40).expand(3000, -1)
    mask = attention_mask(scores, 0.5, seeds=range(3000), hint_ratio=0.5)
    top = extreme_mask(scores[:1], [4], MaskSelection.HIGH)[0]
    shown = (~mask[:, top]).double().mean(dim=0)
    torch.testing.assert_close(shown, torch.full((4,), 0.5, dtype=torch.float64), atol=0.03, rtol=0)


@pytest.mark.parametrize("options", [{}, {"max_ratio": 0.5}, {"max_ratio": 0.5, "hint_ratio": 0.5}])
def test_a_picture_has_the_same_mask_in_any_batch(options):
    scores, seeds = random_scores(6, 49), [5, 1, 4, 1, 5, 9]
    together = attention_mask(scores, 0.2, seeds=seeds, **options)
    for row, seed in enumerate(seeds):
        alone = attention_mask(scores[row : row + 1], 0.2, seeds=[seed], **options)
        assert torch.equal(alone[0], together[row])


def test_another_seed_draws_another_mask():
    scores = random_scores(1, 200)
    options = {"max_ratio": 0.6, "hint_ratio": 0.5}
    first, again, other = (
        attention_mask(scores, 0.2, seeds=[seed], **options) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
