import pytest
import timm
import torch
from timm.layers import SwiGLU
from timm.models.vision_transformer import ParallelScalingBlock, ResPostBlock
from torch import nn

from pairlens_server.recording.relevance import refusal
from pairlens_server.recording.relevance.network import embed, trace_block
from tests.support import pixels, resnet, vit

DISTILLED = "deit_tiny_distilled_patch16_224"


@pytest.mark.parametrize(
    "options",
    [
        {"pooling": "token"},
        {"pooling": "avg"},
        {"pooling": "token", "reg_tokens": 2},
        {"pooling": "token", "architecture": DISTILLED},
        {"pooling": "token", "qk_norm": True, "init_values": 1e-2},
        {"pooling": "token", "act_layer": "quick_gelu"},
        {"pooling": "token", "norm_layer": "rmsnorm"},
    ],
)
def test_plain_networks_are_covered(options):
    assert refusal(vit(**options).network) == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pooling": "max"}, "max pooling"),
        ({"pooling": "token", "block_fn": ResPostBlock}, "ResPostBlock"),
        ({"pooling": "token", "block_fn": ParallelScalingBlock}, "ParallelScalingBlock"),
        ({"pooling": "token", "mlp_layer": SwiGLU}, "SwiGLU"),
        ({"pooling": "token", "scale_attn_norm": True}, "norm before its projection"),
        ({"pooling": "token", "scale_mlp_norm": True}, "norm inside"),
        ({"pooling": "token", "act_layer": "relu"}, "ReLU"),
    ],
)
def test_other_layers_are_refused(options, words):
    assert words in refusal(vit(**options).network)


def test_other_families_are_refused():
    assert "ResNet" in refusal(resnet().network)
    rotary = timm.create_model(
        "eva02_tiny_patch14_224", img_size=28, depth=1, embed_dim=24, num_heads=2
    )
    assert "Eva" in refusal(rotary)


def test_one_odd_block_is_enough():
    network = vit(pooling="token").network
    network.blocks[1].mlp.act = nn.Tanh()
    assert "Tanh" in refusal(network)


@pytest.mark.parametrize(
    "options",
    [
        {"pooling": "token", "init_values": 0.3, "qk_norm": True, "pre_norm": True},
        {"pooling": "token", "architecture": DISTILLED},
        {"pooling": "avg", "no_embed_class": True, "class_token": True},
    ],
)
def test_the_pass_is_timms_own(options):
    model = vit(dtype=torch.float64, **options)
    images = pixels(model).double()
    tokens = embed(model.network, images)
    for block in model.network.blocks[:-1]:
        tokens = trace_block(block, tokens, slice(None)).left
    last = trace_block(model.network.blocks[-1], tokens, [0, 3])
    reference = model.network.forward_intermediates(images, norm=False, indices=1)[1]
    patches = reference[0].flatten(2).mT
    prefix = model.layout.prefix
    if prefix == 0:
        torch.testing.assert_close(last.left, patches[:, [0, 3]], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(last.left[:, 1], patches[:, 3 - prefix], rtol=1e-12, atol=1e-12)
