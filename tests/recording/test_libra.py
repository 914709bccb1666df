from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pairlens_server.models import families
from pairlens_server.recording.balanced import SoundBatchNorm
from pairlens_server.recording.libra import LibraGradients, refusal
from tests.zoo import wild, zoo

ZOO = zoo()
EVERY = pytest.mark.parametrize("name", list(ZOO))


def double(name: str) -> Any:
    return ZOO[name].network().double()


def pictures(name: str, count: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    size = ZOO[name].size
    return torch.randn(count, 3, *size, generator=generator, dtype=torch.float64)


def score(network: Any, pixels: Tensor) -> Tensor:
    """A fixed mix of the outputs of each picture."""
    outputs = families.forward_head(network, families.forward_features(network, pixels))
    mix = torch.randn(outputs.shape[1], generator=torch.Generator().manual_seed(7))
    return outputs @ mix.to(outputs)


def gradient(network: nn.Module, pixels: Tensor) -> Tensor:
    inputs = pixels.clone().requires_grad_()
    with LibraGradients(network):
        scores = score(network, inputs)
    return torch.autograd.grad(scores.sum(), inputs)[0]


def constants(network: nn.Module) -> dict[nn.Parameter, Tensor]:
    """Parameters that a network adds, made to require gradients, and what it adds with each."""
    found = {
        parameter: parameter.detach().clone()
        for name, parameter in network.named_parameters()
        if name.endswith("bias") or "token" in name.rpartition(".")[2] or "pos_embed" in name
    }
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            scale = module.weight / (module.running_var + module.eps).sqrt()
            found[module.bias] -= (module.running_mean * scale).detach()
    for parameter in found:
        parameter.requires_grad_()
    return found


def check_complete(network: nn.Module, pixels: Tensor) -> None:
    """Score = Σ input ⊙ gradient + Σ constants ⊙ gradients, of one picture."""
    plain = score(network, pixels)
    added = constants(network)
    inputs = pixels.clone().requires_grad_()
    with LibraGradients(network):
        (found,) = score(network, inputs)
    assert torch.equal(found, plain[0])
    slopes = torch.autograd.grad(found, [inputs, *added], allow_unused=True)
    assert slopes[0] is not None
    terms = [(inputs * slopes[0]).flatten()]
    terms += [
        (value * slope).flatten()
        for value, slope in zip(added.values(), slopes[1:], strict=True)
        if slope is not None
    ]
    every = torch.cat(terms)
    assert abs(every.sum() - found) <= 1e-12 * every.abs().sum()


@EVERY
def test_a_network_is_linear_in_its_input_and_its_constants(name: str) -> None:
    assert refusal(double(name)) == ""
    check_complete(double(name), pictures(name))


@EVERY
def test_each_picture_of_a_batch_has_its_own_gradient(name: str) -> None:
    network, pixels = double(name), pictures(name, 3)
    alone = torch.cat([gradient(network, pixels[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(gradient(network, pixels), alone, rtol=1e-12, atol=1e-12)


@EVERY
def test_fused_and_written_out_attention_agree(name: str) -> None:
    network, pixels = double(name), pictures(name)
    fused = gradient(network, pixels)
    for module in network.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    eager = gradient(network, pixels)
    assert (fused - eager).abs().max() <= 1e-12 * fused.abs().max()


TINY = {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 8, "img_size": (16, 24)}
RESNET = {"channels": [8, 16, 16, 32], "num_classes": 5}


@pytest.mark.parametrize(
    ("architecture", "options", "size"),
    [
        ("vit_tiny_patch16_224", {**TINY, "global_pool": "map"}, (16, 24)),
        ("vit_tiny_patch16_224", {**TINY, "global_pool": "prr"}, (16, 24)),
        ("vit_tiny_patch16_224", {**TINY, "norm_layer": "rmsnorm"}, (16, 24)),
        ("vit_tiny_patch16_224", {**TINY, "act_layer": "mish"}, (16, 24)),
        ("vit_tiny_patch16_224", {**TINY, "act_layer": "gelu_tanh"}, (16, 24)),
        ("vit_giant_patch14_dinov2", {**TINY, "mlp_ratio": 4}, (16, 24)),
        ("eva_giant_patch14_224", {**TINY, "use_post_norm": True}, (16, 24)),
        ("convnext_zepto_rms_ols", {"dims": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}, (64, 64)),
        ("resnet18", {**RESNET, "block_args": {"attn_layer": "se"}}, (32, 64)),
        ("resnet18", {**RESNET, "act_layer": "silu"}, (32, 64)),
        ("resnest14d", {"num_classes": 5}, (32, 64)),
        ("skresnet18", RESNET, (32, 64)),
        ("resnet50_gn", {"channels": [128] * 4, "num_classes": 5}, (32, 64)),
    ],
)
def test_other_norms_activations_and_poolings_are_linear_too(
    architecture: str, options: dict[str, Any], size: tuple[int, int]
) -> None:
    network = wild(timm.create_model(architecture, **options)).eval().requires_grad_(False)
    pixels = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(3)).double()
    check_complete(network.double(), pixels)


def mean_and_inverse(x: Tensor, dims: Any) -> tuple[Tensor, Tensor]:
    return x.mean(dims, keepdim=True), (x.var(dims, unbiased=False, keepdim=True) + 1e-5).rsqrt()


def slow_layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    mean, inverse = mean_and_inverse(x, -1)
    return (x - mean) * inverse.detach() * weight + bias


def slow_group_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    groups = x.unflatten(1, (2, -1))
    mean, inverse = mean_and_inverse(groups, (2, 3, 4))
    normed = ((groups - mean) * inverse.detach()).flatten(1, 2)
    return normed * weight[:, None, None] + bias[:, None, None]


FORMULAS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "layer norm": (
        lambda x, w, b: F.layer_norm(x, (6,), w, b),
        slow_layer_norm,
    ),
    "group norm": (lambda x, w, b: F.group_norm(x, 2, w, b), slow_group_norm),
    "instance norm": (
        lambda x, w, b: F.instance_norm(x),
        lambda x, w, b: (
            (x - mean_and_inverse(x, (2, 3))[0]) * mean_and_inverse(x, (2, 3))[1].detach()
        ),
    ),
    "rms norm": (
        lambda x, w, b: F.rms_norm(x, (6,), w, 1e-5),
        lambda x, w, b: x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt().detach() * w,
    ),
    "gelu": (
        lambda x, w, b: F.gelu(x),
        lambda x, w, b: x * (0.5 * torch.erfc(-x / 2**0.5)).detach(),
    ),
    "gelu by tanh": (
        lambda x, w, b: F.gelu(x, approximate="tanh"),
        lambda x, w, b: (
            x * (0.5 + 0.5 * torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))).detach()
        ),
    ),
    "silu": (lambda x, w, b: F.silu(x), lambda x, w, b: x / (1 + (-x).exp()).detach()),
    "quick gelu": (
        lambda x, w, b: x * torch.sigmoid(1.702 * x),
        lambda x, w, b: x / (1 + (-1.702 * x).exp()).detach(),
    ),
    "normalize": (
        lambda x, w, b: F.normalize(x, dim=1),
        lambda x, w, b: x / x.square().sum(1, keepdim=True).sqrt().detach(),
    ),
    "attention": (
        lambda x, w, b: F.scaled_dot_product_attention(2 * x, x, 3 * x),
        lambda x, w, b: (2 * x @ x.mT / 6**0.5).softmax(-1).detach() @ (3 * x),
    ),
}


@pytest.mark.parametrize("formula", list(FORMULAS))
def test_functions_follow_the_formulas(formula: str) -> None:
    function, slow = FORMULAS[formula]
    generator = torch.Generator().manual_seed(5)
    x, upstream = torch.randn(2, 2, 6, 4, 6, generator=generator, dtype=torch.float64)
    x[0, 0, 0, 0] = 0.0
    weight, bias = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    leaves = [leaf.requires_grad_() for leaf in (x, bias)]
    plain = function(x, weight, bias)
    with LibraGradients(nn.Identity()):
        found = function(x, weight, bias)
    expected = slow(x, weight, bias)
    torch.testing.assert_close(found, plain, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for got, wanted in zip(
        torch.autograd.grad(found, leaves, upstream, allow_unused=True),
        torch.autograd.grad(expected, leaves, upstream, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


def test_a_cosine_is_linear_in_the_embedding() -> None:
    embedding = torch.tensor([3.0, 4.0], requires_grad=True)
    direction = torch.tensor([1.0, 0.0])
    with LibraGradients(nn.Identity()):
        cosine = embedding @ direction / embedding.norm()
    (slope,) = torch.autograd.grad(cosine, embedding)
    assert cosine.item() == pytest.approx(0.6)
    assert slope.tolist() == pytest.approx([0.2, 0.0])


@pytest.mark.parametrize("name", ["eva02", "coat"])
def test_nothing_stays_after_the_pass_even_a_failed_one(name: str) -> None:
    network, pixels = double(name), pictures(name)

    def plain() -> Tensor:
        inputs = pixels.clone().requires_grad_()
        return torch.autograd.grad(score(network, inputs).sum(), inputs)[0]

    before = plain()
    with pytest.raises(RuntimeError), LibraGradients(network):
        score(network, pixels[:, :1])
    assert not any(module._forward_hooks for module in network.modules())
    assert torch.equal(plain(), before)
    assert (gradient(network, pixels) - before).norm() > 0.1 * before.norm()


def test_layers_that_multiply_two_parts_of_the_picture_are_refused() -> None:
    network = timm.create_model("resnet18", block_args={"attn_layer": "lambda"}, **RESNET)
    assert "LambdaLayer" in refusal(network)


def test_one_picture_alone_has_sound_gradients_through_batch_norm() -> None:
    network, pixels = double("xcit"), pictures("xcit", 2)
    inputs = pixels.clone().requires_grad_()
    (together,) = torch.autograd.grad(score(network, inputs).sum(), inputs)
    alone = pixels[:1].clone().requires_grad_()
    with SoundBatchNorm():
        scores = score(network, alone)
    (slope,) = torch.autograd.grad(scores.sum(), alone)
    torch.testing.assert_close(slope, together[:1], rtol=1e-10, atol=1e-12)
