"""TIBAV: gradient times relevance of every attention matrix, rolled out to the readout's row.

Chefer, Gur and Wolf, "Transformer Interpretability Beyond Attention Visualization", CVPR 2021,
section 3.2, as computed by `baselines/ViT/ViT_LRP.py` of the authors' code (method "grad"):
C_l = mean over heads of (∂score/∂A_l ⊙ R(A_l))⁺, M_l = C_l + I without normalising rows, and
the readout's row of M_L ··· M_start. The paper prints the product in the other order.

That code takes one picture at a time, at the cost of 10.7 forward passes of ViT-B; here a batch
takes as long as 4.9 passes of its size. The numbers are the same but for rounding: denominators
reuse what the forward pass computed, only attention is differentiated, the last block is
evaluated for the tokens that the head reads (relevance at others is exactly 0), nothing below
the start block's attention is propagated, and the product of matrices is one with a vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pairlens_server.recording.relevance.network import (
    BlockTrace,
    Dense,
    Rows,
    embed,
    in_dtype,
    trace_block,
)
from pairlens_server.recording.relevance.rules import (
    through_clone,
    through_linear,
    through_matmul,
    through_sum,
)
from pairlens_server.recording.relevance.seeds import Seed


@dataclass(frozen=True, eq=False)
class Attribution:
    """Relevance of every token for what a head reads.

    Attributes:
        row: [B, T], mean over the R readout tokens of their rows of M_L ··· M_start - I.
            Without I, each readout token is 1/R lower: patches that all are read out lose a
            common constant, beside which their relevance would vanish in float32.
        drift: [B], largest |sum of relevance - 1| at the outputs of the blocks. Below 1e-5
            where the rules conserve relevance but for the 1e-9 in denominators, 1 where it
            vanished. It does not measure rounding: the rule of residual sums restores the total.
        reading: What the score was read off, see `Seed.reading`.
    """

    row: Tensor
    drift: Tensor
    reading: Tensor


def transformer_attribution(
    network: nn.Module,
    pixels: Tensor,
    seed: Seed,
    *,
    readout: tuple[int, ...],
    start_block: int,
    dtype: torch.dtype,
) -> Attribution:
    """Explain a score per picture by TIBAV; pictures of a batch do not touch each other.

    Args:
        network: One that `refusal` does not name, in eval mode; stays as it is.
        pixels: [B, 3, H, W], normalised, on the network's device.
        seed: Target of each picture.
        readout: Tokens that the head reads: `(0,)` for a class token, `(0, 1)` for a
            distilled DeiT, those that are averaged for mean pooling.
        start_block: Lowest block of the product, counted from 0.
        dtype: float32 or float64, of the whole computation. The rules divide by numbers of
            any sign that may be near 0, so a map can hang on the last digits: of 12 maps
            of a trained 6-block network, 4 in float32 had a correlation below 0.9 with those
            in float64, whatever the form of the rules. float64 takes twice as long.

    Returns:
        Row and drift in `dtype`.
    """
    model: Any = network
    rows: Rows = list(readout)
    if list(readout) == list(range(readout[0], readout[-1] + 1)):
        rows = slice(readout[0], readout[-1] + 1)
    traces = _trace(model, pixels.to(dtype), rows, start_block)
    with torch.enable_grad():
        # The last norm acts token by token, so the readout's rows are enough.
        tokens = in_dtype(model.norm, dtype)(traces[-1].left)
        score = seed.score(model, tokens).sum()
    slopes = list(torch.autograd.grad(score, [t.attention for t in traces]))
    with torch.no_grad():
        relevance = seed.relevance(model, tokens.detach())
        row, drift = _propagate(model, traces, slopes, relevance, rows)
        return Attribution(row, drift, seed.reading(model, tokens.detach()))


def _trace(network: Any, pixels: Tensor, rows: Rows, start: int) -> list[BlockTrace]:
    """Traces of the blocks from the start block on; the last is of the readout's rows alone."""
    with torch.no_grad():
        tokens = embed(network, pixels)
        for block in network.blocks[:start]:
            tokens = trace_block(block, tokens, slice(None)).left
    traces: list[BlockTrace] = []
    blocks = network.blocks[start:]
    with torch.enable_grad():
        for number, block in enumerate(blocks):
            wanted = rows if number == len(blocks) - 1 else slice(None)
            traces.append(trace_block(block, tokens, wanted, cut=number == 0))
            tokens = traces[-1].left
    return traces


def _propagate(
    network: Any, traces: list[BlockTrace], slopes: list[Tensor], relevance: Tensor, rows: Rows
) -> tuple[Tensor, Tensor]:
    """Walk down the blocks with the relevance of each output: `Attribution`'s row and drift."""
    blocks = list(network.blocks[len(network.blocks) - len(traces) :])
    # The identity's row is kept apart: added up, a small rest would be lost in float32.
    own = relevance.new_zeros(len(relevance), traces[-1].entered.shape[1])
    own[:, rows] = 1 / relevance.shape[1]
    rest = torch.zeros_like(own)
    sums = []
    while traces:
        # Popped, so that the memory of a block is free once it is passed.
        trace, slope, block = traces.pop(), slopes.pop(), blocks.pop()
        sums.append(relevance.sum(dim=(1, 2)))
        relevance = _through_mlp(block, trace, relevance)
        stream, attended = through_sum(
            trace.entered[:, rows], trace.attended, trace.middle, relevance
        )
        at_attention, at_values = _through_mixing(block, trace, attended)
        rest += _times_contribution((own + rest)[:, rows], slope, at_attention)
        if traces:
            mixed = _through_attention(block, trace, at_attention, at_values, rows)
            mixed[:, rows] += stream
            relevance = through_clone(trace.entered, mixed)
        rows = slice(None)
    return rest, (torch.stack(sums) - 1).abs().amax(dim=0)


def _times_contribution(row: Tensor, slope: Tensor, relevance: Tensor) -> Tensor:
    """Row times C_l: [B, T] from [B, R] and [B, heads, R, T] twice."""
    contribution = (slope * relevance).relu_()
    return (row[:, None, None, :] @ contribution).squeeze(2).mean(dim=1)


def _through_mlp(block: Any, trace: BlockTrace, relevance: Tensor) -> Tensor:
    """From the block's output to the stream between its halves: [B, R, C]."""
    stream, added = through_sum(trace.middle, trace.added, trace.left, relevance)
    second, first = (Dense.of(layer, relevance.dtype) for layer in (block.mlp.fc2, block.mlp.fc1))
    added = through_linear(trace.active, trace.reduced, *second, added)
    added = through_linear(trace.middle_normed, trace.hidden, *first, added)
    return through_clone(trace.middle, stream.add_(added))


def _through_mixing(block: Any, trace: BlockTrace, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """From the attention's output to its matrix [B, heads, R, T] and values [B, heads, T, d]."""
    layer = Dense.of(block.attn.proj, relevance.dtype)
    merged = through_linear(trace.merged, trace.projected, *layer, relevance)
    split = merged.view(*merged.shape[:2], block.attn.num_heads, -1).transpose(1, 2)
    return through_matmul(trace.attention, trace.values, trace.mixed, split)


def _through_attention(
    block: Any, trace: BlockTrace, at_attention: Tensor, at_values: Tensor, rows: Rows
) -> Tensor:
    """From the attention matrix and the values to the block's normed input: [B, T, C]."""
    # The product of the reference is not scaled.
    product = trace.scores / block.attn.scale
    at_queries, at_keys = through_matmul(trace.queries, trace.keys.mT, product, at_attention)
    merged = [part.transpose(1, 2).flatten(2) for part in (at_queries, at_keys.mT, at_values)]
    width = block.attn.attn_dim
    layer = Dense.of(block.attn.qkv, product.dtype, slice(width, None))
    from_both = torch.cat(merged[1:], dim=-1)
    relevance = through_linear(trace.normed, trace.raw_keys_values, *layer, from_both)
    layer = Dense.of(block.attn.qkv, product.dtype, slice(width))
    relevance[:, rows] += through_linear(
        trace.normed[:, rows], trace.raw_queries, *layer, merged[0]
    )
    return relevance
