"""The models file: what it may say, and one line on what it may not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pairlens_server.errors import ConfigurationError
from pairlens_server.models.config import load_model_configs
from pairlens_server.models.preprocessing import Interpolation, ResizeMode

ENTRY: dict[str, Any] = {"name": "a", "architecture": "resnet50", "checkpoint": "a.pth"}


def write(folder: Path, *entries: dict[str, Any]) -> Path:
    path = folder / "models.yaml"
    path.write_text(yaml.safe_dump({"models": list(entries)}))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_model_configs(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path.name}: ")
    return message


def test_paths_start_at_the_folder_of_the_file(tmp_path: Path) -> None:
    entry = ENTRY | {
        "head_checkpoint": "heads/h.pth",
        "labels": "/elsewhere/l.txt",
        "projection": {"size": 8, "checkpoint": "p.safetensors"},
    }
    (model,) = load_model_configs(write(tmp_path, entry))
    assert model.checkpoint == tmp_path / "a.pth"
    assert model.head_checkpoint == tmp_path / "heads" / "h.pth"
    assert model.labels == Path("/elsewhere/l.txt")
    assert model.projection is not None
    assert model.projection.checkpoint == tmp_path / "p.safetensors"


def test_models_keep_the_order_of_the_file(tmp_path: Path) -> None:
    models = load_model_configs(write(tmp_path, ENTRY | {"name": "b"}, ENTRY))
    assert [model.name for model in models] == ["b", "a"]


def test_preprocessing_values(tmp_path: Path) -> None:
    settings = {"size": 224, "resize": "pad", "interpolation": "nearest", "mean": [0, 0.5, 1]}
    (model,) = load_model_configs(write(tmp_path, ENTRY | {"preprocessing": settings}))
    assert model.preprocessing.size == (224, 224)
    assert model.preprocessing.resize is ResizeMode.PAD
    assert model.preprocessing.interpolation is Interpolation.NEAREST
    assert model.preprocessing.mean == (0, 0.5, 1)
    (model,) = load_model_configs(write(tmp_path, ENTRY | {"preprocessing": {"size": [8, 16]}}))
    assert model.preprocessing.size == (8, 16)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"name": "A b"}, "model 'A b', field name"),
        ({"architectur": "x"}, "model 'a', field architectur: Extra inputs"),
        ({"architecture": "hf-hub:timm/resnet50"}, "field architecture"),
        ({"architecture_options": {"num_classes": 3}}, "architecture_options: num_classes cannot"),
        (
            {"architecture_options": {"dynamic_img_pad": True}},
            "architecture_options: dynamic_img_pad cannot be set here: the patch grid must be",
        ),
        (
            {"architecture_options": {"dynamic_img_size": True}},
            "architecture_options: dynamic_img_size cannot be set here: the patch grid must be",
        ),
        ({"checkpoint": None}, "model 'a': checkpoint is missing"),
        ({"checkpoint": "a\0.pth"}, "model 'a', field checkpoint: no file can have this name"),
        ({"labels": "\ud800"}, "model 'a', field labels: no file can have this name"),
        ({"seed": 1}, "model 'a': seed only applies"),
        ({"random_weights": True, "seed": 1}, "model 'a': random_weights: true excludes"),
        ({"checkpoint": None, "random_weights": True}, "random_weights: true needs a seed"),
        ({"pooling": "mean"}, "field pooling"),
        ({"classes": -1}, "field classes"),
        ({"projection": {"bias": True}}, "field projection.size: Field required"),
        ({"preprocessing": {"size": 0}}, "field preprocessing.size.0"),
        ({"preprocessing": {"size": [1, 2, 3]}}, "field preprocessing.size"),
        ({"preprocessing": {"size": True}}, "field preprocessing.size"),
        ({"preprocessing": {"crop_fraction": 1.5}}, "field preprocessing.crop_fraction"),
        ({"preprocessing": {"std": [0, 1, 1]}}, "field preprocessing.std: every value"),
        ({"name": "a" * 57, "random_twin": True}, "takes a name of at most 56 characters"),
        (
            {"checkpoint": None, "random_weights": True, "seed": 0, "random_twin": True},
            "random_twin: true needs another seed than 0",
        ),
        ({"device": "gpu"}, "field device"),
        ({"dtype": "int8"}, "field dtype"),
        ({"dtype": "int8", "device": "gpu"}, "(and 1 more)"),
    ],
)
def test_wrong_entry_is_named(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    assert expected in refusal(write(tmp_path, ENTRY | change))


def test_names_are_unique(tmp_path: Path) -> None:
    assert "two models are named a" in refusal(write(tmp_path, ENTRY, ENTRY))


@pytest.mark.parametrize("other", [{"name": "a-random"}, {"random_twin": True}])
def test_random_twins_count_as_names(tmp_path: Path, other: dict[str, Any]) -> None:
    twice = "two models are named a(-random)?.* .a random_twin counts as a model.$"
    entries = [ENTRY | {"random_twin": True}, ENTRY | other]
    assert re.search(twice, refusal(write(tmp_path, *entries)))
    assert re.search(twice, refusal(write(tmp_path, *reversed(entries))))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "models: []",
        "models: {a: 1}",
        "- 1",
        "models: [1]",
        "models: !!set {a}",
        "a: 2020-13-45",
    ],
)
def test_wrong_shape_of_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(text)
    refusal(path)


def test_unreadable_files(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "absent.yaml")
    path = tmp_path / "models.yaml"
    path.write_text("models: [")
    assert "no YAML" in refusal(path)
    path.write_bytes(b"\xff\xfe\x00")
    assert "no UTF-8" in refusal(path)


def test_yaml_tags_build_no_objects(tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text("models: !!python/object/apply:os.getcwd []")
    assert "no YAML" in refusal(path)


def test_the_shipped_example_is_valid() -> None:
    example = Path(__file__).parents[2] / "deploy" / "models.example.yaml"
    models = load_model_configs(example)
    assert {"dino-vit-small", "resnet50", "bit-retrieval"} <= {model.name for model in models}
