"""From an entry of the models file to a loaded model: weights, heads, projection, mismatches."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pairlens_server.models.loading import load_model

from .conftest import config, features, pictures, random_model, refusal, source

Write = Callable[[str, Any], Path]


def test_model_is_frozen() -> None:
    model = random_model("vit", projection={"size": 3})
    assert model.projection is not None
    for module in (model.network, model.projection):
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())
    assert not model.network.grad_checkpointing
    assert model.device == torch.device("cpu")


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_dtype(name: str) -> None:
    model = random_model("vit", dtype=name, projection={"size": 3})
    assert model.dtype is getattr(torch, name)
    assert model.projection is not None
    parameters = [*model.network.parameters(), *model.projection.parameters()]
    assert {parameter.dtype for parameter in parameters} == {model.dtype}


def test_half_precision_file_fills_a_float32_network(write: Write) -> None:
    network = source("vit").half()
    model = load_model(config("vit", checkpoint=write("w.safetensors", network.state_dict())))
    assert {parameter.dtype for parameter in model.network.parameters()} == {torch.float32}
    torch.testing.assert_close(
        model.network.head.weight, network.head.weight.float(), atol=0, rtol=0
    )


def test_random_weights_follow_the_seed_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = random_model("resnet")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert random_model("resnet").fingerprint == first.fingerprint
    assert random_model("resnet").classes == 1000


@pytest.mark.parametrize("kind", ["vit", "resnet", "bit"])
@pytest.mark.parametrize("classes", [None, 5])
def test_classes_of_the_checkpoint(write: Write, kind: str, classes: int | None) -> None:
    path = write("w.pth", source(kind).state_dict())
    assert load_model(config(kind, checkpoint=path, classes=classes)).classes == 5


@pytest.mark.parametrize("kind", ["vit", "deit", "resnet", "bit"])
def test_head_can_be_left_out(write: Write, kind: str) -> None:
    path = write("w.pth", source(kind).state_dict())
    model = load_model(config(kind, checkpoint=path, classes=0))
    assert model.classes == 0
    full = load_model(config(kind, checkpoint=path))
    size = model.preprocessing.height
    torch.testing.assert_close(features(model, size), features(full, size))


def test_classes_that_the_checkpoint_lacks(write: Write) -> None:
    path = write("w.pth", source("vit", classes=0).state_dict())
    assert "w.pth has no class head" in refusal(config("vit", checkpoint=path, classes=5))
    path = write("w.pth", source("vit").state_dict())
    assert "w.pth has a head of 5" in refusal(config("vit", checkpoint=path, classes=6))


def test_head_over_several_blocks_is_refused(write: Write) -> None:
    path = write("w.pth", source("vit", classes=0).state_dict())
    head = write("linear.pth", {"module.linear.weight": torch.ones(5, 128)})
    message = refusal(config("vit", checkpoint=path, head_checkpoint=head))
    assert "linear.pth: the head reads 128 features and the network gives 32" in message


def test_mean_pooling_of_a_class_token_model(write: Write) -> None:
    """The last norm stays where the checkpoint has it: before the pooling."""
    network: Any = source("vit", classes=0)
    model = load_model(
        config("vit", checkpoint=write("w.pth", network.state_dict()), pooling="avg")
    )
    with torch.no_grad():
        expected = network.forward_features(pictures(32))[:, 1:].mean(1)
    torch.testing.assert_close(features(model, 32), expected)


@pytest.mark.parametrize("fc_norm", [False, True])
@pytest.mark.parametrize("class_token", [False, True])
def test_mean_pooled_model(write: Write, fc_norm: bool, class_token: bool) -> None:
    options = {"class_token": class_token}
    network = source("vit", global_pool="avg", fc_norm=fc_norm, **options)
    path = write("w.pth", network.state_dict())
    model = load_model(config("vit", checkpoint=path, pooling="avg", options=options))
    with torch.no_grad():
        torch.testing.assert_close(model.network(pictures(32)), network(pictures(32)))
    assert isinstance(model.network.fc_norm, nn.Identity) is not fc_norm


def test_registers(write: Write) -> None:
    network = source("vit", reg_tokens=4)
    path = write("w.pth", network.state_dict())
    model = load_model(config("vit", checkpoint=path, options={"reg_tokens": 4}))
    with torch.no_grad():
        torch.testing.assert_close(model.network(pictures(32)), network(pictures(32)))


@pytest.mark.parametrize("kind", ["vit", "deit"])
def test_checkpoint_of_another_grid(
    write: Write, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    network: Any = source(kind)
    path = write("w.pth", network.state_dict())
    with caplog.at_level(logging.INFO):
        model = load_model(config(kind, checkpoint=path, preprocessing={"size": [32, 64]}))
    assert "resampled from 4x4 to 4x8" in caplog.text
    network.set_input_size(img_size=(32, 64))
    with torch.no_grad():
        found, expected = model.network(pictures(32, 64)), network(pictures(32, 64))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("own_file", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_projection(write: Write, kind: str, bias: bool, own_file: bool) -> None:
    layer = nn.Linear(32, 6, bias=bias)
    state, weights = source(kind).state_dict(), layer.state_dict()
    settings: dict[str, Any] = {"size": 6, "bias": bias}
    if own_file:
        settings["checkpoint"] = write("p.safetensors", weights)
    else:
        state = {f"module.{key}": value for key, value in state.items()}
        state |= {f"module.projection.{key}": value for key, value in weights.items()}
    model = load_model(config(kind, checkpoint=write("w.pth", state), projection=settings))
    assert model.embedding_size == 6
    assert model.projection is not None
    assert torch.equal(model.projection.weight, layer.weight)
    assert (model.projection.bias is not None) is bias


def test_projection_mismatches(write: Write) -> None:
    state = source("vit").state_dict()
    path = write("w.pth", state)
    assert "w.pth has no projection.weight" in refusal(
        config("vit", checkpoint=path, projection={"size": 6})
    )
    weights = {"projection.weight": torch.ones(6, 32), "projection.bias": torch.ones(6)}
    path = write("w.pth", state | weights)
    assert "has a projection: declare it" in refusal(config("vit", checkpoint=path))
    assert "2 of another shape: weight ([6, 32] for [7, 32])" in refusal(
        config("vit", checkpoint=path, projection={"size": 7})
    )
    assert "1 unexpected: bias" in refusal(
        config("vit", checkpoint=path, projection={"size": 6, "bias": False})
    )


def test_mismatch_lists_keys_of_each_kind(write: Write) -> None:
    state = source("vit").state_dict()
    missing = [key for key in state if key.startswith("blocks.1.")]
    for key in missing:
        del state[key]
    state |= {"extra": torch.ones(1), "cls_token": torch.ones(1, 1, 8)}
    path = write("w.pth", state)
    message = refusal(config("vit", checkpoint=path))
    assert "w.pth does not fit the network: " in message
    assert str(path.parent) not in message
    assert f"{len(missing)} missing: blocks.1.norm1.weight, " in message
    assert f"and {len(missing) - 10} more" in message
    assert "1 unexpected: extra" in message
    assert "1 of another shape: cls_token ([1, 1, 8] for [1, 1, 32])" in message


def test_old_batch_norm_without_counters(write: Write) -> None:
    state = {k: v for k, v in source("resnet").state_dict().items() if "num_batches" not in k}
    load_model(config("resnet", checkpoint=write("w.pth", state)))


def test_labels(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("n01440764\ttench, Tinca tinca\ngoldfish\n", encoding="utf-8")
    model = random_model("vit", classes=2, labels=path)
    assert model.labels == ("tench, Tinca tinca", "goldfish")
    for classes, message in ((3, "2 labels for 3 classes"), (0, "2 labels for 0 classes")):
        entry = config("vit", random_weights=True, seed=0, classes=classes, labels=path)
        assert message in refusal(entry)
    entry = config("vit", random_weights=True, seed=0, classes=2, labels=tmp_path / "none.txt")
    assert "none.txt: No such file" in refusal(entry)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_device_without_a_gpu() -> None:
    for device in ("cuda", "cuda:1"):
        entry = config("vit", random_weights=True, seed=0, device=device)
        assert f"field device: {device} asked for" in refusal(entry)
    assert random_model("vit", device="auto").device == torch.device("cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_device_with_a_gpu() -> None:
    for device in ("auto", "cuda", "cuda:0"):
        model = random_model("vit", device=device, projection={"size": 3})
        assert model.device == torch.device("cuda", 0)
        assert {p.device for p in model.network.parameters()} == {model.device}
    entry = config("vit", random_weights=True, seed=0, device="cuda:99")
    assert "cuda:99 asked for" in refusal(entry)
