"""FullGrad's sums in batches: pictures with different targets share a pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pairlens_server.recording.activations import Activation
from pairlens_server.recording.contributions import contributions
from pairlens_server.recording.passes import Body
from pairlens_server.recording.primitives import GradientContributions, GradientRule

Wanting = Mapping[GradientContributions, Sequence[int]]
"""Activations with the pictures of the pass that want them, ascending."""


def contribution_pass(
    body: Body, seen: tuple[int, int], wanted: Wanting, pixels: Tensor
) -> dict[Activation, Tensor]:
    """Record FullGrad's sums: [number of pictures, cells + 2] for each activation.

    Args:
        body: What runs.
        seen: Height and width of the input that the grid covers.
        wanted: What is wanted of whom.
        pixels: [B, 3, H, W].
    """
    layout = body.facts.layout
    collected: dict[GradientContributions, dict[int, Tensor]] = {a: {} for a in wanted}
    groups: dict[tuple[GradientRule, bool], list[tuple[GradientContributions, int]]] = {}
    for activation, pictures in wanted.items():
        group = groups.setdefault((activation.rule, activation.absolute), [])
        group.extend((activation, picture) for picture in pictures)
    for (rule, absolute), members in groups.items():
        targets = [activation.target for activation, _ in members]
        rows = contributions(
            body.readout.features,
            lambda features, targets=targets: body.readout.scores(features, targets),  # type: ignore[misc]
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
    return {a: torch.stack([collected[a][p] for p in wanted[a]]) for a in wanted}
