"""One recorder for all families: the fewest passes for everything that a batch asks for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum

import torch
from torch import Tensor

from pairlens_server.models.loaded import LoadedModel
from pairlens_server.recording.activations import Activation, Wanted, primitives
from pairlens_server.recording.anatomy import anatomy_of
from pairlens_server.recording.attributions import attribution_pass
from pairlens_server.recording.balanced import SoundBatchNorm
from pairlens_server.recording.contribution_pass import contribution_pass
from pairlens_server.recording.facts_of import facts_of
from pairlens_server.recording.keypoints import keypoint_counts
from pairlens_server.recording.layer_scores import layer_score_pass
from pairlens_server.recording.linear_head import linear_head_of
from pairlens_server.recording.passes import Body, InstrumentedPass
from pairlens_server.recording.primitives import (
    FeatureGradient,
    GradientContributions,
    GradientRule,
    GradientWeightedAttention,
    KeypointCounts,
    LayerScoreGradient,
    Logits,
    TransformerAttributionRow,
)
from pairlens_server.recording.products import products
from pairlens_server.recording.readout import Readout
from pairlens_server.recording.rounds import in_order
from pairlens_server.recording.targets import ClassLogit, ScoreTarget


class Kind(Enum):
    """Passes that cannot be one."""

    STILL = "no graph"
    PLAIN = "gradients"
    LIBRA = "LibraGrad's gradients"
    LAYER_SCORES = "LeGrad"
    ATTRIBUTION = "TIBAV"
    CONTRIBUTIONS = "FullGrad"
    PIXELS = "no pass at all"


_PASSES = {
    Kind.STILL: 1.0,
    Kind.PLAIN: 2.5,
    Kind.LIBRA: 3.0,
    Kind.LAYER_SCORES: 2.5,
    Kind.ATTRIBUTION: 10.0,
    Kind.CONTRIBUTIONS: 3.0,
    Kind.PIXELS: 0.0,
}
"""Plain forward passes that a pass takes, as `Method.forward_passes`, to the nearest half."""

_SHORT_GRAPH = 1.5
"""The same of a pass whose graph begins at the layer that CAMs look at by default."""

_RULES = {Kind.STILL: None, Kind.PLAIN: GradientRule.PLAIN, Kind.LIBRA: GradientRule.LIBRA}


class Recorder:
    """Takes activations from a model.

    It hooks into its model while it runs, so only one thread may use it; no hook outlives
    a pass, failed or not.
    """

    def __init__(self, model: LoadedModel):
        anatomy = anatomy_of(model)
        readout = Readout(model, anatomy)
        self._model = model
        settings, layout = model.preprocessing, model.layout
        self._seen = (
            settings.height - layout.unseen_bottom,
            settings.width - layout.unseen_right,
        )
        self.facts = facts_of(model, anatomy, readout)
        linear = linear_head_of(model, readout)
        self._body = Body(model.network, anatomy, readout, self.facts, linear)
        self._products = products(model.device)
        for layer in self._body.attention:
            # The tap reads the kernel's call, which TIMM_FUSED_ATTN=0 would leave out.
            if hasattr(layer, "fused_attn"):
                layer.fused_attn = True  # type: ignore[assignment]

    def record(self, pixels: Tensor, wanted: Wanted) -> dict[Activation, Tensor]:
        """Run the model over a batch and keep what is wanted.

        Pictures that need a graph and pictures that need none run apart, so that nobody
        pays for a batch mate's backward pass.

        Args:
            pixels: float32 [B, 3, H, W], normalised, on any device.
            wanted: Primitive activations, each with the pictures that want it.

        Returns:
            float32 tensors on the model's device, [len(wanted[a]), ...] for activation a.
        """
        inputs = pixels.to(self._model.device, self._model.dtype, non_blocking=True)
        pieces: dict[Activation, dict[int, Tensor]] = {a: {} for a in wanted}
        whole: dict[Activation, Tensor] = {}
        for kind, asked in self._shared_out(wanted).items():
            pictures = sorted({p for wanting in asked.values() for p in wanting})
            everyone = len(pictures) == len(inputs)
            place = {picture: row for row, picture in enumerate(pictures)}
            local = {a: [place[p] for p in wanting] for a, wanting in asked.items()}
            with self._products:
                found = self._run(kind, inputs if everyone else inputs[pictures], local)
            for activation, wanting in asked.items():
                if list(wanting) == list(wanted[activation]):
                    whole[activation] = found[activation]
                else:
                    rows = zip(wanting, found[activation], strict=True)
                    pieces[activation].update(rows)
        return whole | in_order(pieces, {a: wanted[a] for a, rows in pieces.items() if rows})

    def cost(self, activations: Iterable[Activation]) -> float:
        """Plain forward passes of one picture that recording these of it takes, about.

        A multiple of 1/2, so that sums are exact, and at least 1. Any thread may ask.
        """
        wanted = dict.fromkeys(primitives(activations, self.facts), (0,))
        passes = self._shared_out(wanted)
        return sum((self._passes(kind, asked) for kind, asked in passes.items()), 0.0) or 1.0

    def scores(self, pixels: Tensor, target: ScoreTarget) -> Tensor:
        """See `ProbeModel.scores`."""
        with torch.no_grad(), self._products:
            inputs = pixels.to(self._model.device, self._model.dtype)
            features = self._body.readout.features(inputs)
            return self._body.readout.scores(features, [target] * len(pixels))

    def log_probabilities(self, pixels: Tensor) -> Tensor:
        """See `ProbeModel.log_probabilities`."""
        with torch.no_grad(), self._products:
            inputs = pixels.to(self._model.device, self._model.dtype)
            logits = self._body.readout.logits(self._body.readout.features(inputs))
            return torch.log_softmax(logits.double(), dim=1).float()

    def embeddings(self, pixels: Tensor) -> Tensor:
        """See `ProbeModel.embeddings`."""
        with torch.no_grad(), self._products:
            inputs = pixels.to(self._model.device, self._model.dtype)
            return self._body.readout.embedding(self._body.readout.features(inputs))

    def input_gradients(self, pixels: Tensor, target: ScoreTarget) -> Tensor:
        """See `ProbeModel.input_gradients`."""
        with torch.enable_grad(), self._products, SoundBatchNorm():
            inputs = pixels.to(self._model.device, self._model.dtype).detach().requires_grad_()
            features = self._body.readout.features(inputs)
            total = self._body.readout.scores(features, [target] * len(pixels)).sum()
            (slopes,) = torch.autograd.grad(total, inputs)
        return slopes.float()

    def _kind(self, activation: Activation) -> Kind:
        if isinstance(activation, FeatureGradient):
            if self._body.is_closed(activation):
                return Kind.STILL
            return Kind.PLAIN if activation.rule is GradientRule.PLAIN else Kind.LIBRA
        kinds: dict[type[Activation], Kind] = {
            GradientWeightedAttention: Kind.PLAIN,
            LayerScoreGradient: Kind.LAYER_SCORES,
            TransformerAttributionRow: Kind.ATTRIBUTION,
            GradientContributions: Kind.CONTRIBUTIONS,
            KeypointCounts: Kind.PIXELS,
        }
        return kinds.get(type(activation), Kind.STILL)

    def _passes(self, kind: Kind, asked: Iterable[Activation]) -> float:
        gradients = [a for a in asked if self._kind(a) is not Kind.STILL]
        shallow = all(
            isinstance(a, FeatureGradient) and a.layer == self.facts.cam_layer for a in gradients
        )
        graph = kind in (Kind.PLAIN, Kind.LIBRA) and shallow
        return _SHORT_GRAPH if graph else _PASSES[kind]

    def _shared_out(self, wanted: Wanted) -> dict[Kind, dict[Activation, list[int]]]:
        """Activations by kind of pass; what needs no graph rides along where one is built."""
        host_of: dict[int, Kind] = {}
        logits_from: dict[int, Kind] = {}
        for activation, pictures in wanted.items():
            kind = self._kind(activation)
            for picture in pictures:
                if kind in (Kind.PLAIN, Kind.LIBRA) and host_of.get(picture) is not Kind.PLAIN:
                    host_of[picture] = kind
                if self._gives_logits(activation, kind):
                    logits_from[picture] = kind
        shared: dict[Kind, dict[Activation, list[int]]] = {}
        for activation, pictures in wanted.items():
            kind = self._kind(activation)
            for picture in pictures:
                own = kind
                if isinstance(activation, Logits) and picture in logits_from:
                    own = logits_from[picture]
                elif kind is Kind.STILL:
                    own = host_of.get(picture, kind)
                shared.setdefault(own, {}).setdefault(activation, []).append(picture)
        return shared

    def _gives_logits(self, activation: Activation, kind: Kind) -> bool:
        """Whether a pass of its own kind has the logits of a plain pass along the way."""
        if kind in (Kind.LAYER_SCORES, Kind.CONTRIBUTIONS):
            return True
        # TIBAV computes in float32 or float64, whatever the model does.
        by_class = isinstance(getattr(activation, "target", None), ClassLogit)
        return kind is Kind.ATTRIBUTION and by_class and self._model.dtype is torch.float32

    def _run(
        self, kind: Kind, pixels: Tensor, wanted: Mapping[Activation, Sequence[int]]
    ) -> dict[Activation, Tensor]:
        if kind is Kind.LAYER_SCORES:
            of_layers = (LayerScoreGradient, Logits)
            layer_scores = {a: p for a, p in wanted.items() if isinstance(a, of_layers)}
            return layer_score_pass(self._body, layer_scores, pixels)
        if kind is Kind.ATTRIBUTION:
            kinds = (TransformerAttributionRow, Logits)
            rows = {a: p for a, p in wanted.items() if isinstance(a, kinds)}
            return attribution_pass(self._body, self._model.projection, rows, pixels)
        if kind is Kind.CONTRIBUTIONS:
            of_sums = (GradientContributions, Logits)
            sums = {a: p for a, p in wanted.items() if isinstance(a, of_sums)}
            return contribution_pass(self._body, self._seen, sums, pixels)
        if kind is Kind.PIXELS:
            return self._keypoints(wanted, pixels)
        return InstrumentedPass(self._body, wanted, _RULES[kind]).run(pixels)

    def _keypoints(
        self, wanted: Mapping[Activation, Sequence[int]], pixels: Tensor
    ) -> dict[Activation, Tensor]:
        settings, layout = self._model.preprocessing, self._model.layout
        found: dict[Activation, Tensor] = {}
        for activation, pictures in wanted.items():
            assert isinstance(activation, KeypointCounts)
            counts = [
                keypoint_counts(
                    pixels[picture],
                    settings.mean,
                    settings.std,
                    layout,
                    dedupe=activation.dedupe,
                )
                for picture in pictures
            ]
            found[activation] = torch.stack(counts).float().to(pixels.device)
        return found
