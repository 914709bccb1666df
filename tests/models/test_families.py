"""Every family of the zoo: loaded from a file, it computes what timm's network does."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pairlens_server.errors import ConfigurationError
from pairlens_server.models.architectures import try_out
from pairlens_server.models.config import Pooling, load_model_configs
from pairlens_server.models.families import (
    blocks_and_heads,
    classifier_name,
    forward_features,
    forward_head,
    pooled_width,
    pooling_of,
)
from pairlens_server.models.loaded import Family, LoadedModel
from pairlens_server.models.loading import load_model
from tests.zoo import wild, write

from .of_zoo import ZOO, from_state, pictures, random_model, refusal

every_entry = pytest.mark.parametrize("name", ZOO)
# One of each class of timm's: what they refuse depends on nothing else.
CLASSES = {
    **{"vit": "vit", "deit-distilled": "deit", "eva": "eva", "swin": "swin", "pit": "pit"},
    **{"pit-distilled": "pit", "twins-svt": "twins", "coat": "coat", "convit": "convit"},
    **{"xcit": "xcit", "convnext": "convnext", "resnet": "resnet", "resnetv2": "resnetv2"},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoadedModel]:
    path = write(tmp_path_factory.mktemp("zoo"))
    return {config.name: load_model(config) for config in load_model_configs(path)}


@every_entry
def test_a_loaded_checkpoint_computes_what_timm_does(
    models: dict[str, LoadedModel], name: str
) -> None:
    entry, model, images = ZOO[name], models[name], pictures(ZOO[name])
    source = entry.network()
    with torch.no_grad():
        features = forward_features(model.network, images)
        pooled = forward_head(model.network, features, pre_logits=True)
        expected = source.forward_head(source.forward_features(images), pre_logits=True)
        torch.testing.assert_close(pooled, expected.flatten(1), atol=1e-6, rtol=1e-6)
        logits = forward_head(model.network, features)
        torch.testing.assert_close(logits, source(images), atol=1e-6, rtol=1e-6)
    assert logits.shape[1] == (entry.classes or pooled_width(model.network))
    assert logits.std(0).min() > 1e-3  # the pictures are told apart
    assert model.family is entry.family
    assert model.classes == entry.classes
    assert model.embedding_size == (entry.projection or pooled.shape[1])


@every_entry
def test_grid_and_prefix(models: dict[str, LoadedModel], name: str) -> None:
    entry, layout = ZOO[name], models[name].layout
    assert ((layout.rows, layout.columns), layout.prefix) == (entry.grid, entry.prefix)
    assert (layout.unseen_bottom, layout.unseen_right) == (0, 0)


@every_entry
def test_the_pooled_features_read_the_readout_alone(
    models: dict[str, LoadedModel], name: str
) -> None:
    model = models[name]
    with torch.no_grad():
        features = forward_features(model.network, pictures(ZOO[name], 1))
    features.requires_grad_(True)
    pooled = forward_head(model.network, features, pre_logits=True)
    (gradient,) = torch.autograd.grad(
        (pooled * torch.arange(1, pooled.numel() + 1)).sum(), features
    )
    read = as_tokens(model, gradient)[0, : model.layout.tokens].abs().amax(1) > 0
    found = set(read.nonzero().flatten().tolist())
    if model.pooling == "map":
        assert model.layout.readout == ()
        assert len(found) == model.layout.cells
    elif model.pooling == "max":
        assert found
        assert found <= set(model.layout.readout)
        assert model.layout.readout == tuple(range(model.layout.prefix, model.layout.tokens))
    else:
        assert found == set(model.layout.readout)


def as_tokens(model: LoadedModel, features: Tensor) -> Tensor:
    """Features or a gradient of them as [B, tokens, width]."""
    if features.ndim == 3:
        return features
    channels_last = features if model.family is Family.SWIN else features.permute(0, 2, 3, 1)
    return channels_last.flatten(1, 2)


# Of an XCiT and a BiT every place sees so much of the picture that no change stays in place.
@pytest.mark.parametrize("name", sorted(ZOO.keys() - {"xcit", "resnetv2"}))
def test_each_cell_changes_most_with_its_own_place(name: str) -> None:
    # timm's first weights, of which each token mostly keeps what it is.
    model, entry = random_model(name), ZOO[name]
    layout = model.layout
    tall, wide = entry.size[0] // layout.rows, entry.size[1] // layout.columns
    change = torch.zeros(layout.cells, layout.cells)
    for plain in pictures(entry, 6):
        images = plain.repeat(layout.cells + 1, 1, 1, 1)
        for cell, image in enumerate(images[1:]):
            top, left = cell // layout.columns * tall, cell % layout.columns * wide
            image[:, top : top + tall, left : left + wide] *= -1
        with torch.no_grad():
            features = as_tokens(model, forward_features(model.network, images))
        places = features[:, layout.prefix : layout.tokens]
        change += (places[1:] - places[:1]).square().sum(2)
    assert change.argmax(0).tolist() == list(range(layout.cells))


@pytest.mark.parametrize(
    ("name", "blocks", "heads"),
    [
        *[(name, 3, 2) for name in ("vit", "deit-distilled", "siglip", "eva", "eva02", "dinov3")],
        *[("convit", 3, 4), ("pit", 2, 4), ("pit-distilled", 2, 4), ("xcit", 2, 2)],
        *[(name, 0, 0) for name in ("swin", "swinv2", "twins-svt", "twins-pcpvt", "coat")],
        *[(name, 0, 0) for name in ("coat-lite", "convnext", "resnet", "resnetv2")],
    ],
)
def test_blocks_and_heads(
    models: dict[str, LoadedModel], name: str, blocks: int, heads: int
) -> None:
    assert (models[name].blocks, models[name].heads) == (blocks, heads)


def test_blocks_of_a_pit_are_of_its_last_stage() -> None:
    options = {"base_dims": [8, 8, 8], "depth": [1, 2, 3], "heads": [1, 2, 4]}
    model = random_model("pit", options=options)
    assert (model.blocks, model.heads) == (3, 4)
    # 7 x 11 patches of 16 pixels every 8; two poolings halve them, rounded up.
    assert (model.layout.rows, model.layout.columns) == (2, 3)


@every_entry
def test_half_precision(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, [name])
    (config,) = load_model_configs(path)
    model = load_model(config.model_copy(update={"dtype": "bfloat16"}))
    images = pictures(ZOO[name]).bfloat16()
    with torch.no_grad():
        logits = forward_head(model.network, forward_features(model.network, images))
    assert logits.dtype is torch.bfloat16
    assert logits.isfinite().all()


@every_entry
def test_the_class_head_can_be_left_out(
    models: dict[str, LoadedModel], tmp_path: Path, name: str
) -> None:
    entry, images = ZOO[name], pictures(ZOO[name])
    state = entry.state()
    model = from_state(tmp_path, name, state, classes=0)
    assert model.classes == 0
    with torch.no_grad():
        found = forward_head(model.network, forward_features(model.network, images))
        network = models[name].network
        expected = forward_head(network, forward_features(network, images), pre_logits=True)
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


@pytest.mark.parametrize("name", ["eva", "swin", "xcit", "convnext", "resnetv2"])
def test_a_class_head_of_its_own_file(tmp_path: Path, name: str) -> None:
    entry = ZOO[name]
    state = entry.state()
    layer = nn.Linear(pooled_width(entry.network()), 3)
    save_file(layer.state_dict(), tmp_path / "head.safetensors")
    head = tmp_path / "head.safetensors"
    model = from_state(tmp_path, name, state, classes=3, head_checkpoint=head)
    weight = model.network.get_parameter(f"{classifier_name(model.network)}.weight")
    torch.testing.assert_close(weight.flatten(1), layer.weight, atol=0, rtol=0)
    images = pictures(entry)
    with torch.no_grad():
        features = forward_features(model.network, images)
        pooled = forward_head(model.network, features, pre_logits=True)
        torch.testing.assert_close(forward_head(model.network, features), layer(pooled))


@pytest.mark.parametrize("pooling", get_args(Pooling))
@pytest.mark.parametrize("name", CLASSES)
def test_a_pooling_works_or_is_refused_by_name(name: str, pooling: str) -> None:
    taken = {
        **{"vit": "token avg max avgmax map prr", "deit-distilled": "token", "pit": "token"},
        **{"eva": "token avg max avgmax map", "pit-distilled": "token", "twins-svt": "avg"},
        **{"coat": "token avg", "convit": "token avg", "xcit": "token avg"},
        **{"swin": "avg max avgmax catavgmax", "convnext": "avg max avgmax"},
        **{"resnet": "avg max avgmax catavgmax", "resnetv2": "avg max avgmax catavgmax"},
    }
    projection = {"projection": None}
    if pooling not in taken[name].split():
        assert "field pooling: timm cannot build" in refusal(name, pooling=pooling, **projection)
        return
    model = random_model(name, pooling=pooling, **projection)
    assert (model.pooling, pooling_of(model.network)) == (pooling, pooling)
    with torch.no_grad():
        features = forward_features(model.network, pictures(ZOO[name]))
        pooled = forward_head(model.network, features, pre_logits=True)
    assert pooled.shape == (2, model.embedding_size)
    if pooling == "avg":
        first, last = model.layout.readout[0], model.layout.readout[-1]
        assert (first, last + 1) == (model.layout.prefix, model.layout.tokens)


def test_a_pooling_that_timm_lets_through_is_refused() -> None:
    model = random_model("twins-svt")
    model.network.global_pool = "token"  # type: ignore[assignment]  # as older timm built it
    with pytest.raises(ConfigurationError, match="field pooling: Twins has no pooling 'token'"):
        try_out(model.network, model.preprocessing, model.device)


def test_a_wrong_option_is_not_taken_for_a_wrong_pooling() -> None:
    message = refusal("twins-svt", pooling="avg", options={"nonsense": 1})
    assert "nonsense" in message
    assert "field pooling" not in message


def test_parallel_coat_lays_its_last_grid_first() -> None:
    """Mean pooling in slow steps, from timm's own list of three grids."""
    entry = ZOO["coat"]
    network: Any = random_model("coat", pooling="avg").network
    wild(network)
    with torch.no_grad():
        parts = network.forward_features(pictures(entry))
        features = forward_features(network, pictures(entry))
        found = forward_head(network, features, pre_logits=True)
    assert [part.shape[1] for part in parts] == [1 + 8 * 12, 1 + 4 * 6, 1 + 2 * 3]
    assert torch.equal(features[:, :7], parts[2])
    mixing: Any = network.aggregate
    means = torch.stack([part[:, 1:].mean(1) for part in parts], 2)
    expected = means @ mixing.weight[0, :, 0] + mixing.bias
    torch.testing.assert_close(found, expected)


def test_pit_features_hold_the_normed_class_tokens_and_all_patches() -> None:
    network = ZOO["pit-distilled"].network()
    images = pictures(ZOO["pit-distilled"])
    last: list[Tensor] = []
    handle = network.transformers[-1].blocks.register_forward_hook(
        lambda _module, _inputs, output: last.append(output)
    )
    with torch.no_grad():
        features = forward_features(network, images)
        handle.remove()
        torch.testing.assert_close(features, network.norm(last[0]), atol=0, rtol=0)
        torch.testing.assert_close(features[:, :2], network.forward_features(images))
        pooled = forward_head(network, features, pre_logits=True)
    torch.testing.assert_close(pooled, features[:, :2].mean(1))


def test_a_class_token_that_is_never_added_is_told() -> None:
    message = refusal("convit", options={"local_up_to_layer": 10})
    assert "the network gives 16 tokens, not 1 and a grid of 4 x 4" in message


def test_mean_pooling_of_an_eva_with_a_class_token(tmp_path: Path) -> None:
    """The last norm stays where the checkpoint has it: before the pooling."""
    entry = ZOO["eva02-token"]
    source, images = entry.network(), pictures(entry)
    model = from_state(tmp_path, "eva02-token", source.state_dict(), pooling="avg")
    with torch.no_grad():
        features = forward_features(model.network, images)
        found = forward_head(model.network, features, pre_logits=True)
        expected = source.forward_features(images)[:, 1:].mean(1)
    torch.testing.assert_close(found, expected)


@every_entry
def test_the_trial_run_leaves_nothing_that_autograd_refuses(
    models: dict[str, LoadedModel], name: str
) -> None:
    tensors = [*models[name].network.buffers(), *models[name].network.parameters()]
    assert not any(tensor.is_inference() for tensor in tensors)


def test_fingerprints_tell_all_entries_apart(models: dict[str, LoadedModel]) -> None:
    assert len({model.fingerprint for model in models.values()}) == len(ZOO)
    assert blocks_and_heads(models["vit"].network) == (3, 2)
