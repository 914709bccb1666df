"""FullGrad: what the input and every additive constant give a score, by place.

Srinivas and Fleuret, "Full-Gradient Representation for Neural Network Visualization"
(NeurIPS 2019), equation 2: score = Σ input ⊙ gradient + Σ bias ⊙ gradient, exactly for
ReLU networks, and for all networks under LibraGrad's gradients (`recording.libra`). The constants
are met where they are added, by function and not by module: biases of linear layers,
convolutions and norms, the shift of batch norm, position embeddings, class and register
tokens. Each is multiplied with the gradient at the place that it is added to, so that one
backward pass serves a batch, without gradients of parameters (which are sums over it).

Of the paper's post-processing ψ only the absolute value is offered: of each layer's map, summed
over its channels, before layers are added. The authors' code takes it in each channel and
rescales every layer to [0, 1], which no longer says how much a layer contributes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from timm.layers.filter_response_norm import FilterResponseNormTlu2d
from torch import Tensor, nn

from pairlens_server.recording.cells import CellSums
from pairlens_server.recording.constants import ConstantTap
from pairlens_server.recording.libra import LibraGradients


def contributions(
    forward: Callable[[Tensor], Tensor],
    score: Callable[[Tensor], Tensor],
    network: nn.Module,
    pixels: Tensor,
    *,
    libra: bool,
    absolute: bool,
    rows: int,
    columns: int,
    size: tuple[int, int],
) -> Tensor:
    """Sum contributions to each picture's score by cell of the model's grid.

    Args:
        forward: Pixels to features, as `families.forward_features`.
        score: Features to one number per picture [B]. It runs under the rule as well, so that
            the length by which a cosine divides counts as a constant under LibraGrad.
        network: What `forward` and `score` run: in eval mode, parameters frozen.
        pixels: [B, 3, H, W] in the network's dtype.
        libra: Take LibraGrad's gradients: without `absolute`, cells and rest sum to the score.
        absolute: See the module.
        rows: Of the grid.
        columns: Of the grid.
        size: Height and width in pixels of what the grid covers.

    Returns:
        [B, rows * columns + 2], float32 (float64 of a float64 network): cells row by row; what
        lies on no cell (prefix tokens, vectors after pooling, the head's bias, pixels
        beyond the grid, padding of windows); the score.
    """
    inputs = pixels.detach().requires_grad_(True)
    sums = CellSums(inputs, (rows, columns), size, absolute)
    tap = ConstantTap(network, len(inputs), sums)
    with torch.enable_grad():
        # The tap is entered last: it sees every call first and passes it on to the rule.
        with LibraGradients(network) if libra else nullcontext(), tap:
            features = forward(inputs)
            tap.after_features = True
            scores = score(features)
        (slope,) = torch.autograd.grad(scores.sum(), inputs)
    sums.add_map((inputs.detach() * slope).sum(1))
    by_cell = sums.sums()
    return torch.cat((by_cell, scores.detach()[:, None].to(by_cell)), dim=1)


def refusal(network: nn.Module) -> str:
    """Say why a network's constants cannot be told, "" if they can."""
    for module in network.modules():
        if isinstance(module, FilterResponseNormTlu2d):
            return "FullGrad cannot place the learned thresholds of the network's norms"
    return ""
