"""Models by name, classes by label."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pairlens_server.errors import (
    ConfigurationError,
    InvalidParameterError,
    ModelNotFoundError,
)
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.models.loading import load_model
from pairlens_server.models.registry import ModelRegistry, resolve_label

from .conftest import config

LABELS = ("tench, Tinca tinca", "crane", "cock", "crane, lifting device", "crane", "maillot, crane")


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(config("vit", random_weights=True, seed=0, classes=len(LABELS)))


def test_models_keep_their_order(model: LoadedModel) -> None:
    models = [replace(model, name=name) for name in ("b", "a", "c")]
    registry = ModelRegistry(models)
    assert registry.names() == ("b", "a", "c")
    assert registry.all() == tuple(models)
    assert registry.get("a") is models[1]


def test_names_are_unique(model: LoadedModel) -> None:
    with pytest.raises(ConfigurationError, match="named m"):
        ModelRegistry([model, model])


def test_unknown_model_names_near_ones(model: LoadedModel) -> None:
    registry = ModelRegistry([replace(model, name=n) for n in ("resnet50", "dino-vit")])
    with pytest.raises(ModelNotFoundError, match=r"served: resnet50$"):
        registry.get("resnet5")
    with pytest.raises(ModelNotFoundError, match=r"served: resnet50, dino-vit$") as caught:
        registry.get("z" * 10_000)
    assert len(caught.value.message) < 200
    assert caught.value.field == "model"
    with pytest.raises(ModelNotFoundError, match=r"served: none$"):
        ModelRegistry([]).get("a")


def test_unknown_model_lists_ten_of_many(model: LoadedModel) -> None:
    names = [f"{'m' * 50}-{number}" for number in range(80)]
    registry = ModelRegistry([replace(model, name=name) for name in names])
    with pytest.raises(ModelNotFoundError) as caught:
        registry.get("z" * 20_000)
    message = caught.value.message
    assert message.endswith(f"served: {', '.join(names[:10])}, … and 70 more")
    assert len(message) < 1000
    ten = ModelRegistry([replace(model, name=name) for name in names[:10]])
    with pytest.raises(ModelNotFoundError, match=r"-9$"):
        ten.get("z")


@pytest.mark.parametrize(
    ("label", "index"),
    [
        ("tench, Tinca tinca", 0),
        ("tench", 0),
        ("Tinca tinca", 0),
        (" cock ", 2),
        ("crane, lifting device", 3),
        ("lifting device", 3),
    ],
)
def test_label_or_one_of_its_parts(model: LoadedModel, label: str, index: int) -> None:
    assert resolve_label(replace(model, labels=LABELS), label) == index


def test_whole_label_goes_before_a_part(model: LoadedModel) -> None:
    assert resolve_label(replace(model, labels=("crane, bird", "crane")), "crane") == 1


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("crane", "2 classes .1: crane; 4: crane."),
        ("Tench", "no class of m is labelled 'Tench'; near: tench"),
        ("", "no class of m is labelled ''"),
        ("zzzzzz", "no class of m is labelled 'zzzzzz'$"),
    ],
)
def test_no_single_class(model: LoadedModel, label: str, message: str) -> None:
    with pytest.raises(InvalidParameterError, match=message) as caught:
        resolve_label(replace(model, labels=LABELS), label)
    assert caught.value.field == "target.label"


def test_ambiguous_part_lists_the_classes(model: LoadedModel) -> None:
    with pytest.raises(InvalidParameterError, match="0: a, x; 1: b, x"):
        resolve_label(replace(model, labels=("a, x", "b, x")), "x")


def test_model_without_labels(model: LoadedModel) -> None:
    with pytest.raises(InvalidParameterError, match="has no labels"):
        resolve_label(model, "tench")
