"""Slow float64 definitions of what recorders take, through timm's own attention in the open.

Nothing here knows the recorders: attention is what timm computes when it does not call the
fused kernel, read where its dropout would act, and gradients are autograd's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from pairlens_server.models.loaded import Family, LoadedModel
from pairlens_server.recording.targets import ClassLogit, ScoreTarget, Similarity


def attention_blocks(network: Any, family: Family) -> list[Any]:
    """Blocks whose attention runs over all tokens, by hand for each family."""
    if family is Family.PIT:
        return list(network.transformers[-1].blocks)
    if family is Family.XCIT:
        return list(network.cls_attn_blocks)
    if family in (Family.VIT, Family.EVA, Family.CONVIT):
        return list(network.blocks)
    return []


@dataclass
class Run:
    """One forward pass of a float64 copy, with a graph from the first attention on.

    Attributes:
        network, projection: The copy.
        attentions: [B, heads, rows, T] of each block, nodes of the graph.
        tokens: What each of these blocks gives out.
        outputs: What the named modules give out, nodes of the graph.
        logits, embedding: [B, classes] and [B, embedding_size].
    """

    network: Any
    projection: nn.Module | None
    attentions: list[Tensor] = field(default_factory=list)
    tokens: list[Tensor] = field(default_factory=list)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    embedding: Tensor = field(default_factory=lambda: torch.empty(0))

    def score(self, target: ScoreTarget) -> Tensor:
        """Score of every picture: [B]."""
        return score_of(target, self.logits, self.embedding)


def score_of(target: ScoreTarget, logits: Tensor, embedding: Tensor) -> Tensor:
    """A logit, or the summed cosine similarity: [B]."""
    if isinstance(target, ClassLogit):
        index = target.class_index
        return logits.amax(1) if index is None else logits[:, index]
    return (embedding / embedding.norm(dim=1, keepdim=True)) @ target.vector.double()


def explicit_run(model: LoadedModel, images: Tensor, layers: Iterable[str] = ()) -> Run:
    """Run a float64 copy of a model with its attention in the open.

    Args:
        model: Stays as it is.
        images: [B, 3, H, W].
        layers: Names of modules whose outputs are kept.
    """
    network: Any = deepcopy(model.network).double()
    projection = None if model.projection is None else deepcopy(model.projection).double()
    run = Run(network, projection)
    for module in network.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    for block in attention_blocks(network, model.family):
        block.attn.attn_drop.register_forward_hook(_kept_in(run.attentions))
        block.register_forward_hook(lambda _m, _i, output: run.tokens.append(output))
    for name in layers:
        network.get_submodule(name).register_forward_hook(_named(run.outputs, name))
    features = network.forward_features(images.double())
    run.logits = network.forward_head(features)
    pooled = network.forward_head(features, pre_logits=True).flatten(1)
    run.embedding = pooled if projection is None else projection(pooled)
    return run


def _node(value: Tensor) -> Tensor:
    return value if value.requires_grad else value.detach().requires_grad_(True)


def _kept_in(kept: list[Tensor]) -> Any:
    def keep(_module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> Tensor:
        kept.append(_node(inputs[0]))
        return kept[-1]

    return keep


def _named(kept: dict[str, Tensor], name: str) -> Any:
    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        # A node of its own: an Identity gives out its input, and activations work in place.
        kept[name] = _node(output.clone())
        return kept[name].clone()

    return keep


def padded(matrix: Tensor, tokens: int) -> Tensor:
    """Zeros for tokens that have not joined yet: [..., T, T]."""
    missing = tokens - matrix.shape[-1]
    return nn.functional.pad(matrix, (missing, 0, missing, 0))


def relevance(run: Run, target: ScoreTarget, readout: Sequence[int], start: int = 0) -> Tensor:
    """Generic attention relevance: R <- R + C R; mean of the readout's rows of R - I, [B, T]."""
    slopes = torch.autograd.grad(run.score(target).sum(), run.attentions, retain_graph=True)
    count = run.attentions[-1].shape[-1]
    total = torch.eye(count, dtype=torch.float64).expand(len(run.embedding), -1, -1)
    for attention, slope in list(zip(run.attentions, slopes, strict=True))[start:]:
        contribution = padded((attention * slope).clamp(min=0).mean(1), count)
        total = total + contribution @ total
    without_own = total - torch.eye(count, dtype=torch.float64)
    return without_own[:, list(readout)].mean(1).detach()


def rollout(
    attentions: Sequence[Tensor],
    readout: Sequence[int],
    *,
    first_block_left: bool = False,
    fusion: str = "mean",
    discard_ratio: float = 0.0,
) -> Tensor:
    """Rollout from attention of every head [B, heads, T, T], entry by entry: [B, T]."""
    count = attentions[-1].shape[-1]
    rows = []
    for picture in range(len(attentions[0])):
        product = torch.eye(count, dtype=torch.float64)
        for attention in attentions:
            heads = padded(attention[picture].double(), count)
            fused = {"mean": heads.mean(0), "max": heads.amax(0), "min": heads.amin(0)}[fusion]
            flat = sorted(range(count * count), key=lambda i: float(fused.flatten()[i]))
            for index in flat[: int(count * count * discard_ratio)]:
                if index:
                    fused[index // count, index % count] = 0
            mixed = torch.zeros(count, count, dtype=torch.float64)
            for i in range(count):
                row = [float(fused[i, j]) + (i == j) for j in range(count)]
                mixed[i] = torch.tensor([value / sum(row) for value in row])
            product = product @ mixed if first_block_left else mixed @ product
        rows.append(product[list(readout)].mean(0))
    return torch.stack(rows)


def le_grad(run: Run, target: ScoreTarget) -> Tensor:
    """LeGrad of a ViT or an EVA: each block's mean token through norm and head, [B, T]."""
    network, maps = run.network, []
    for attention, tokens in zip(run.attentions, run.tokens, strict=True):
        mean = network.fc_norm(network.norm(tokens.mean(1)))
        embedding = mean if run.projection is None else run.projection(mean)
        heads = [network.head] + ([network.head_dist] if hasattr(network, "head_dist") else [])
        logits = torch.stack([head(mean) for head in heads]).mean(0)
        score = score_of(target, logits, embedding).sum()
        (slope,) = torch.autograd.grad(score, attention, retain_graph=True)
        maps.append(slope.clamp(min=0).mean((1, 2)))
    return torch.stack(maps).mean(0).detach()


def similarity(size: int, count: int = 2, seed: int = 2) -> Similarity:
    generator = torch.Generator().manual_seed(seed)
    return Similarity.to(torch.randn(count, size, generator=generator))


def targets_of(model: LoadedModel) -> list[ScoreTarget]:
    targets: list[ScoreTarget] = [similarity(model.embedding_size)]
    return [*targets, ClassLogit(1), ClassLogit(None)] if model.classes else targets


def doubled(model: LoadedModel) -> LoadedModel:
    """The same model in float64, in which a ReLU is on the same side for the oracle."""
    projection = None if model.projection is None else deepcopy(model.projection).double()
    network = deepcopy(model.network).double()
    return replace(model, network=network, projection=projection, dtype=torch.float64)


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    """Equal to a tolerance relative to the largest value."""
    scale = float(expected.detach().abs().max())
    assert scale > 0
    torch.testing.assert_close(
        found.double(), expected.double(), atol=tolerance * scale, rtol=tolerance
    )
