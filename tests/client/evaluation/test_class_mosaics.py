"""Mosaics of classes against the real server, with small models and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pairlens import Client
from pairlens.errors import InvalidParameterError
from pairlens.evaluation.class_mosaics import ClassMosaics
from pairlens.evaluation.dataset import Dataset, read_dataset
from pairlens.evaluation.mosaics import tile_box
from pairlens.evaluation.rows import method_rows
from pairlens.models import MethodKind
from pairlens.rendering import Interpolation

MODEL = "tiny-resnet"
METHODS = "grad_cam, x_grad_cam"


@pytest.fixture(scope="module")
def client(server_target: str) -> Iterator[Client]:
    with Client(server_target, timeout=120) as connected:
        yield connected


def pictures(root: Path, labels: Sequence[str], each: int = 3) -> Dataset:
    for level, label in enumerate(labels):
        (root / label).mkdir()
        for number in range(each):
            # Loud colours: random models tell pictures apart.
            noise = 255 * np.random.default_rng(10 * level + number).integers(0, 2, (3, 3, 3))
            picture = Image.fromarray(noise.astype(np.uint8)).resize((60, 50), 0)
            picture.save(root / label / f"{number}.png")
    return read_dataset(root)


def protocol(
    client: Client, dataset: Dataset, run: Path, methods: str = METHODS, model: str = MODEL
) -> ClassMosaics:
    info = client.get_model(model).model
    return ClassMosaics(
        client, info, dataset, method_rows(methods, info, MethodKind.EXPLANATION), run
    )


@pytest.fixture(scope="module")
def by_label(client: Client, tmp_path_factory: pytest.TempPathFactory) -> ClassMosaics:
    # In the model's labels: "cat, house cat", "dog", "newt", "ship", "tram" are 0, 1, 2, 4, 5.
    dataset = pictures(tmp_path_factory.mktemp("a"), ["house_cat", "dog", "ship", "tram", "newt"])
    return protocol(client, dataset, tmp_path_factory.mktemp("run"))


def test_labels_of_the_model_are_the_targets(client: Client, by_label: ClassMosaics) -> None:
    settings = by_label.settings()
    assert settings["target"] == "label"
    server = client.embed(Image.new("RGB", (9, 9)), model=MODEL).provenance.server_version
    assert settings["server_version"] == server
    assert settings["controls"]["default_method_revision"] >= 1
    assert len(by_label.cases()) == 15
    case = next(path for path in by_label.cases() if path.startswith("house_cat/"))
    record = by_label.run("grad_cam", case)
    assert record.group == "house_cat"
    (drawn,) = record.maps
    file = by_label.directory / drawn.picture
    explained = client.explain(file, model=MODEL, method="grad_cam", target=0)
    np.testing.assert_allclose(drawn.heatmap, explained.heatmap, atol=1e-6)


def test_the_right_tile_lies_where_the_energy_is_read(by_label: ClassMosaics) -> None:
    model = by_label._model
    height, width = model.input_height // 2, model.input_width // 2
    for case in by_label.cases()[:4]:
        record = by_label.run("grad_cam", case)
        mosaic = by_label._chosen()[case]
        assert mosaic.tiles[mosaic.place].path == case
        box = tile_box(mosaic.place, height, width)
        with Image.open(by_label.directory / record.maps[0].picture) as opened:
            found = np.asarray(opened)[int(box.top) : int(box.bottom), int(box.left) :][:, :width]
        with Image.open(by_label._dataset.file(case)) as opened:
            # 60 x 50 pixels; the tile is 3 : 2.
            part = opened.convert("RGB").resize(
                (width, height), Image.Resampling.BICUBIC, (0, 5, 60, 45)
            )
        assert np.array_equal(found, np.asarray(part))


def test_energy_is_the_positive_share_in_the_tile(client: Client, by_label: ClassMosaics) -> None:
    model = by_label._model
    case = by_label.cases()[0]
    record = by_label.run("x_grad_cam", case)
    (drawn,) = record.maps
    # A fine raster in place of the exact shares of cells.
    found = client.explain(
        by_label.directory / drawn.picture,
        model=MODEL,
        method="x_grad_cam",
        target=by_label._classes[case],
    )
    height, width = model.input_height, model.input_width
    fine = found.upsampled(8 * height, 8 * width, interpolation=Interpolation.NEAREST)
    positive = np.where(np.isnan(fine), 0, np.maximum(fine, 0))
    mosaic = by_label._chosen()[case]
    box = tile_box(mosaic.place, 4 * height, 4 * width)
    inside = positive[int(box.top) : int(box.bottom), int(box.left) : int(box.right)]
    if record.values["energy"] is None:
        assert positive.sum() == 0
        assert record.notes["energy"]
    else:
        assert record.values["energy"] == pytest.approx(inside.sum() / positive.sum(), abs=0.01)


def test_predictions_are_the_targets_of_labels_that_the_model_lacks(
    client: Client, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "run").mkdir()
    dataset = pictures(tmp_path / "data", ["p", "q", "r", "s", "t", "u"], each=6)
    mosaics = protocol(client, dataset, tmp_path / "run", model="tiny-vit")
    assert mosaics.settings()["target"] == "predicted"
    predicted = {}
    for image in dataset.images:
        explained = client.explain(dataset.file(image), model="tiny-vit", method="grad_cam")
        predicted[image.path] = explained.target.class_index
    assert len(set(predicted.values())) >= 4
    for case in mosaics.cases():
        mosaic = mosaics._chosen()[case]
        assert len({predicted[tile.path] for tile in mosaic.tiles}) == 4
        assert len({tile.path[0] for tile in mosaic.tiles}) == 4
        assert mosaics._classes[case] == predicted[case]
    (kept,) = (tmp_path / "run").glob("predictions-*.json")
    written = kept.stat().st_mtime_ns
    again = protocol(client, dataset, tmp_path / "run", model="tiny-vit")
    assert again.cases() == mosaics.cases()
    assert kept.stat().st_mtime_ns == written


def test_rows(client: Client, by_label: ClassMosaics, tmp_path: Path) -> None:
    rows = {row.name: row for row in by_label.rows}
    controls = ["random", "centre", "edges", "single-image rollout", "random weights"]
    assert list(rows) == ["grad_cam", "x_grad_cam", *controls]
    assert rows["single-image rollout"].refusal
    # A method that explains similarities alone has no class to look for.
    dataset = by_label._dataset
    more = protocol(client, dataset, tmp_path, "pooled_decomposition, rollout")
    refusals = [row.refusal for row in more.rows if not row.control]
    assert refusals[0] == "it explains a similarity and takes no class"
    # Rollout as a method is not its own control.
    assert "single-image rollout" not in [row.name for row in more.rows]


def test_a_model_without_classes_has_no_mosaics(client: Client, by_label: ClassMosaics) -> None:
    info = client.get_model("tiny-headless").model
    rows = method_rows("all", info, MethodKind.EXPLANATION)
    with pytest.raises(InvalidParameterError, match="knows no classes"):
        ClassMosaics(client, info, by_label._dataset, rows, Path("unused"))
