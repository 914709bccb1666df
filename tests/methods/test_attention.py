"""Attention maps of one block: Raw, Raw*, Raw-Log, Raw-Pow, Keys-norm and their product."""

import pytest
import torch

from pairlens_server.errors import InvalidParameterError
from pairlens_server.methods.attention import (
    Each,
    KeyNorm,
    RawAttention,
    RawLog,
    RawPower,
    RawScores,
    ScoresTimesKeyNorm,
    min_max,
)
from pairlens_server.recording.facts import Refusals
from pairlens_server.recording.primitives import (
    KeyNorms,
    ReadoutAttention,
    ReadoutLogAttention,
    ReadoutScores,
)
from tests.oracles import explicit_run
from tests.support import explained, facts, pixels, zoo_model, zoo_recorder

# methods.md B: two heads; the class token's own column stands in front.
HEADS = torch.tensor([[0.0, 0.1, 0.4, 0.5], [0.0, 0.3, 0.3, 0.4]])
MODEL = facts(1, 3, prefix=1, readout=(0,))
READABLE = [
    *("vit", "vit-avg", "vit-registers", "deit-distilled", "eva02", "dinov3-token"),
    *("pit-distilled", "convit", "xcit"),
]


def found(method, recorded, model=MODEL):
    return method.resolve(model).explain(recorded, model, None).heatmap


@pytest.mark.parametrize(
    ("method", "values", "expected"),
    [
        (RawAttention(), {ReadoutAttention(1): HEADS}, [0, 0.6, 1]),
        (RawPower(power=0.5), {ReadoutAttention(1): HEADS}, [0, 0.6649, 1]),
        (RawPower(), {ReadoutAttention(1): HEADS}, [0, 0.6649, 1]),
        (RawPower(power=1.0), {ReadoutAttention(1): HEADS}, [0, 0.6, 1]),
        (RawLog(), {ReadoutLogAttention(1): HEADS.log()}, [0, 0.7307, 1]),
        (RawScores(), {ReadoutScores(1): HEADS.log() + 2}, [0, 0.7307, 1]),
    ],
)
def test_hand_checked_examples(method, values, expected):
    heatmap = found(method, values)
    assert heatmap.shape == (1, 3)
    torch.testing.assert_close(
        min_max(heatmap)[0], torch.tensor(expected, dtype=torch.float32), atol=1e-4, rtol=0
    )


def test_values_are_not_scaled():
    torch.testing.assert_close(
        found(RawAttention(), {ReadoutAttention(1): HEADS}), torch.tensor([[0.2, 0.35, 0.45]])
    )
    torch.testing.assert_close(
        found(RawPower(power=0.5), {ReadoutAttention(1): HEADS})[0, 0],
        torch.tensor((0.1**0.5 + 0.3**0.5) / 2),
    )


def test_one_head_is_that_heads_row():
    heatmap = found(RawAttention(block=0, head=1), {ReadoutAttention(0): HEADS})
    torch.testing.assert_close(heatmap[0], torch.tensor([0.3, 0.3, 0.4]))


def test_patches_are_laid_out_row_by_row():
    model = facts(2, 3, prefix=2, readout=(0, 1))
    row = torch.tensor([[9.0, 9.0, 0, 1, 2, 3, 4, 5]])
    heatmap = found(RawAttention(block=0, head=0), {ReadoutAttention(0): row}, model)
    torch.testing.assert_close(heatmap, torch.tensor([[0.0, 1, 2], [3, 4, 5]]))


def test_key_norm_is_of_the_mean_key_or_of_one_heads():
    lengths = torch.tensor([[7.0, 0, 1, 2], [7, 5, 6, 7], [7, 8, 9, 10]])
    assert found(KeyNorm(), {KeyNorms(1): lengths}).tolist() == [[0, 1, 2]]
    assert found(KeyNorm(head=1), {KeyNorms(1): lengths}).tolist() == [[8, 9, 10]]


def test_the_product_of_scores_and_key_lengths_is_signed_and_not_scaled():
    recorded = {
        ReadoutScores(1): torch.tensor([[0.0, -1, 1, 3], [0, -3, 1, 5]]),
        KeyNorms(1): torch.tensor([[9.0, 2, 4, 6], [9, 1, 1, 1], [9, 2, 2, 2]]),
    }
    assert found(ScoresTimesKeyNorm(), recorded).tolist() == [[-4, 4, 24]]
    assert found(ScoresTimesKeyNorm(head=1), recorded).tolist() == [[-6, 2, 10]]
    # With `premap` both are scaled to [0, 1] over the patches first: (0, .5, 1) ⊙ (0, .5, 1).
    assert found(ScoresTimesKeyNorm(premap=True), recorded).tolist() == [[0, 0.25, 1]]


def test_min_max_of_equal_values_is_zero():
    assert min_max(torch.full((3,), 2.0)).tolist() == [0, 0, 0]
    assert min_max(torch.tensor([2.0, 4, 3])).tolist() == [0, 1, 0.5]


@pytest.mark.parametrize("name", READABLE)
def test_raw_log_is_raw_scores_after_min_max(name):
    # methods.md B: log A is the score less one number for the whole row.
    recorder, images = zoo_recorder(name), pixels(zoo_model(name))
    for log, scores in zip(
        explained(recorder, images, RawLog()), explained(recorder, images, RawScores()), strict=True
    ):
        torch.testing.assert_close(min_max(log.heatmap), min_max(scores.heatmap), atol=5e-6, rtol=0)


@pytest.mark.parametrize("name", READABLE)
def test_maps_of_real_models_are_timms_attention(name):
    model, recorder = zoo_model(name), zoo_recorder(name)
    images, layout = pixels(model), model.layout
    attention = explicit_run(model, images).attentions[-1].detach()
    readout = [0] if name == "xcit" else list(layout.readout)
    heads = (
        attention[:, :, readout]
        .mean(2)[..., layout.prefix :]
        .unflatten(-1, (layout.rows, layout.columns))
    )
    logs = (
        attention[:, :, readout]
        .log()
        .mean(2)[..., layout.prefix :]
        .unflatten(-1, (layout.rows, layout.columns))
    )
    for method, expected in (
        (RawAttention(), heads.mean(1)),
        (RawAttention(head=1), heads[:, 1]),
        (RawPower(power=0.25), heads.pow(0.25).mean(1)),
        (RawLog(), logs.mean(1)),
    ):
        maps = torch.stack([f.heatmap for f in explained(recorder, images, method)])
        torch.testing.assert_close(maps.double(), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("each", "labels"),
    [
        (Each.NONE, []),
        (Each.HEAD, [(2, 0), (2, 1), (2, 2), (2, 3)]),
        (Each.BLOCK, [(1, None), (2, None)]),
        (Each.BLOCK_AND_HEAD, [(b, h) for b in (1, 2) for h in range(4)]),
    ],
)
def test_panels_are_labelled_and_are_the_maps_of_their_own(each, labels):
    # A ConViT of three blocks, whose class token joins at block 1.
    recorder, images = zoo_recorder("convit"), pixels(zoo_model("convit"), 1)
    method = RawAttention(each=each).resolve(recorder.facts)
    assert method.panels(recorder.facts) == len(labels)
    (findings,) = explained(recorder, images, method)
    assert [(p.block, p.head) for p in findings.panels] == labels
    for panel in findings.panels:
        alone = RawAttention(block=panel.block, head=panel.head)
        (expected,) = explained(recorder, images, alone)
        assert torch.equal(panel.heatmap, expected.heatmap)


def test_panels_over_blocks_keep_the_chosen_head():
    recorder, images = zoo_recorder("vit"), pixels(zoo_model("vit"), 1)
    (findings,) = explained(recorder, images, RawAttention(head=1, each=Each.BLOCK))
    assert [(p.block, p.head) for p in findings.panels] == [(0, 1), (1, 1), (2, 1)]


def test_default_block_is_the_last():
    assert RawAttention().resolve(facts(1, 1, blocks=4)).block == 3


@pytest.mark.parametrize(
    ("method", "field", "range_text"),
    [
        (RawAttention(block=2), "method.raw_attention.block", "blocks 0 to 1"),
        (RawAttention(block=-1), "method.raw_attention.block", "blocks 0 to 1"),
        (RawScores(head=2), "method.raw_scores.head", "heads 0 to 1"),
        (RawLog(head=-1), "method.raw_log.head", "heads 0 to 1"),
        (KeyNorm(block=5), "method.key_norm.block", "blocks 0 to 1"),
        (RawPower(power=0.0), "method.raw_power.power", "more than 0, at most 1"),
        (RawPower(power=1.5), "method.raw_power.power", "more than 0, at most 1"),
        (RawPower(power=float("nan")), "method.raw_power.power", "more than 0, at most 1"),
        (ScoresTimesKeyNorm(block=9), "method.scores_times_key_norm.block", "blocks 0 to 1"),
    ],
)
def test_parameters_out_of_range_name_field_and_range(method, field, range_text):
    with pytest.raises(InvalidParameterError, match=range_text) as caught:
        method.resolve(facts(1, 2, blocks=2, heads=2))
    assert caught.value.field == field


def test_a_block_before_the_class_token_joins_is_refused():
    with pytest.raises(InvalidParameterError, match="blocks 1 to 2"):
        RawAttention(block=0).resolve(zoo_recorder("convit").facts)


def test_a_model_without_attention_is_refused_with_its_reason():
    model = facts(2, 2, refusals=Refusals(readout="a ResNet has no attention"))
    for method in (RawAttention, RawScores, RawLog, RawPower, KeyNorm, ScoresTimesKeyNorm):
        assert method.refusal(model) == "a ResNet has no attention"
        assert method.refusal(MODEL) == ""


def test_keys_tell_parameters_apart():
    keys = {
        method.resolve(MODEL).key
        for method in (RawAttention(), RawAttention(head=0), RawPower(), RawPower(power=0.25))
    }
    assert "raw_attention:1(block=1, head=None, each=none)" in keys
    assert len(keys) == 4
