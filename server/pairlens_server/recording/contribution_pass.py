"""FullGrad's sums in batches: pictures with different targets share a pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pairlens_server.recording.activations import Activation
from pairlens_server.recording.contributions import contributions
from pairlens_server.recording.passes import Body
from pairlens_server.recording.primitives import GradientContributions, GradientRule, Logits
from pairlens_server.recording.rounds import in_order

Members = Sequence[tuple[GradientContributions, int]]
Wanting = Mapping[GradientContributions | Logits, Sequence[int]]
"""Activations with the pictures of the pass that want them, ascending."""


def contribution_pass(
    body: Body, seen: tuple[int, int], wanted: Wanting, pixels: Tensor
) -> dict[Activation, Tensor]:
    """Record FullGrad's sums [number of pictures, cells + 2], and logits along the way.

    Args:
        body: What runs.
        seen: Height and width of the input that the grid covers.
        wanted: What is wanted of whom.
        pixels: [B, 3, H, W].
    """
    layout = body.facts.layout
    collected: dict[Activation, dict[int, Tensor]] = {a: {} for a in wanted}
    groups: dict[tuple[GradientRule, bool], list[tuple[GradientContributions, int]]] = {}
    for activation, pictures in wanted.items():
        if isinstance(activation, GradientContributions):
            group = groups.setdefault((activation.rule, activation.absolute), [])
            group.extend((activation, picture) for picture in pictures)
    for (rule, absolute), members in groups.items():

        def score(features: Tensor, members: Members = members) -> Tensor:
            if Logits() in collected:
                with torch.no_grad():
                    logits = body.readout.logits(features.detach()).float()
                collected[Logits()].update(zip([p for _, p in members], logits, strict=True))
            return body.readout.scores(features, [a.target for a, _ in members])

        rows = contributions(
            body.readout.features,
            score,
            body.network,
            pixels[[picture for _, picture in members]],
            libra=rule is GradientRule.LIBRA,
            absolute=absolute,
            rows=layout.rows,
            columns=layout.columns,
            size=seen,
        )
        for (activation, picture), row in zip(members, rows, strict=True):
            collected[activation][picture] = row
    return in_order(collected, wanted)
