"""One instrumented pass over some pictures of a batch: without a graph, or with one.

Nothing is computed below the first tensor that a gradient is wanted of: parameters
are frozen and the tensor is cut from what came before, so that a CAM at the last
block's first norm runs backward through the head and that block alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pairlens_server.recording.activations import Activation
from pairlens_server.recording.anatomy import Anatomy
from pairlens_server.recording.attention import AttentionReading
from pairlens_server.recording.attention_readings import (
    OfAttention,
    attend_in_the_open,
    pad_matrix,
    read,
)
from pairlens_server.recording.balanced import SoundBatchNorm
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.layers import as_maps
from pairlens_server.recording.libra import LibraGradients
from pairlens_server.recording.linear_head import LinearHead
from pairlens_server.recording.primitives import (
    Embedding,
    FeatureGradient,
    FeatureMap,
    FusedAttention,
    GradientRule,
    GradientWeightedAttention,
    HiddenActivations,
    Logits,
    PooledParts,
    ProjectedTokens,
)
from pairlens_server.recording.readout import Readout
from pairlens_server.recording.rounds import in_order, rounds
from pairlens_server.recording.tap import AttentionTap

Local = Mapping[Activation, Sequence[int]]
"""Activations with the pictures of the pass that want them, ascending."""


@dataclass(frozen=True, eq=False)
class Body:
    """What a pass runs: a network, where its things are, and how its head reads.

    Attributes:
        linear_head: Closed form of gradients at `facts.cam_layer`, where there is one.
    """

    network: nn.Module
    anatomy: Anatomy
    readout: Readout
    facts: ModelFacts
    linear_head: LinearHead | None

    def is_closed(self, activation: Activation) -> bool:
        """Whether a gradient needs no backward pass: `LinearHead` has it."""
        return (
            isinstance(activation, FeatureGradient)
            and self.linear_head is not None
            and activation.layer == self.facts.cam_layer
        )

    def module(self, name: str) -> nn.Module:
        """A module of the network by its name."""
        return self.network.get_submodule(name)

    @property
    def attention(self) -> list[nn.Module]:
        """Attention modules of the blocks, in order."""
        return [self.module(name) for name in self.anatomy.attention]


def _leaf(output: Tensor) -> Tensor:
    """The tensor itself where a graph leads to it, else a cut where one begins."""
    if output.requires_grad or not torch.is_grad_enabled():
        return output
    return output.detach().requires_grad_(True)


class InstrumentedPass:
    """Runs the network once and keeps what is wanted.

    Args:
        body: What runs.
        wanted: Activations without a graph, and gradients of one rule.
        rule: Of the gradients; None when there are none.
    """

    def __init__(self, body: Body, wanted: Local, rule: GradientRule | None):
        self._body = body
        self._wanted = wanted
        self._rule = rule
        self._found: dict[Activation, Tensor] = {}
        self._readings: dict[int, AttentionReading] = {}
        self._points: dict[object, Tensor] = {}  # what is differentiated by, by block or layer

    def run(self, pixels: Tensor) -> dict[Activation, Tensor]:
        """Record pixels [B, 3, H, W]: [number of pictures, ...] for each activation."""
        body = self._body
        with ExitStack() as stack:
            stack.enter_context(torch.set_grad_enabled(self._rule is not None))
            for name, hook in self._hooks():
                stack.callback(body.module(name).register_forward_hook(hook).remove)
            blocks = self._blocks()
            if blocks:
                stack.enter_context(AttentionTap(body.attention, blocks, self._on_attention))
            with self._rule_mode():
                features = body.readout.features(pixels)
                if self._rule is not None:
                    self._differentiate(features)
        with torch.no_grad():
            self._read_out(features.detach())
        return self._found

    def _rule_mode(self) -> AbstractContextManager[object]:
        if self._rule is None:
            return nullcontext()
        is_libra = self._rule is GradientRule.LIBRA
        return LibraGradients(self._body.network) if is_libra else SoundBatchNorm()

    @property
    def _wants_matrices_alone(self) -> bool:
        # Everything else has the same bits whatever shares its pass, which the kernel gives.
        return all(isinstance(activation, FusedAttention) for activation in self._wanted)

    def _of(self, kind: type[Activation]) -> list[tuple[Activation, list[int]]]:
        return [(a, list(p)) for a, p in self._wanted.items() if isinstance(a, kind)]

    def _blocks(self) -> list[int]:
        kinds = (*OfAttention.__args__, GradientWeightedAttention)
        return sorted({a.block for a in self._wanted if isinstance(a, kinds)})

    def _hooks(self) -> list[tuple[str, Callable[..., object]]]:
        """Forward hooks by module name."""
        layers = {
            a.layer
            for a in self._wanted
            if isinstance(a, (FeatureMap, FeatureGradient)) and not self._body.is_closed(a)
        }
        hooks: list[tuple[str, Callable[..., object]]] = [
            (layer, self._keep_layer(layer)) for layer in layers
        ]
        for activation, pictures in self._of(HiddenActivations):
            assert isinstance(activation, HiddenActivations)
            name = self._body.facts.hidden_layers[activation.block]
            hooks.append((name, self._keep_hidden(activation, pictures)))
        return hooks

    def _keep_layer(self, layer: str) -> Callable[..., object]:
        # Copies: what follows may work in place, and an Identity gives out what others hold.
        def keep(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            self._points[layer] = _leaf(output.clone())
            return self._points[layer].clone()

        return keep

    def _keep_hidden(
        self, activation: HiddenActivations, pictures: list[int]
    ) -> Callable[..., object]:
        name = self._body.facts.hidden_layers[activation.block]
        grid = self._body.facts.layers[name]

        def keep(_module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
            self._found[activation] = as_maps(inputs[0].detach()[pictures], grid)

        return keep

    def _on_attention(
        self, block: int, reading: AttentionReading, attend: Callable[[], Tensor]
    ) -> Tensor:
        here = {
            a: list(pictures)
            for a, pictures in self._wanted.items()
            if isinstance(a, OfAttention) and a.block == block
        }
        layout = self._body.facts.layout
        opened = attend_in_the_open(here, reading, layout) if self._wants_matrices_alone else None
        if opened is None:
            output = attend()
        else:
            first, self._found[first], output = opened
            del here[first]
        with torch.no_grad():
            for activation, pictures in here.items():
                self._found[activation] = read(activation, reading, pictures, layout)
        wanted = (a for a in self._wanted if isinstance(a, GradientWeightedAttention))
        if not any(a.block == block for a in wanted):
            return output
        self._readings[block] = reading
        self._points[block] = _leaf(output)
        return self._points[block]

    def _differentiate(self, features: Tensor) -> None:
        gradients = [
            (a, list(p))
            for a, p in self._wanted.items()
            if isinstance(a, (FeatureGradient, GradientWeightedAttention))
            and not self._body.is_closed(a)
        ]
        passes = rounds((a.target, pictures) for a, pictures in gradients)
        collected: dict[Activation, dict[int, Tensor]] = {a: {} for a, _ in gradients}
        for number, targets in enumerate(passes, start=1):
            pictures = sorted(targets)
            scores = self._body.readout.scores(features[pictures], [targets[p] for p in pictures])
            points = {_point(a): self._points[_point(a)] for a, _ in gradients}
            slopes = _gradients(scores, list(points.values()), keep=number < len(passes))
            for point, slope in zip(points, slopes, strict=True):
                # One call for all pictures, whatever the target of each.
                owners = {
                    p: a
                    for a, wanting in gradients
                    for p in wanting
                    if _point(a) == point and targets.get(p) == a.target
                }
                if owners:
                    mine = sorted(owners)
                    rows = self._finish(owners[mine[0]], slope, mine)
                    for picture, row in zip(mine, rows, strict=True):
                        collected[owners[picture]][picture] = row
        self._found |= in_order(collected, dict(gradients))

    @torch.no_grad()
    def _finish(
        self,
        activation: FeatureGradient | GradientWeightedAttention,
        slopes: Tensor,
        pictures: list[int],
    ) -> Tensor:
        if isinstance(activation, FeatureGradient):
            return as_maps(slopes[pictures], self._body.facts.layers[activation.layer])
        reading = self._readings[activation.block]
        return pad_matrix(
            reading.gradient_weighted(slopes[pictures], pictures), self._body.facts.layout
        )

    def _read_out(self, features: Tensor) -> None:
        readout = self._body.readout
        for activation, rows in self._wanted.items():
            pictures = list(rows)
            if isinstance(activation, Logits):
                self._found[activation] = readout.logits(features[pictures]).float()
            elif isinstance(activation, Embedding):
                self._found[activation] = readout.embedding(features[pictures])
            elif isinstance(activation, PooledParts):
                self._found[activation] = readout.parts(features[pictures])
            elif isinstance(activation, ProjectedTokens):
                self._found[activation] = readout.places(features[pictures])
            elif isinstance(activation, FeatureMap):
                output = self._points[activation.layer].detach()[pictures]
                self._found[activation] = as_maps(output, self._body.facts.layers[activation.layer])
            elif isinstance(activation, FeatureGradient) and self._body.is_closed(activation):
                assert self._body.linear_head is not None
                slopes = self._body.linear_head.gradients(
                    features[pictures], activation.target, activation.rule
                )
                grid = self._body.facts.layers[activation.layer]
                self._found[activation] = slopes.expand(-1, -1, grid.rows, grid.columns)


def _gradients(scores: Tensor, points: list[Tensor], *, keep: bool) -> list[Tensor]:
    """Gradients of the summed scores, zero at points that a rule holds constant."""
    if not scores.requires_grad:
        return [torch.zeros_like(point) for point in points]
    slopes = torch.autograd.grad(scores.sum(), points, retain_graph=keep, allow_unused=True)
    return [
        torch.zeros_like(point) if slope is None else slope
        for point, slope in zip(points, slopes, strict=True)
    ]


def _point(activation: FeatureGradient | GradientWeightedAttention) -> object:
    return activation.layer if isinstance(activation, FeatureGradient) else activation.block
