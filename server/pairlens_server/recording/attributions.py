"""TIBAV in batches: pictures with different targets share a pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pairlens_server.recording.activations import Activation
from pairlens_server.recording.passes import Body
from pairlens_server.recording.primitives import Logits, TransformerAttributionRow
from pairlens_server.recording.relevance import (
    ClassSeed,
    Seed,
    SimilaritySeed,
    transformer_attribution,
)
from pairlens_server.recording.rounds import in_order
from pairlens_server.recording.targets import ClassLogit, ScoreTarget, Similarity

Wanting = Mapping[TransformerAttributionRow | Logits, Sequence[int]]
"""Activations with the pictures of the pass that want them, ascending."""


def attribution_pass(
    body: Body, projection: nn.Linear | None, wanted: Wanting, pixels: Tensor
) -> dict[Activation, Tensor]:
    """Record TIBAV's rows [number of pictures, tokens + 1], and logits along the way.

    Args:
        body: What runs.
        projection: Of the model.
        wanted: What is wanted of whom.
        pixels: [B, 3, H, W].
    """
    collected: dict[Activation, dict[int, Tensor]] = {a: {} for a in wanted}
    groups: dict[tuple[int, bool, type], list[tuple[TransformerAttributionRow, int]]] = {}
    for activation, pictures in wanted.items():
        if isinstance(activation, TransformerAttributionRow):
            how = (activation.start_block, activation.single_precision, type(activation.target))
            groups.setdefault(how, []).extend((activation, picture) for picture in pictures)
    for (start_block, single, kind), members in groups.items():
        found = transformer_attribution(
            body.network,
            pixels[[picture for _, picture in members]],
            _seed([activation.target for activation, _ in members], projection),
            readout=body.facts.layout.readout,
            start_block=start_block,
            dtype=torch.float32 if single else torch.float64,
        )
        rows = torch.cat([found.row, found.drift[:, None]], dim=1).float()
        for number, (activation, picture) in enumerate(members):
            collected[activation][picture] = rows[number]
            if kind is ClassLogit and Logits() in collected:
                collected[Logits()][picture] = found.reading[number].float()
    return in_order(collected, wanted)


def _seed(targets: Sequence[ScoreTarget], projection: nn.Linear | None) -> Seed:
    classes = [t.class_index for t in targets if isinstance(t, ClassLogit)]
    if classes:
        return ClassSeed(torch.tensor([-1 if c is None else c for c in classes]))
    directions = [t.vector for t in targets if isinstance(t, Similarity)]
    return SimilaritySeed(torch.stack(directions), projection)
