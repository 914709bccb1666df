"""Families, token layouts, pooling and preprocessing of the networks that timm builds."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from pairlens_server.errors import ConfigurationError
from pairlens_server.models.architectures import try_out
from pairlens_server.models.config import ModelConfig
from pairlens_server.models.grids import token_layout
from pairlens_server.models.loaded import Family, TokenLayout
from pairlens_server.models.preprocessing import Interpolation, Preprocessing, ResizeMode

from .conftest import FIELDS, config, features, random_model, refusal


@pytest.mark.parametrize(
    ("kind", "family", "pooling", "width", "layout", "blocks"),
    [
        ("vit", Family.VIT, "token", 32, TokenLayout(4, 4, 1, (0,)), (2, 2)),
        ("deit", Family.VIT, "token", 32, TokenLayout(4, 4, 2, (0, 1)), (2, 2)),
        ("resnet", Family.RESNET, "avg", 32, TokenLayout(2, 2, 0, (0, 1, 2, 3)), (0, 0)),
        ("bit", Family.RESNETV2, "avg", 128, TokenLayout(2, 2, 0, (0, 1, 2, 3)), (0, 0)),
    ],
)
def test_facts_of_each_family(
    kind: str,
    family: Family,
    pooling: str,
    width: int,
    layout: TokenLayout,
    blocks: tuple[int, int],
) -> None:
    model = random_model(kind, classes=3)
    assert (model.name, model.family, model.pooling) == ("m", family, pooling)
    assert (model.embedding_size, model.classes, model.labels) == (width, 3, ())
    assert model.layout == layout
    assert (model.blocks, model.heads) == blocks
    assert features(model, model.preprocessing.height).shape == (2, width)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"options": {"reg_tokens": 4}}, TokenLayout(4, 4, 5, (0,))),
        ({"pooling": "avg"}, TokenLayout(4, 4, 1, tuple(range(1, 17)))),
        ({"pooling": "max"}, TokenLayout(4, 4, 1, tuple(range(1, 17)))),
        (
            {"pooling": "avg", "options": {"pool_include_prefix": True}},
            TokenLayout(4, 4, 1, tuple(range(17))),
        ),
        (
            {"pooling": "avg", "options": {"class_token": False}},
            TokenLayout(4, 4, 0, tuple(range(16))),
        ),
        ({"pooling": "map"}, TokenLayout(4, 4, 1, ())),
        ({"pooling": "prr"}, TokenLayout(4, 4, 1, ())),
        ({"preprocessing": {"size": [16, 64]}}, TokenLayout(2, 8, 1, (0,))),
    ],
)
def test_token_layout_of_vits(changes: dict[str, Any], expected: TokenLayout) -> None:
    model = random_model("vit", **changes)
    assert model.layout == expected
    assert model.pooling == changes.get("pooling", "token")
    network: Any = model.network
    size = model.preprocessing
    with torch.no_grad():
        tokens = network.forward_features(torch.zeros(1, 3, size.height, size.width))
    assert tokens.shape[1] == model.layout.tokens


@pytest.mark.parametrize("pooling", ["token", "avg", "max"])
def test_readout_tokens_decide_the_embedding(pooling: str) -> None:
    network: Any = random_model("vit", pooling=pooling).network
    layout = random_model("vit", pooling=pooling).layout
    tokens = torch.randn(1, layout.tokens, 32)
    rest = [i for i in range(layout.tokens) if i not in layout.readout]
    changed = tokens.clone()
    changed[:, rest] += 1
    torch.testing.assert_close(network.forward_head(tokens), network.forward_head(changed))
    changed[:, layout.readout] += 1
    assert not torch.allclose(network.pool(tokens), network.pool(changed))


def test_grid_of_a_dilated_cnn_on_an_oblong_input() -> None:
    model = random_model("resnet", options={"output_stride": 16}, preprocessing={"size": [64, 96]})
    assert (model.layout.rows, model.layout.columns) == (4, 6)


@pytest.mark.parametrize(
    ("pooling", "size"), [("avg", 32), ("max", 32), ("avgmax", 32), ("catavgmax", 64)]
)
def test_pooling_of_cnns(pooling: str, size: int) -> None:
    model = random_model("resnet", pooling=pooling)
    assert (model.pooling, model.embedding_size) == (pooling, size)
    assert features(model, 64).shape == (2, size)
    assert random_model("bit", pooling=pooling).pooling == pooling


def test_preprocessing_defaults_are_of_the_tag() -> None:
    def preprocessing(architecture: str, **settings: Any) -> Any:
        changes = {"architecture": architecture, "preprocessing": {"size": 32, **settings}}
        return random_model("vit", **changes).preprocessing

    augreg = preprocessing("vit_small_patch16_224.augreg_in1k")
    assert augreg.mean == augreg.std == (0.5, 0.5, 0.5)
    dino = preprocessing("vit_small_patch16_224.dino")
    assert dino.mean == (0.485, 0.456, 0.406)
    assert (dino.resize_mode, dino.crop_fraction) == (ResizeMode.CROP, 0.9)
    assert dino.interpolation is Interpolation.BICUBIC
    siglip = preprocessing("vit_base_patch16_siglip_224.webli", resize="pad", crop_fraction=0.5)
    assert (siglip.resize_mode, siglip.crop_fraction) == (ResizeMode.PAD, 0.5)
    model = random_model("resnet", preprocessing={})
    assert (model.preprocessing.height, model.preprocessing.width) == (176, 176)


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("resnet5O", "no architecture 'resnet5O'; near: resnet5"),
        ("vit_small_patch16_224.dinosaur", "known: vit_small_patch16_224."),
        ("mobilenetv3_small_050", "MobileNetV3 is of no family"),
        ("swinv2_cr_tiny_224", "SwinTransformerV2Cr is of no family"),
        ("vit_base_patch16_224", "cannot build vit_base_patch16_224"),
    ],
)
def test_architectures_refused(architecture: str, expected: str) -> None:
    options = {"nonsense": 1} if architecture.startswith("vit_base") else {}
    entry = ModelConfig(
        name="m",
        architecture=architecture,
        architecture_options=options,
        random_weights=True,
        seed=0,
        classes=2,
    )
    assert expected in refusal(entry)


def test_pooling_refused_by_the_architecture() -> None:
    entry = config("vit", random_weights=True, seed=0, pooling="catavgmax")
    assert "field pooling: timm cannot build vit_tiny_patch16_224" in refusal(entry)
    assert "field pooling: timm cannot build" in refusal(
        config("deit", random_weights=True, seed=0, pooling="avg")
    )


def test_an_input_that_is_no_multiple_of_the_patch_leaves_a_border_unseen():
    network = timm.create_model(
        "vit_tiny_patch16_224", img_size=(20, 30), patch_size=8, depth=1, embed_dim=32, num_heads=2
    )
    settings = Preprocessing(
        20, 30, ResizeMode.STRETCH, 1.0, Interpolation.BILINEAR, (0.5,) * 3, (0.5,) * 3
    )
    features = try_out(network, settings, torch.device("cpu"))
    layout = token_layout(network, settings, features)
    assert (layout.rows, layout.columns) == (2, 3)
    assert (layout.unseen_bottom, layout.unseen_right) == (4, 6)


def test_what_builds_but_cannot_run_is_told() -> None:
    network = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=(36, 50),
        dynamic_img_pad=True,
        **{"patch_size": 8, "depth": 1, "embed_dim": 32, "num_heads": 2},
    )
    settings = Preprocessing(
        36, 50, ResizeMode.STRETCH, 1.0, Interpolation.BILINEAR, (0.5,) * 3, (0.5,) * 3
    )
    with pytest.raises(ConfigurationError, match=r"^cannot run at 36 x 50: .+$") as caught:
        try_out(network, settings, torch.device("cpu"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["forward_features", "forward_head"])
@pytest.mark.parametrize("kind", ["vit", "deit", "resnet", "bit"])
@pytest.mark.parametrize("error", [RuntimeError("no\nway"), AssertionError("no"), KeyError("no")])
def test_every_family_is_run_once_at_load(
    monkeypatch: pytest.MonkeyPatch, kind: str, part: str, error: Exception
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr(type(random_model(kind).network), part, fail)
    message = refusal(config(kind, random_weights=True, seed=0))
    size = FIELDS[kind]["preprocessing"]["size"]
    assert message.startswith(f"model 'm': cannot run at {size} x {size}: ")
    assert message.strip("'").endswith("no")


def test_an_error_without_a_text_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(VisionTransformer, "forward_features", fail)
    message = refusal(config("vit", random_weights=True, seed=0))
    assert message == "model 'm': cannot run at 32 x 32: NotImplementedError"
