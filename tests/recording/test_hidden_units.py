"""Hidden units of MLPs, in every family that has them."""

from __future__ import annotations

import pytest
import torch

from pairlens_server.recording.layers import as_maps
from pairlens_server.recording.primitives import HiddenActivations
from tests.oracles import explicit_run
from tests.support import pixels, recorded, zoo_model, zoo_recorder

HIDDEN = {
    "vit": ("blocks.1.mlp.act", 1),
    "vit-registers": ("blocks.2.mlp.act", 2),
    "dinov2": ("blocks.0.mlp.act", 0),
    "clip-quickgelu": ("blocks.1.mlp.act", 1),
    "swin": ("layers.1.blocks.0.mlp.act", 2),
    "pit": ("transformers.0.blocks.1.mlp.act", 1),
    "twins-svt": ("blocks.1.1.mlp.act", 3),
    "coat": ("serial_blocks3.0.mlp.act", 2),
    "convit": ("blocks.0.mlp.act", 0),
    "xcit": ("blocks.1.mlp.act", 1),
    "convnext": ("stages.2.blocks.0.mlp.act", 2),
    "convnextv2": ("stages.1.blocks.0.mlp.grn", 1),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_units_are_what_the_second_layer_reads(name):
    model, recorder = zoo_model(name), zoo_recorder(name)
    images, (layer, block) = pixels(model), HIDDEN[name]
    facts = recorder.facts
    found = recorded(recorder, images, HiddenActivations(block))[HiddenActivations(block)]
    output = explicit_run(model, images, [layer]).outputs[layer].detach()
    grid = facts.layers[layer]
    assert found.shape == (2, facts.hidden_units[block], grid.rows, grid.columns)
    torch.testing.assert_close(found.double(), as_maps(output, grid).double(), atol=2e-5, rtol=1e-5)


def test_hidden_units_of_a_vit_by_hand():
    # Ghiasi et al. 2022: GELU(fc1(·)), the class token dropped, row by row.
    model, recorder = zoo_model("vit"), zoo_recorder("vit")
    images = pixels(model)
    run = explicit_run(model, images, ["blocks.1.norm2"])
    hidden = run.network.blocks[1].mlp.fc1(run.outputs["blocks.1.norm2"])
    gelu = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    found = recorded(recorder, images, HiddenActivations(1))[HiddenActivations(1)]
    for row in range(4):
        for column in range(6):
            torch.testing.assert_close(
                found[:, :, row, column].double(),
                gelu[:, 1 + 6 * row + column].detach(),
                atol=1e-5,
                rtol=1e-5,
            )


def test_hidden_units_of_a_gated_mlp_are_the_gated_product():
    # EVA-02: SiLU(x W_g) ⊙ (x W_x), normed, then the second layer.
    model, recorder = zoo_model("eva02"), zoo_recorder("eva02")
    images = pixels(model)
    run = explicit_run(model, images, ["blocks.0.norm2"])
    mlp, inputs = run.network.blocks[0].mlp, run.outputs["blocks.0.norm2"]
    gated = mlp.norm(torch.nn.functional.silu(mlp.fc1_g(inputs)) * mlp.fc1_x(inputs))
    found = recorded(recorder, images, HiddenActivations(0))[HiddenActivations(0)]
    expected = gated[:, model.layout.prefix :].mT.reshape(2, -1, 4, 6).detach()
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "units"),
    [
        ("vit", (64, 64, 64)),
        ("swin", (64, 64, 128, 128)),
        ("pit", (64, 64, 128, 128)),
        ("twins-svt", (32, 32, 64, 64)),
        ("convnext", (32, 64, 64, 128)),
        ("resnet", ()),
    ],
)
def test_blocks_are_counted_over_all_stages(name, units):
    assert zoo_recorder(name).facts.hidden_units == units
