"""Finding out what a loaded model can give."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pairlens_server.models.loaded import Family, LoadedModel
from pairlens_server.recording import contributions, libra, relevance
from pairlens_server.recording.anatomy import Anatomy
from pairlens_server.recording.facts import ModelFacts, Refusals
from pairlens_server.recording.layers import find_layers
from pairlens_server.recording.readout import Readout

_NO_CLASSES = "the model has no class head, so there is no logit to explain"


def facts_of(model: LoadedModel, anatomy: Anatomy, readout: Readout) -> ModelFacts:
    """Look a model over; runs it once on empty pictures."""
    settings = model.preprocessing
    size = (2, 3, settings.height, settings.width)  # two: see find_layers
    layers = find_layers(
        model.network,
        readout.features,
        torch.zeros(size, device=model.device, dtype=model.dtype),
        prefix=model.layout.prefix,
        channels_last=anatomy.channels_last,
    )
    hidden = tuple(name for name in anatomy.hidden if name in layers)
    red, green, blue = (-mean / std for mean, std in zip(settings.mean, settings.std, strict=True))
    return ModelFacts(
        layout=model.layout,
        blocks=len(anatomy.attention),
        heads=model.heads if anatomy.attention else 0,
        classes=model.classes,
        embedding_size=model.embedding_size,
        embedding_constant=readout.constant,
        pooled=readout.pooled,
        first_readout_block=anatomy.first_readout_block,
        cam_layer=anatomy.cam_layer if anatomy.cam_layer in layers else "",
        layers=layers,
        hidden_layers=hidden,
        hidden_units=tuple(_width(model.network.get_submodule(name)) for name in hidden),
        black=(red, green, blue),
        refusals=_refusals(model, anatomy, bool(hidden)),
    )


def _width(layer: Any) -> int:
    return int(layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels)


def _refusals(model: LoadedModel, anatomy: Anatomy, hidden: bool) -> Refusals:
    plain = model.family in (Family.VIT, Family.EVA)
    layer_scores = anatomy.no_layer_scores
    if not layer_scores and not plain:
        layer_scores = "LeGrad reads every block by the model's own norm and head"
    places = ""
    if model.pooling not in ("token", "avg", "max"):
        places = f"under {model.pooling or 'no'} pooling no token can be read alone"
    elif getattr(model.network, "aggregate", None) is not None:
        places = "its head mixes tokens of several grids"
    return Refusals(
        readout=anatomy.no_readout,
        matrix=anatomy.no_matrix,
        classes="" if model.classes else _NO_CLASSES,
        parts=anatomy.no_parts,
        places=places,
        relevance=anatomy.no_readout or anatomy.no_matrix,
        attribution=anatomy.no_readout or anatomy.no_matrix or relevance.refusal(model.network),
        layer_scores=layer_scores,
        libra=libra.refusal(model.network),
        contributions=contributions.refusal(model.network),
        hidden="" if hidden else "it has no MLP blocks with a hidden layer on a grid",
    )
