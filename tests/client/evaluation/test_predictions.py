"""The predicted classes of a data set, with the scripted server."""

import json
import time

import pytest

from pairlens.errors import PairlensError
from pairlens.evaluation import predictions, read_dataset
from pairlens.evaluation.predictions import predict_data
from tests.client.evaluation.images import SCORE
from tests.client.evaluation.pictures import class_folders
from tests.client.scripted import fails


@pytest.fixture
def data(tmp_path):
    return read_dataset(class_folders(tmp_path / "data", {"a": 4, "b": 4}))


def predict(client, data, tmp_path, **options):
    return predict_data(client, client.get_model("vit").model, data, tmp_path / "run", **options)


def test_pictures_without_a_class_stay_skipped(client, service, data, tmp_path):
    client.get_model("vit")
    gone = data.images[0].path
    data.file(gone).unlink()
    # One of the pictures, whichever comes first.
    service.script.extend([lambda context: None, fails("NOT_FINITE", "numbers overflow")])
    classes, skipped = predict(client, data, tmp_path)
    assert len(classes) == 6
    assert set(classes.values()) == {1}
    reasons = {file.path: file.reason for file in skipped}
    assert reasons.pop(gone) == "No such file or directory"
    assert list(reasons.values()) == ["numbers overflow"]
    assert not {gone, *reasons} & set(classes)
    sent = len(service.requests(SCORE))
    assert predict(client, data, tmp_path) == (classes, skipped)
    assert len(service.requests(SCORE)) == sent


def test_what_an_interrupted_run_found_is_kept(client, service, data, tmp_path):
    client.get_model("vit")

    def later(context):
        time.sleep(0.3)
        fails("INTERNAL", "it broke")(context)

    service.script.extend([lambda context: None] * 4 + [later] * 50)  # one of them GetModel
    with pytest.raises(PairlensError, match="it broke"):
        predict(client, data, tmp_path)
    service.script.clear()
    (file,) = (tmp_path / "run").glob("predictions-*.json")
    kept = json.loads(file.read_text())
    assert sum(each is not None for each in kept) == 3
    asked = []
    again = predict(client, data, tmp_path, progress=lambda *told: asked.append(told))
    assert len(again[0]) == 8
    assert [count for _, count, _ in asked] == [4, 5, 6, 7, 8]


def test_they_are_written_on_the_way(client, data, tmp_path, monkeypatch):
    monkeypatch.setattr(predictions, "_SAVE_EVERY_S", 0)
    held = []

    def progress(what, count, total):
        (file,) = (tmp_path / "run").glob("predictions-*.json")
        found = sum(each is not None for each in json.loads(file.read_text()))
        held.append((what, count, total, found))

    predict(client, data, tmp_path, progress=progress)
    assert held == [("predicting classes", count, 8, count) for count in range(1, 9)]
