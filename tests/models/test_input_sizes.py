"""Input sizes other than the checkpoint's: what is resampled, covered and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models.convit import ConVit
from timm.models.swin_transformer import checkpoint_filter_fn

from pairlens_server.models.families import forward_features, forward_head
from pairlens_server.models.layouts import fit_positions
from tests.zoo import Entry, wild

from .of_zoo import ZOO, from_state, pictures, random_model, refusal


@pytest.mark.parametrize("name", ["eva", "eva02", "eva02-token", "siglip", "dinov3"])
def test_another_input_size_of_evas(tmp_path: Path, name: str) -> None:
    """As timm's own set_input_size resamples, from a square grid."""
    entry = ZOO[name]
    source = timm.create_model(
        entry.architecture, img_size=48, num_classes=entry.classes, **arguments(entry)
    )
    wild(source).eval()
    size = {"size": [32, 64], "resize": "stretch"}
    model = from_state(tmp_path, name, source.state_dict(), preprocessing=size)
    source.set_input_size(img_size=(32, 64))
    images = pictures(entry, size=(32, 64))
    with torch.no_grad():
        found = forward_head(model.network, forward_features(model.network, images))
        torch.testing.assert_close(found, source(images), atol=1e-5, rtol=1e-5)
    assert (model.layout.rows, model.layout.columns) == (4, 8)


def arguments(entry: Entry) -> dict[str, Any]:
    pooling = {} if entry.pooling is None else {"global_pool": entry.pooling}
    return {**entry.options, **pooling}


@pytest.mark.parametrize(
    ("name", "size", "grid"),
    [
        ("convit", (48, 48), (6, 6)),
        ("pit", (48, 112), (3, 7)),
        ("pit-distilled", (112, 48), (7, 3)),
        ("twins-svt", (64, 48), (8, 6)),
        ("coat", (128, 64), (4, 2)),
        ("coat-lite", (32, 128), (1, 4)),
        ("xcit", (32, 112), (2, 7)),
        ("convnext", (128, 32), (4, 1)),
        ("swinv2", (64, 32), (8, 4)),
    ],
)
def test_another_input_size(
    tmp_path: Path, name: str, size: tuple[int, int], grid: tuple[int, int]
) -> None:
    """A position embedding that is the same everywhere is so at any size."""
    entry = ZOO[name]
    state = entry.state()
    if "pos_embed" in state:
        place = state["pos_embed"].flatten(2)[..., :1] if name.startswith("pit") else None
        same = state["pos_embed"][:, :1] if place is None else place[..., None]
        state["pos_embed"] = same.expand_as(state["pos_embed"])
    settings = {"size": list(size), "resize": "stretch"}
    model = from_state(tmp_path, name, state, preprocessing=settings)
    sized = {} if not entry.takes_size else {"img_size": size}
    expected = timm.create_model(entry.architecture, num_classes=5, **entry.options, **sized)
    if "pos_embed" in state:
        state["pos_embed"] = same.expand_as(expected.pos_embed)
    expected.load_state_dict(state)
    images = pictures(entry, size=size)
    with torch.no_grad():
        found = forward_head(model.network, forward_features(model.network, images))
        torch.testing.assert_close(found, expected.eval()(images), atol=1e-5, rtol=1e-5)
    assert (model.layout.rows, model.layout.columns) == grid


def test_positions_of_a_pit_keep_their_axes() -> None:
    """A ramp along one axis stays a ramp along that axis, from a grid that is no square."""
    network = ZOO["pit"].network()  # 7 x 11 patches
    ramp = torch.linspace(0, 1, 21).expand(1, 16, 5, 21)
    fitted = fit_positions({"pos_embed": ramp}, network)["pos_embed"]
    assert fitted.shape == network.pos_embed.shape
    assert fitted.std(2).max() < 1e-5
    assert (fitted.diff(dim=3) > 0.03).all()


def test_bias_tables_of_a_swin_whose_windows_shrink(tmp_path: Path) -> None:
    """As timm's own filter for checkpoints resamples them."""
    entry = ZOO["swin"]
    state = wild(timm.create_model(entry.architecture, img_size=64, num_classes=5, **entry.options))
    weights = state.state_dict()
    settings = {"size": [32, 16], "resize": "stretch"}  # the last grid is 4 x 2 for windows of 4
    model = from_state(tmp_path, "swin", weights, preprocessing=settings)
    expected = timm.create_model(
        entry.architecture, img_size=(32, 16), num_classes=5, **entry.options
    )
    expected.load_state_dict(checkpoint_filter_fn(weights, expected))
    images = pictures(entry, size=(32, 16))
    with torch.no_grad():
        found = forward_head(model.network, forward_features(model.network, images))
        torch.testing.assert_close(found, expected.eval()(images))
    assert (model.layout.rows, model.layout.columns) == (4, 2)


@pytest.mark.parametrize(
    ("name", "size", "unseen"),
    [
        ("eva02", (35, 50), (3, 2)),  # whole patches of 8
        ("swin", (35, 50), (3, 2)),  # whole patches of 4; merging pads a grid that is odd
        ("pit", (67, 95), (3, 7)),  # patches of 16 every 8 pixels
        ("convnext", (70, 100), (6, 4)),  # whole cells of 32
        ("coat-lite", (80, 96), (16, 0)),
    ],
)
def test_edges_that_no_cell_covers(
    name: str, size: tuple[int, int], unseen: tuple[int, int]
) -> None:
    layout = random_model(name, preprocessing={"size": list(size), "resize": "stretch"}).layout
    assert (layout.unseen_bottom, layout.unseen_right) == unseen


@pytest.mark.parametrize(
    ("name", "size", "reason"),
    [
        ("twins-svt", [32, 44], "should be divided by patch_size"),
        ("xcit", [60, 96], "`patch_size` should divide image dimensions evenly"),
        ("coat", [48, 64], "cannot run at 48 x 64"),
        ("dinov3", [36, 48], "Input height (36) should be divisible by patch size (8)"),
        ("convit", [32, 48], "field preprocessing.size: ConViT needs a square grid of patches, "),
    ],
)
def test_input_sizes_that_timm_cannot_take(name: str, size: list[int], reason: str) -> None:
    assert reason in refusal(name, preprocessing={"size": size, "resize": "stretch"})


def test_a_grid_that_convit_would_misread_is_refused() -> None:
    """2 x 8 patches are as many as 4 x 4, and timm runs them as such."""
    entry = ZOO["convit"]
    network = timm.create_model(entry.architecture, img_size=(16, 64), **entry.options)
    assert isinstance(network, ConVit)
    with torch.no_grad():
        network.eval()(pictures(entry, size=(16, 64)))
    message = refusal("convit", preprocessing={"size": [16, 64], "resize": "stretch"})
    assert "16 x 64 pixels give 2 x 8" in message
    # Without gated attention nothing hangs on the shape of the grid.
    model = random_model(
        "convit",
        options={"local_up_to_layer": 0},
        preprocessing={"size": [16, 64], "resize": "stretch"},
    )
    assert (model.layout.rows, model.layout.columns) == (2, 8)


def test_grid_of_an_xcit_is_of_its_patch_embedding() -> None:
    for size in ((64, 96), (32, 112), (48, 50)):
        model = random_model("xcit", preprocessing={"size": list(size), "resize": "stretch"})
        embed: Any = model.network.patch_embed
        with torch.no_grad():
            _, grid = embed(pictures(ZOO["xcit"], size=size))
        assert grid == (model.layout.rows, model.layout.columns)
