import math

import pytest
import torch

from pairlens_server.methods.interrelation import (
    LineRule,
    PatchWeighting,
    attended,
    focus_index,
    interrelations,
    keypoint_shares,
    patch_scores,
)

TENTHS = torch.tensor([0.1, 0.2, 0.3, 0.4])


def random_attention(batch: int = 2, heads: int = 3, patches: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(batch, heads, patches, patches, generator=generator)
    return torch.softmax(logits, dim=-1)


def random_counts(batch: int = 2, patches: int = 7) -> torch.Tensor:
    counts = torch.randint(0, 6, (batch, patches), generator=torch.Generator().manual_seed(1))
    counts[:, 0], counts[:, 1] = 0, 2  # both kinds occur
    return counts


def slow_line(row: list[float], rule: LineRule, line: float) -> float:
    mean = sum(row) / len(row)
    if rule is LineRule.MEAN:
        return line * mean
    if rule is LineRule.MAX:
        return line * max(row)
    if rule is LineRule.RANGE:
        return min(row) + line * (max(row) - min(row))
    return mean + line * math.sqrt(sum((v - mean) ** 2 for v in row) / len(row))


def slow_share(row, counts, rule, line, weighting, attention_weighted) -> float:
    height = slow_line(row, rule, line)
    inside = outside = 0.0
    for value, count in zip(row, counts, strict=True):
        if value <= height:
            continue
        weight = max(count, 1) if weighting is PatchWeighting.COUNT else count + 1
        if attention_weighted:
            weight *= value
        if count:
            inside += weight
        else:
            outside += weight
    return inside / (inside + outside) if inside + outside else math.nan


def slow_entropy(row: list[float], renormalised: bool) -> float:
    low, high = min(row), max(row)
    scaled = [(v - low) / (high - low) if high > low else 0.0 for v in row]
    if renormalised and sum(scaled):
        scaled = [v / sum(scaled) for v in scaled]
    return -sum(v * math.log(v) for v in scaled if v > 0)


def mean_of(values: list[float]) -> float:
    defined = [v for v in values if not math.isnan(v)]
    return sum(defined) / len(defined) if defined else math.nan


def test_share_of_the_worked_example():
    # methods.md F.3: attended n = 3, 1, 0, 0 give 4 / 6; a fifth patch is below the line.
    attention = torch.tensor([0.24, 0.24, 0.24, 0.24, 0.04]).expand(1, 1, 5, 5)
    counts = torch.tensor([[3, 1, 0, 0, 9]])
    torch.testing.assert_close(keypoint_shares(attention, counts), torch.full((1, 1, 5), 4 / 6))
    plus_one = keypoint_shares(attention, counts, weighting=PatchWeighting.COUNT_PLUS_ONE)
    torch.testing.assert_close(plus_one, torch.full((1, 1, 5), 6 / 8))


def test_attention_weighs_the_worked_example():
    # P = {2, 3} at .3 and .4 with n = 3 and 0: .9 / (.9 + .4)
    attention = TENTHS.expand(1, 1, 4, 4)
    counts = torch.tensor([[1, 1, 3, 0]])
    shares = keypoint_shares(attention, counts, attention_weighted=True)
    torch.testing.assert_close(shares, torch.full((1, 1, 4), 0.9 / 1.3))


@pytest.mark.parametrize(
    ("rule", "line", "expected"),
    [
        (LineRule.MEAN, 1.0, [2, 3]),  # above .25
        (LineRule.MEAN, 0.0, [0, 1, 2, 3]),
        (LineRule.MEAN, 1.5, [3]),  # above .375
        (LineRule.MAX, 0.6, [2, 3]),  # above .24
        (LineRule.MAX, 1.0, []),
        (LineRule.RANGE, 0.0, [1, 2, 3]),  # above the smallest
        (LineRule.RANGE, 0.5, [2, 3]),  # above .25
        (LineRule.RANGE, 1.0, []),
        (LineRule.MEAN_STD, 0.0, [2, 3]),
        (LineRule.MEAN_STD, 1.0, [3]),  # above .25 + .1118
        (LineRule.MEAN_STD, 2.0, []),
    ],
)
def test_detection_lines_by_hand(rule, line, expected):
    assert attended(TENTHS, rule, line).nonzero()[:, 0].tolist() == expected


@pytest.mark.parametrize("patches", [3, 7, 49, 196])
def test_nothing_stands_out_of_a_constant_row(patches):
    attention = torch.full((1, 1, patches, patches), 1 / patches)
    counts = torch.ones(1, patches, dtype=torch.int64)
    for rule in LineRule:
        assert not attended(attention, rule, 1.0).any()
        assert keypoint_shares(attention, counts, rule=rule).isnan().all()
    assert focus_index(attention).tolist() == [[0.0]]
    assert focus_index(attention, renormalised=True).tolist() == [[0.0]]


def test_focus_index_of_the_worked_example():
    # methods.md F.5
    attention = TENTHS.expand(1, 1, 4, 4)
    torch.testing.assert_close(focus_index(attention), torch.tensor([[0.6365]]), atol=5e-5, rtol=0)
    torch.testing.assert_close(
        focus_index(attention, renormalised=True), torch.tensor([[1.0114]]), atol=5e-5, rtol=0
    )


@pytest.mark.parametrize(("rule", "line"), [*((r, 0.5) for r in LineRule), (LineRule.MEAN, 1.5)])
@pytest.mark.parametrize("weighting", list(PatchWeighting))
@pytest.mark.parametrize("attention_weighted", [False, True])
def test_everything_agrees_with_the_slow_definition(rule, line, weighting, attention_weighted):
    attention, counts = random_attention(), random_counts()
    shares = keypoint_shares(
        attention,
        counts,
        rule=rule,
        line=line,
        weighting=weighting,
        attention_weighted=attention_weighted,
    )
    found = interrelations(shares, counts)
    scores = patch_scores(shares)
    rows, numbers = attention.double().tolist(), counts.tolist()
    slow = [
        [
            [slow_share(r, n, rule, line, weighting, attention_weighted) for r in head]
            for head in heads
        ]
        for heads, n in zip(rows, numbers, strict=True)
    ]
    close = {"atol": 2e-6, "rtol": 0, "equal_nan": True, "check_dtype": False}
    torch.testing.assert_close(shares, torch.tensor(slow), **close)
    for b, n in enumerate(numbers):
        for h, values in enumerate(slow[b]):
            kk = mean_of([v for v, c in zip(values, n, strict=True) if c])
            nk = mean_of([v for v, c in zip(values, n, strict=True) if not c])
            expected = torch.tensor([kk, 1 - kk, nk, 1 - nk])
            got = torch.stack([x[b, h] for x in (found.kk, found.kn, found.nk, found.nn)])
            torch.testing.assert_close(got, expected, **close)
        slow_scores = [mean_of([values[i] for values in slow[b]]) for i in range(len(n))]
        torch.testing.assert_close(scores[b], torch.tensor(slow_scores), **close)


@pytest.mark.parametrize("renormalised", [False, True])
def test_focus_index_agrees_with_the_slow_definition(renormalised):
    attention = random_attention()
    slow = [
        [mean_of([slow_entropy(row, renormalised) for row in head]) for head in heads]
        for heads in attention.double().tolist()
    ]
    torch.testing.assert_close(
        focus_index(attention, renormalised=renormalised), torch.tensor(slow), atol=2e-6, rtol=0
    )


@pytest.mark.parametrize("line", [0.5, 1.0])
def test_one_keypoint_a_patch_is_the_plain_share_of_keypoint_patches(line):
    attention = random_attention(patches=16)
    counts = random_counts(patches=16).clamp(max=1)
    chosen = attended(attention, LineRule.MEAN, line)
    plain = (chosen & (counts[:, None, None] > 0)).sum(dim=-1) / chosen.sum(dim=-1)
    torch.testing.assert_close(keypoint_shares(attention, counts, line=line), plain)


def test_shares_do_not_change_with_the_scale_of_attention():
    # A class token that takes half of each row away leaves every rule's patches as they are.
    attention, counts = random_attention(), random_counts()
    for rule in LineRule:
        for weighted in (False, True):
            options = {"rule": rule, "line": 0.7, "attention_weighted": weighted}
            whole = keypoint_shares(attention, counts, **options)
            half = keypoint_shares(attention / 2, counts, **options)
            torch.testing.assert_close(half, whole, equal_nan=True)


def test_pictures_of_one_kind_of_patch_leave_the_other_undefined():
    attention = random_attention(batch=2)
    counts = torch.stack([torch.zeros(7, dtype=torch.int64), torch.full((7,), 4)])
    found = interrelations(keypoint_shares(attention, counts), counts)
    assert found.kk[0].isnan().all()
    assert found.kn[0].isnan().all()
    assert found.nk[0].tolist() == [0.0] * 3
    assert found.nn[0].tolist() == [1.0] * 3
    assert found.kk[1].tolist() == [1.0] * 3
    assert found.nk[1].isnan().all()
    assert found.nn[1].isnan().all()


def test_undefined_shares_are_left_out_of_means():
    shares = torch.tensor([[[0.2, torch.nan, 0.6, 0.4], [0.4, torch.nan, torch.nan, 0.8]]])
    counts = torch.tensor([[1, 2, 0, 5]])
    found = interrelations(shares, counts)
    torch.testing.assert_close(found.kk, torch.tensor([[0.3, 0.6]]))
    torch.testing.assert_close(found.kn, torch.tensor([[0.7, 0.4]]))
    expected = torch.tensor([[0.6, torch.nan]])
    torch.testing.assert_close(found.nk, expected, equal_nan=True)
    scores = torch.tensor([[0.3, torch.nan, 0.6, 0.6]])
    torch.testing.assert_close(patch_scores(shares), scores, equal_nan=True)


def test_a_picture_has_the_same_numbers_in_any_batch():
    attention, counts = random_attention(batch=4, patches=16), random_counts(4, 16)
    together = keypoint_shares(attention, counts, attention_weighted=True)
    focus = focus_index(attention)
    for b in range(4):
        alone = keypoint_shares(attention[b : b + 1], counts[b : b + 1], attention_weighted=True)
        torch.testing.assert_close(alone[0], together[b], atol=1e-7, rtol=0, equal_nan=True)
        one, many = interrelations(alone, counts[b : b + 1]), interrelations(together, counts)
        torch.testing.assert_close(one.kk[0], many.kk[b], atol=1e-6, rtol=0, equal_nan=True)
        torch.testing.assert_close(focus_index(attention[b : b + 1])[0], focus[b])
