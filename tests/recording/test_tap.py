"""The tap: attention as timm itself computes it, in every family that attends over tokens."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from pairlens_server.models.families import forward_features
from pairlens_server.recording.attention import HeadFusion
from pairlens_server.recording.primitives import (
    AttentionMatrix,
    FusedAttention,
    KeyNorms,
    Logits,
    ReadoutAttention,
    ReadoutLogAttention,
    ReadoutScores,
)
from pairlens_server.recording.recorder import Recorder
from pairlens_server.recording.tap import AttentionTap
from tests.oracles import attention_blocks, explicit_run, padded
from tests.support import pixels, recorded, vit, zoo_model, zoo_recorder
from tests.zoo import zoo

ATTENDING = [
    *("vit", "vit-avg", "vit-avg-fcnorm", "vit-max", "vit-registers", "deit", "deit-distilled"),
    *("deit3", "clip", "clip-quickgelu", "siglip", "dino", "dinov2", "dinov2-registers"),
    *("eva", "eva02", "eva02-token", "dinov3", "dinov3-token", "pit", "pit-distilled"),
    *("convit", "xcit"),
]
SQUARE = [name for name in ATTENDING if name != "xcit"]


def test_every_model_of_the_zoo_that_attends_over_tokens_is_tested_here():
    assert [name for name in zoo() if zoo_recorder(name).facts.blocks] == ATTENDING


@pytest.mark.parametrize("name", ATTENDING)
def test_the_readouts_row_is_timms_own(name):
    model, recorder = zoo_model(name), zoo_recorder(name)
    facts = recorder.facts
    if facts.refusals.readout:
        assert model.pooling in ("max", "map")
        return
    images = pixels(model)
    blocks = range(facts.first_readout_block, facts.blocks)
    rows = recorded(recorder, images, *(ReadoutAttention(b) for b in blocks))
    logs = recorded(recorder, images, *(ReadoutLogAttention(b) for b in blocks))
    run = explicit_run(model, images)
    for block in blocks:
        attention = run.attentions[block].detach()
        # XCiT's class attention has the class token as its only query.
        readout = [0] if name == "xcit" else list(model.layout.readout)
        expected = attention[:, :, readout].mean(2)
        found = rows[ReadoutAttention(block)]
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(found.sum(-1), torch.ones(found.shape[:2]))
        torch.testing.assert_close(
            logs[ReadoutLogAttention(block)].double(),
            attention[:, :, readout].log().mean(2),
            atol=1e-4,
            rtol=1e-5,
        )


@pytest.mark.parametrize("name", SQUARE)
def test_the_matrix_and_its_fusions_are_timms_own(name):
    model, recorder = zoo_model(name), zoo_recorder(name)
    images, tokens = pixels(model), model.layout.tokens
    blocks = range(recorder.facts.blocks)
    wanted = [AttentionMatrix(b) for b in blocks]
    wanted += [FusedAttention(b, fusion) for b in blocks for fusion in HeadFusion]
    found = recorded(recorder, images, *wanted)
    for block, attention in zip(blocks, explicit_run(model, images).attentions, strict=True):
        heads = padded(attention.detach(), tokens)
        fused = {"mean": heads.mean(1), "max": heads.amax(1), "min": heads.amin(1)}
        torch.testing.assert_close(found[AttentionMatrix(block)].double(), heads, atol=1e-5, rtol=0)
        for fusion in HeadFusion:
            torch.testing.assert_close(
                found[FusedAttention(block, fusion)].double(),
                fused[fusion.value],
                atol=1e-5,
                rtol=0,
            )


@pytest.mark.parametrize("name", [n for n in ATTENDING if n not in ("vit-max", "siglip")])
def test_scores_are_the_logarithm_of_attention_up_to_one_number_for_each_row(name):
    recorder = zoo_recorder(name)
    block = recorder.facts.blocks - 1
    found = recorded(
        recorder, pixels(zoo_model(name)), ReadoutScores(block), ReadoutLogAttention(block)
    )
    difference = found[ReadoutScores(block)] - found[ReadoutLogAttention(block)]
    spread = difference - difference.mean(-1, keepdim=True)
    torch.testing.assert_close(spread, torch.zeros_like(spread), atol=2e-5, rtol=0)


def keys_by_hand(block, tokens: torch.Tensor) -> torch.Tensor:
    """Keys [B, heads, T, head_dim] before any rotation, which does not change lengths."""
    attention, batch, count = block.attn, len(tokens), tokens.shape[1]
    inputs = block.norm1(tokens)
    if getattr(attention, "qkv", None) is None:
        keys = attention.k_proj(inputs)
    else:
        width = attention.qkv.weight.shape[0] // 3
        bias = attention.qkv.bias
        if getattr(attention, "q_bias", None) is not None:
            bias = torch.cat((attention.q_bias, attention.k_bias, attention.v_bias))
        rows = slice(width, 2 * width)
        keys = F.linear(inputs, attention.qkv.weight[rows], None if bias is None else bias[rows])
    keys = keys.reshape(batch, count, attention.num_heads, -1).transpose(1, 2)
    return getattr(attention, "k_norm", torch.nn.Identity())(keys)


@pytest.mark.parametrize(
    "name", ["vit", "vit-registers", "deit-distilled", "dinov2", "eva", "eva02", "dinov3", "pit"]
)
def test_key_lengths_are_those_of_keys_computed_by_hand(name):
    model, recorder = zoo_model(name), zoo_recorder(name)
    images, block = pixels(model), recorder.facts.blocks - 1
    found = recorded(recorder, images, KeyNorms(block))[KeyNorms(block)]
    run = explicit_run(model, images)
    keys = keys_by_hand(attention_blocks(run.network, model.family)[block], run.tokens[block - 1])
    expected = torch.cat([keys.mean(1, keepdim=True), keys], dim=1).norm(dim=-1).detach()
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


def test_scores_are_scaled_products_of_queries_and_keys():
    model, recorder = zoo_model("vit"), zoo_recorder("vit")
    images = pixels(model)
    found = recorded(recorder, images, ReadoutScores(1))[ReadoutScores(1)]
    run = explicit_run(model, images)
    block = run.network.blocks[1]
    qkv = block.attn.qkv(block.norm1(run.tokens[0])).reshape(2, -1, 3, 2, 8)
    queries, keys, _ = qkv.permute(2, 0, 3, 1, 4)
    expected = torch.einsum("bhd,bhkd->bhk", queries[:, :, 0], keys) / 8**0.5
    torch.testing.assert_close(found.double(), expected.detach(), atol=1e-5, rtol=1e-5)


def test_under_mean_pooling_the_patches_of_a_convit_attend_before_the_class_token_joins():
    model = zoo_model("convit", pooling="avg")
    recorder = zoo_recorder("convit", pooling="avg")
    images = pixels(model)
    assert recorder.facts.first_readout_block == 0
    found = recorded(recorder, images, *(ReadoutAttention(b) for b in range(3)))
    for block, attention in enumerate(explicit_run(model, images).attentions):
        patches = attention[:, :, -16:].mean(2).detach()
        row = found[ReadoutAttention(block)]
        assert row.shape == (2, 4, 17)
        late = attention.shape[-1] == 16
        assert bool((row[..., 0] == 0).all()) is late
        torch.testing.assert_close(
            row[..., 1 if late else 0 :].double(), patches, atol=1e-5, rtol=0
        )


class KernelCalls(TorchFunctionMode):
    """Counts calls of the fused kernel."""

    calls = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.calls += function is F.scaled_dot_product_attention
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", [name for name in ATTENDING if name != "convit"])
def test_the_fused_kernel_stays_on(name):
    model, recorder = zoo_model(name), zoo_recorder(name)
    images, last = pixels(model), recorder.facts.blocks - 1
    with KernelCalls() as plain:
        forward_features(model.network, images)
    with KernelCalls() as tapped:
        recorded(recorder, images, KeyNorms(last))
    assert plain.calls == tapped.calls >= recorder.facts.blocks
    assert all(b.attn.fused_attn for b in attention_blocks(model.network, model.family))


def test_whole_matrices_of_everybody_take_the_kernels_place():
    recorder, images = Recorder(vit()), pixels(vit())
    blocks, everybody = recorder.facts.blocks, list(range(len(images)))
    with KernelCalls() as all_of_all:
        recorder.record(images, {FusedAttention(b): everybody for b in range(blocks)})
    assert all_of_all.calls == 0
    with KernelCalls() as of_one:
        matrices = {FusedAttention(b): [0] for b in range(blocks)}
        recorder.record(images, {**matrices, Logits(): everybody})
    assert of_one.calls == blocks
    with KernelCalls() as of_a_block:
        recorder.record(images, {FusedAttention(0): everybody})
    assert of_a_block.calls == blocks - 1


def test_a_model_that_was_told_not_to_fuse_is_read_all_the_same():
    fused, model = vit(), vit()
    for block in model.network.blocks:
        block.attn.fused_attn = False  # as TIMM_FUSED_ATTN=0 has it
    images = pixels(model)
    expected = recorded(Recorder(fused), images, ReadoutAttention(1))
    found = recorded(Recorder(model), images, ReadoutAttention(1))
    torch.testing.assert_close(found[ReadoutAttention(1)], expected[ReadoutAttention(1)])


def test_only_the_layers_that_are_wanted_call_back():
    model, seen = vit(), []

    def note(block, _reading, attend):
        output = attend()
        seen.append((block, tuple(output.shape)))
        return output

    layers = [block.attn for block in model.network.blocks]
    with torch.no_grad(), AttentionTap(layers, [0, 2], note):
        tapped = model.network(pixels(model))
        # Attention that no block of ours asks for is left alone.
        F.scaled_dot_product_attention(*torch.ones(3, 1, 1, 2, 2))
    assert seen == [(0, (2, 2, 24, 8)), (2, (2, 2, 24, 8))]
    torch.testing.assert_close(tapped, model.network(pixels(model)))


@pytest.mark.parametrize("name", ["vit", "eva", "convit", "xcit"])
def test_what_the_callback_returns_goes_on_in_the_outputs_place(name):
    model = zoo_model(name)
    layers = [block.attn for block in attention_blocks(model.network, model.family)]
    images = pixels(model)
    with torch.no_grad():
        plain = model.network(images)
        with AttentionTap(layers, [0], lambda _n, _r, attend: attend().clone()):
            same = model.network(images)
        with AttentionTap(layers, [0], lambda _n, _r, attend: torch.zeros_like(attend())):
            cut = model.network(images)
    torch.testing.assert_close(same, plain)
    assert float((cut - plain).abs().max()) > 1e-3


def test_logits_beside_the_tap_are_the_networks_own():
    for name in ("vit", "dinov3-token", "convit", "xcit", "pit"):
        model, recorder = zoo_model(name), zoo_recorder(name)
        if not model.classes:
            continue
        images = pixels(model)
        found = recorded(recorder, images, Logits(), ReadoutAttention(recorder.facts.blocks - 1))
        with torch.no_grad():
            torch.testing.assert_close(found[Logits()], model.network(images), atol=1e-6, rtol=0)
