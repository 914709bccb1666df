"""LeGrad's gradients: each block's own score by that block's own attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from pairlens_server.recording.activations import Activation
from pairlens_server.recording.attention import AttentionReading
from pairlens_server.recording.passes import Body
from pairlens_server.recording.primitives import LayerScoreGradient, Logits
from pairlens_server.recording.rounds import in_order, rounds
from pairlens_server.recording.tap import AttentionTap

Gradients = Mapping[LayerScoreGradient, Sequence[int]]
Wanting = Mapping[LayerScoreGradient | Logits, Sequence[int]]
"""Activations with the pictures of the pass that want them, ascending."""


def layer_score_pass(body: Body, wanted: Wanting, pixels: Tensor) -> dict[Activation, Tensor]:
    """Record LeGrad's gradients [number of pictures, tokens], and logits along the way.

    Each block's graph begins at its own attention and ends at its own output, so that all
    blocks cost one backward pass together and hold one block's graph at a time
    (Bousselham et al., ICCV 2025, section 3.2).

    Args:
        body: What runs.
        wanted: What is wanted of whom.
        pixels: [B, 3, H, W].
    """
    gradients = {a: p for a, p in wanted.items() if isinstance(a, LayerScoreGradient)}
    found: dict[Activation, Tensor] = {}
    outputs: dict[int, tuple[AttentionReading, Tensor]] = {}

    def cut(block: int, reading: AttentionReading, attend: Callable[[], Tensor]) -> Tensor:
        outputs[block] = (reading, attend().detach().requires_grad_(True))
        return outputs[block][1]

    def leave(block: int) -> Callable[..., object]:
        here = {a: pictures for a, pictures in gradients.items() if a.block == block}

        def differentiate(_module: nn.Module, _inputs: object, tokens: Tensor) -> Tensor:
            reading, output = outputs.pop(block)
            found.update(_gradients(body, here, reading, output, tokens))
            return tokens.detach()

        return differentiate

    blocks = sorted({a.block for a in gradients})
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        for block in blocks:
            module = body.module(body.anatomy.blocks[block])
            stack.callback(module.register_forward_hook(leave(block)).remove)
        stack.enter_context(AttentionTap(body.attention, blocks, cut))
        features = body.readout.features(pixels).detach()
    if Logits() in wanted:
        with torch.no_grad():
            found[Logits()] = body.readout.logits(features[list(wanted[Logits()])]).float()
    return found


def _gradients(
    body: Body, wanted: Gradients, reading: AttentionReading, output: Tensor, tokens: Tensor
) -> dict[Activation, Tensor]:
    # Equal tokens everywhere, so that any pooling of the head reads their mean.
    mean = body.module("norm")(tokens.mean(dim=1, keepdim=True)).expand(tokens.shape)
    passes = rounds((a.target, pictures) for a, pictures in wanted.items())
    collected: dict[Activation, dict[int, Tensor]] = {a: {} for a in wanted}
    for number, targets in enumerate(passes, start=1):
        pictures = sorted(targets)
        scores = body.readout.scores(mean[pictures], [targets[p] for p in pictures])
        more = number < len(passes)
        (slopes,) = torch.autograd.grad(scores.sum(), output, retain_graph=more)
        owners = {
            p: a for a, wanting in wanted.items() for p in wanting if targets.get(p) == a.target
        }
        mine = sorted(owners)
        with torch.no_grad():
            rows = reading.positive_gradient_rows(slopes[mine], mine)
        for picture, row in zip(mine, rows, strict=True):
            collected[owners[picture]][picture] = row
    return in_order(collected, wanted)
