"""Which layers lie on a grid, and that their maps lie the right way up."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from pairlens_server.recording.facts import LayerGrid
from pairlens_server.recording.layers import as_maps, find_layers, grid_of
from pairlens_server.recording.primitives import FeatureMap
from pairlens_server.recording.recorder import Recorder
from tests.support import pixels, recorded, vit, zoo_model, zoo_recorder
from tests.zoo import wild, zoo


def grids(name: str) -> dict[str, tuple[int, int, int]]:
    layers = zoo_recorder(name).facts.layers
    return {layer: (grid.rows, grid.columns, grid.prefix) for layer, grid in layers.items()}


@pytest.mark.parametrize("name", sorted(zoo()))
def test_the_default_layer_of_class_activation_maps_lies_on_the_models_grid(name):
    model, facts = zoo_model(name), zoo_recorder(name).facts
    grid = facts.layers[facts.cam_layer]
    assert (grid.rows, grid.columns) == (model.layout.rows, model.layout.columns)
    assert grid.prefix in (0, model.layout.prefix)


def test_stages_of_a_resnet_have_finer_grids():
    # 64 x 96 pixels; strides 4, 8, 16, 32.
    found = grids("resnet")
    stages = {f"layer{stage}": found[f"layer{stage}"] for stage in (1, 2, 3, 4)}
    assert stages == {
        "layer1": (16, 24, 0),
        "layer2": (8, 12, 0),
        "layer3": (4, 6, 0),
        "layer4": (2, 3, 0),
    }


def test_stages_of_a_swin_are_read_with_channels_last():
    # 32 x 48 pixels, patches of 4, then merged.
    layers = zoo_recorder("swin").facts.layers
    assert layers["patch_embed.proj"] == LayerGrid(8, 12, 0, 16, channels_last=False)
    assert layers["layers.0.blocks.1.norm1"] == LayerGrid(8, 12, 0, 16, channels_last=True)
    # In its second half a block runs on rows of tokens.
    assert layers["layers.0.blocks.1.norm2"] == LayerGrid(8, 12, 0, 16, channels_last=False)
    assert layers["layers.1.downsample.norm"] == LayerGrid(4, 6, 0, 64, channels_last=True)
    assert layers["layers.1"] == LayerGrid(4, 6, 0, 32, channels_last=True)
    assert layers["norm"] == LayerGrid(4, 6, 0, 32, channels_last=True)


def test_stages_of_a_pit_drop_their_prefix():
    # Patches of 16 every 8 pixels, 7 x 11 of 64 x 96 pixels, then pooled.
    found = grids("pit-distilled")
    assert found["patch_embed"] == (7, 11, 0)
    assert found["transformers.0.blocks.1.mlp.fc1"] == (7, 11, 2)
    assert found["transformers.1.pool.conv"] == (4, 6, 0)
    assert found["transformers.1.blocks.0"] == (4, 6, 2)


def test_scales_of_a_coat_and_of_a_twins():
    coat, twins = grids("coat"), grids("twins-svt")
    assert [coat[f"serial_blocks{s}.0"] for s in (1, 2, 3, 4)] == [
        *((16, 24, 1), (8, 12, 1), (4, 6, 1), (2, 3, 1))
    ]
    assert coat["parallel_blocks.0.norm13"] == (4, 6, 1)
    assert twins["blocks.0.1"] == (8, 12, 0)
    assert twins["blocks.1.1"] == (4, 6, 0)


def test_registers_are_dropped():
    assert grids("vit-registers")["blocks.1"] == (4, 6, 5)
    assert grids("vit-registers")["patch_embed"] == (4, 6, 0)
    assert grids("dinov3")["blocks.2.norm1"] == (4, 6, 5)


def test_the_class_token_of_a_convit_joins_late():
    found = grids("convit")
    assert found["blocks.0"] == (4, 4, 0)
    assert found["blocks.1"] == (4, 4, 1)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("coat", "parallel_blocks.0.mlp2"),  # serves three scales, one after the other
        ("coat", "crpe2"),  # gives out a product of queries and values
        ("convit", "blocks.0.attn.attn_drop"),  # 16 x 16 of patch by patch
        ("convit", "blocks.0.attn.pos_proj"),
        ("xcit", "blocks.0.attn.attn_drop"),  # channel by channel
        ("xcit", "pos_embed.token_projection"),  # of positions, whatever the picture
        ("swinv2", "layers.0.blocks.0.attn.cpb_mlp"),
        ("swin", "layers.0.blocks.0.attn"),  # in windows
        ("resnet", "fc"),
        ("vit", "head"),
    ],
)
def test_what_belongs_to_no_place_of_the_picture_is_no_layer(name, layer):
    assert dict(zoo_model(name).network.named_modules()).get(layer) is not None
    assert layer not in zoo_recorder(name).facts.layers


def test_modules_of_a_convnext_that_work_with_channels_last_are_told_apart():
    # With as many channels as rows and columns the shape alone does not tell.
    network = timm.create_model("convnext_tiny", dims=[24, 16, 16, 16], depths=[1, 1, 1, 1])
    wild(network).eval()
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    found = find_layers(network, network.forward_features, images, prefix=0, channels_last=False)
    block = "stages.0.blocks.0"
    last = {name for name, grid in found.items() if grid.channels_last and name.startswith(block)}
    first = {name for name, grid in found.items() if name.startswith(block)} - last
    assert {f"{block}.{n}" for n in ("norm", "mlp", "mlp.fc1", "mlp.act", "mlp.fc2")} <= last
    assert {block, f"{block}.conv_dw", f"{block}.shortcut"} <= first
    assert all((found[n].rows, found[n].columns) == (24, 24) for n in last | first)
    assert {found[f"{block}.mlp.act"].channels} == {96}
    outputs = {}
    for name in ("mlp", "shortcut"):
        network.get_submodule(f"{block}.{name}").register_forward_hook(
            lambda _m, _i, output, name=name: outputs.update({name: output})
        )
    network.stages[0].blocks[0].register_forward_hook(
        lambda _m, _i, output: outputs.update(block=output)
    )
    network.forward_features(images)
    scaled = (
        as_maps(outputs["mlp"], found[f"{block}.mlp"])
        * network.stages[0].blocks[0].gamma[:, None, None]
    )
    torch.testing.assert_close(outputs["block"], outputs["shortcut"] + scaled)


@pytest.mark.parametrize(
    ("shape", "prefix", "expected"),
    [
        ((2, 24, 8), 0, LayerGrid(4, 6, 0, 8, False)),
        ((2, 25, 8), 1, LayerGrid(4, 6, 1, 8, False)),
        ((2, 24, 8), 1, LayerGrid(4, 6, 0, 8, False)),
        ((2, 26, 8), 1, None),
        ((2, 8, 4, 6), 1, LayerGrid(4, 6, 0, 8, False)),
        ((2, 8, 1, 1), 0, None),
        ((2, 8, 6, 4), 0, None),
        ((1, 24, 8), 0, None),
        ((2, 24), 0, None),
        ((2, 8, 4, 6, 1), 0, None),
        ((2, 40, 8), 1, LayerGrid(5, 8, 0, 8, False)),  # every 6 pixels
        ((2, 15, 8), 0, LayerGrid(3, 5, 0, 8, False)),  # patches of 16 every 8 pixels
    ],
)
def test_the_grid_of_an_output(shape, prefix, expected):
    # 32 x 48 pixels, two pictures.
    found = grid_of(torch.zeros(shape), 2, (32, 48), prefix=prefix, channels_last=False)
    assert found == expected


def test_the_grid_of_what_is_no_tensor():
    assert grid_of((torch.zeros(2, 24, 8),), 2, (32, 48), prefix=0, channels_last=False) is None
    integers = torch.zeros(2, 24, 8, dtype=torch.int64)
    assert grid_of(integers, 2, (32, 48), prefix=0, channels_last=False) is None


def test_a_module_that_runs_three_times_is_no_layer():
    class Thrice(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared = nn.Conv2d(3, 3, 1)
            self.once = nn.Conv2d(3, 5, 1)

        def forward(self, pixels):
            return self.once(self.shared(self.shared(self.shared(pixels))))

    network = Thrice()
    found = find_layers(network, network, torch.zeros(2, 3, 8, 12), prefix=0, channels_last=False)
    assert dict(found) == {"once": LayerGrid(8, 12, 0, 5, False)}


def test_maps_of_every_layout():
    values = torch.arange(2 * 7 * 3.0).view(2, 7, 3)
    maps = as_maps(values, LayerGrid(2, 3, 1, 3, False))
    assert maps.shape == (2, 3, 2, 3)
    for row in range(2):
        for column in range(3):
            assert torch.equal(maps[:, :, row, column], values[:, 1 + 3 * row + column])
    last = torch.arange(2 * 2 * 3 * 4.0).view(2, 2, 3, 4)
    assert torch.equal(as_maps(last, LayerGrid(2, 3, 0, 4, True))[1, 2, 0, 1], last[1, 0, 1, 2])
    first = last.permute(0, 3, 1, 2)
    assert torch.equal(as_maps(first, LayerGrid(2, 3, 0, 4, False)), first)
    assert as_maps(first.bfloat16(), LayerGrid(2, 3, 0, 4, False)).dtype == torch.float32


# What attends has seen the whole picture, and random kernels reach across a grid of 2 x 3.
GLOBAL = ("attn", "drop_path", "factoratt", "crpe", "cpe", ".ls")


@pytest.mark.parametrize("name", sorted(zoo()))
def test_maps_lie_the_right_way_up_at_every_layer(name):
    """Change a corner of the picture: the map's change moves to that corner."""
    model, recorder = zoo_model(name), zoo_recorder(name)
    layers = {
        layer: grid
        for layer, grid in recorder.facts.layers.items()
        if grid.rows >= 4 and not any(word in layer for word in GLOBAL)
    }
    if name == "xcit":
        layers.pop("pos_embed")  # is of positions alone
    if name in ("resnet", "resnet-max"):
        layers["layer4.0"] = recorder.facts.layers["layer4.0"]
    height, width = model.preprocessing.height, model.preprocessing.width
    down, across = height // model.layout.rows, width // model.layout.columns
    plain = pixels(model, 6)
    noise = 3 * torch.randn(4, 6, 3, down, across, generator=torch.Generator().manual_seed(3))
    corners = plain.repeat(4, 1, 1, 1, 1)  # top left, top right, bottom left, bottom right
    corners[0, ..., :down, :across] += noise[0]
    corners[1, ..., :down, -across:] += noise[1]
    corners[2, ..., -down:, :across] += noise[2]
    corners[3, ..., -down:, -across:] += noise[3]
    images = torch.cat([plain, corners.flatten(0, 1)])
    found = recorded(recorder, images, *(FeatureMap(layer) for layer in layers))
    assert len(layers) >= 10
    for layer, grid in layers.items():
        maps = found[FeatureMap(layer)].unflatten(0, (5, 6))
        change = (maps[1:] - maps[:1]).square().sum((1, 2))
        change /= change.sum((1, 2), keepdim=True)
        y = change.sum(2) @ torch.linspace(0, 1, grid.rows)
        x = change.sum(1) @ torch.linspace(0, 1, grid.columns)
        assert y[0] < y[2], layer
        assert y[1] < y[3], layer
        assert x[0] < x[1], layer
        assert x[2] < x[3], layer


def test_layers_of_a_hybrid_size_keep_every_grid():
    # 40 x 56 pixels are no multiple of 16: patches cover 32 x 48 of them.
    facts = Recorder(vit(size=(40, 56), patch_size=16)).facts
    assert (facts.layers["blocks.1"].rows, facts.layers["blocks.1"].columns) == (2, 3)
