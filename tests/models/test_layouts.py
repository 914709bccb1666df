"""Every published layout gives the source network's output.

The layouts are built from tiny networks as their trainers save them.
"""

from __future__ import annotations

import argparse
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from pairlens_server.models.checkpoints import read_checkpoint
from pairlens_server.models.families import forward_features, forward_head
from pairlens_server.models.layouts import (
    SEPARATE_HEADS,
    fit_positions,
    linear_layer,
    remap,
    without_derived,
)
from pairlens_server.models.loading import load_model

from . import of_zoo
from .conftest import config, pictures, randomise, source
from .of_zoo import ZOO, from_state

Write = Callable[[str, Any], Path]
State = dict[str, Tensor]


def prefixed(state: State, prefix: str) -> State:
    return OrderedDict((prefix + name, value) for name, value in state.items())


def mlp(prefix: str, width: int = 32) -> State:
    """A projection head as MoCo v3 puts it in the place of the linear one."""
    layers = nn.Sequential(
        nn.Linear(width, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8, bias=False)
    )
    return prefixed(layers.state_dict(), prefix)


def dino_head(prefix: str, *, ibot: bool = False) -> State:
    names = ["mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "last_layer.weight_g"]
    names += ["last_layer.weight_v"]
    if ibot:
        names += ["mlp2.0.weight", "last_layer2.weight_g", "last_norm.weight", "last_norm2.bias"]
    return {prefix + name: torch.ones(2, 2) for name in names}


def same_output(kind: str, network: nn.Module, **fields: Any) -> None:
    loaded = load_model(config(kind, **fields))
    size = loaded.preprocessing.height
    with torch.no_grad():
        expected, found = network(pictures(size)), loaded.network(pictures(size))
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["vit", "deit", "resnet", "bit"])
@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_timm(write: Write, kind: str, name: str) -> None:
    network = source(kind)
    same_output(kind, network, checkpoint=write(name, network.state_dict()))


@pytest.mark.parametrize("name", ["w.pt", "w.pth.tar", "w.bin"])
@pytest.mark.parametrize("key", ["state_dict", "model", "model_state", "model_ema"])
def test_training_checkpoints(write: Write, key: str, name: str) -> None:
    network = source("vit")
    content = {"epoch": 3, key: network.state_dict(), "args": argparse.Namespace(lr=0.1)}
    same_output("vit", network, checkpoint=write(name, content))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "backbone."])
@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_wrapped_networks(write: Write, kind: str, prefix: str) -> None:
    network = source(kind)
    content = {"state_dict": prefixed(network.state_dict(), prefix)}
    same_output(kind, network, checkpoint=write("w.pth", content))


def test_deit_full_checkpoint(write: Write) -> None:
    network, ema = source("deit"), source("deit", drop_rate=0.1)
    randomise(ema, 1)
    content = {
        "model": network.state_dict(),
        "model_ema": ema.state_dict(),
        "args": argparse.Namespace(data_path="x"),
    }
    path = write("deit.pth", content)
    same_output("deit", network, checkpoint=path)
    same_output("deit", ema, checkpoint=path, checkpoint_key="model_ema")


def dino_checkpoint(teacher: nn.Module, student: nn.Module, *, ibot: bool = False) -> Any:
    masked = {"module.backbone.masked_embed": torch.zeros(1, 32)} if ibot else {}
    return {
        "student": prefixed(student.state_dict(), "module.backbone.")
        | dino_head("module.head.", ibot=ibot)
        | masked,
        "teacher": prefixed(teacher.state_dict(), "backbone.") | dino_head("head.", ibot=ibot),
        "optimizer": {"state": {}, "param_groups": []},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small"),
        "dino_loss": {"center": torch.zeros(1, 4)},
    }


@pytest.mark.parametrize("ibot", [False, True])
@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_dino_and_ibot(write: Write, kind: str, ibot: bool) -> None:
    teacher, student = source(kind, classes=0), randomise(source(kind, classes=0), 1)
    path = write("dino.pth", dino_checkpoint(teacher, student, ibot=ibot))
    same_output(kind, teacher, checkpoint=path)
    same_output(kind, student, checkpoint=path, checkpoint_key="student")
    assert load_model(config(kind, checkpoint=path)).classes == 0
    state = read_checkpoint(path)
    assert remap(state)[1] == ("ibot" if ibot else "dino")


def test_dino_backbone_alone(write: Write) -> None:
    network = source("vit", classes=0)
    same_output("vit", network, checkpoint=write("dino.pth", network.state_dict()))


@pytest.mark.parametrize("kind", ["vit", "resnet"])
@pytest.mark.parametrize("momentum_only", [False, True])
def test_moco_v3(write: Write, kind: str, momentum_only: bool) -> None:
    base, momentum = source(kind, classes=0), randomise(source(kind, classes=0), 1)
    head = "head." if kind == "vit" else "fc."
    state = prefixed(momentum.state_dict() | mlp(head), "module.momentum_encoder.")
    if not momentum_only:
        state |= prefixed(base.state_dict() | mlp(head), "module.base_encoder.")
    state |= mlp("module.predictor.", 8)
    path = write("moco.pth.tar", {"epoch": 1, "arch": "vit", "state_dict": state})
    same_output(kind, momentum if momentum_only else base, checkpoint=path)
    assert remap(read_checkpoint(path))[1] == "moco-v3"


def test_torchvision_resnet(write: Write) -> None:
    network = randomise(torchvision.models.resnet18(num_classes=4))
    path = write("resnet18.pth", network.state_dict())
    same_output(
        "resnet",
        network,
        architecture="resnet18",
        checkpoint=path,
        options={"channels": [64, 128, 256, 512]},
    )


@pytest.mark.parametrize("old_names", [False, True])
def test_torchvision_vit(write: Write, old_names: bool) -> None:
    network = randomise(
        torchvision.models.VisionTransformer(
            image_size=32,
            patch_size=8,
            num_layers=2,
            num_heads=2,
            hidden_dim=32,
            mlp_dim=128,
            num_classes=4,
        )
    )
    state = network.state_dict()
    if old_names:
        renamed = ((".mlp.0.", ".mlp.linear_1."), (".mlp.3.", ".mlp.linear_2."))
        for new, old in renamed:
            state = {name.replace(new, old): value for name, value in state.items()}
    path = write("vit.pth", state)
    same_output("vit", network, checkpoint=path)
    assert remap(read_checkpoint(path))[1] == "torchvision-vit"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("vit", "linear."),
        ("vit", ""),
        ("resnet", "module.linear."),
        ("resnet", "head."),
        ("bit", "fc."),
    ],
)
def test_separate_head(write: Write, kind: str, name: str) -> None:
    network = source(kind)
    state = network.state_dict()
    own = {"vit": "head.", "resnet": "fc.", "bit": "head.fc."}[kind]
    head = {k.replace(own, name): v.squeeze() for k, v in state.items() if k.startswith(own)}
    backbone = {key: value for key, value in state.items() if not key.startswith(own)}
    same_output(
        kind,
        network,
        checkpoint=write("backbone.pth", backbone),
        head_checkpoint=write("head.pth", {"epoch": 1, "state_dict": head, "best_acc": 1.5}),
    )


def test_separate_head_replaces_one_in_the_checkpoint(write: Write) -> None:
    network = source("vit")
    state = network.state_dict()
    other = state | {"head.weight": torch.ones(7, 32), "head.bias": torch.ones(7)}
    head = {"head.weight": state["head.weight"], "head.bias": state["head.bias"]}
    path = write("w.pth", other)
    same_output("vit", network, checkpoint=path, head_checkpoint=write("h.safetensors", head))


def test_separate_head_is_one_linear_layer() -> None:
    with pytest.raises(ValueError, match="one linear layer"):
        linear_layer({"head.0.weight": torch.ones(2, 2)}, SEPARATE_HEADS)
    with pytest.raises(ValueError, match="one linear layer"):
        linear_layer({"fc.weight": torch.ones(2, 2), "extra": torch.ones(1)}, SEPARATE_HEADS)
    with pytest.raises(ValueError, match="one linear layer"):
        linear_layer({"fc.weight": torch.ones(2)}, SEPARATE_HEADS)


@pytest.mark.parametrize("options", [{}, {"reg_tokens": 4}, {"no_embed_class": True}])
def test_positions_of_another_grid(options: dict[str, Any]) -> None:
    """A field linear in row and column stays linear away from the borders."""
    small, large = (
        source("vit", img_size=32, **options),
        source("vit", img_size=(64, 96), **options),
    )
    prefix = 0 if "no_embed_class" in options else small.num_prefix_tokens
    rows = torch.arange(4.0).view(4, 1, 1) + torch.zeros(4, 4, 32)
    given = torch.cat([torch.full((1, prefix, 32), 9.0), rows.view(1, 16, 32)], dim=1)
    state = fit_positions({"pos_embed": given}, large)
    positions = state["pos_embed"]
    assert positions.shape == large.pos_embed.shape
    assert (positions[:, :prefix] == 9).all()
    grid = positions[0, prefix:].view(8, 12, 32)
    torch.testing.assert_close(grid, grid[:, :1].expand_as(grid), atol=1e-5, rtol=0)
    torch.testing.assert_close(grid[4, 0] - grid[3, 0], torch.full((32,), 0.5), atol=0.1, rtol=0)


def test_tables_that_the_network_makes_are_not_loaded(tmp_path: Path) -> None:
    swin, images = ZOO["swin"].network(), of_zoo.pictures(ZOO["swin"])
    tables = {k: v for k, v in swin.named_buffers() if k not in swin.state_dict()}
    assert {name.rpartition(".")[2] for name in tables} == {"relative_position_index", "attn_mask"}
    model = from_state(tmp_path, "swin", swin.state_dict() | tables)
    with torch.no_grad():
        features = forward_features(model.network, images)
        torch.testing.assert_close(forward_head(model.network, features), swin(images))
    dinov3 = ZOO["dinov3"].network()
    tables = {k: v for k, v in dinov3.named_buffers() if k not in dinov3.state_dict()}
    assert tables
    assert all(name.startswith("rope.") for name in tables)
    from_state(tmp_path, "dinov3", dinov3.state_dict() | tables)


def test_a_learned_rotation_is_kept() -> None:
    options = {**ZOO["eva"].options, "use_rot_pos_emb": True, "rope_type": "mixed"}
    network = timm.create_model("eva02_tiny_patch14_224", img_size=32, **options)
    state = network.state_dict() | {"rope.t_x": torch.zeros(16)}
    assert "rope.freqs" in state
    assert without_derived(state, network).keys() == network.state_dict().keys()
