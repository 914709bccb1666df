"""Pair mosaics against the real server, with small models and pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from pairlens import Client
from pairlens.evaluation.dataset import Dataset
from pairlens.evaluation.pair_mosaics import PairMosaics
from pairlens.evaluation.report import write_report
from pairlens.evaluation.results import Evaluation
from pairlens.evaluation.rows import method_rows
from pairlens.evaluation.runner import run_protocol
from pairlens.models import MethodKind
from tests.client.evaluation.pair_pictures import SIZE, STRICT, pair_dataset, strict


@pytest.fixture(scope="module")
def client(server_target: str) -> Iterator[Client]:
    with Client(server_target, timeout=120) as connected:
        yield connected


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return pair_dataset(tmp_path_factory.mktemp("pictures"))


@pytest.mark.parametrize("model", ["tiny-vit", "tiny-resnet"])
def test_pair_mosaics(client: Client, dataset: Dataset, tmp_path: Path, model: str) -> None:
    info = client.get_model(model).model
    rows = method_rows(STRICT, info, MethodKind.PAIR)
    protocol = PairMosaics(client, info, dataset, rows, tmp_path)
    cases = protocol.cases()
    assert len(cases) == 21
    digests = {image.path: image.digest for image in dataset.images}
    for case in cases[:2]:
        # Its quarters mirror each other. An odd margin is cropped off the middle by half a pixel.
        centre = protocol.run("centre", case)
        middle = 1e-5 if info.preprocessing.resize_mode == "stretch" else 0.005
        assert centre.values["energy"] == pytest.approx(0.25, abs=middle)
        record = protocol.run(strict(protocol), case)
        assert 0 <= record.values["energy"] <= 1
        mosaic, partner = record.maps
        assert (mosaic.made, partner.made) == (True, False)
        with Image.open(tmp_path / mosaic.picture) as opened:
            assert opened.size == (info.input_width, info.input_height)
        path = partner.picture
        assert path[0] == case[0] == record.group
        assert digests[path] != digests[case]
    files = sorted((tmp_path / "mosaics").iterdir())
    assert len(files) == 2
    before = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    again = PairMosaics(client, info, dataset, rows, tmp_path)
    assert again.run(strict(again), cases[0]).values == pytest.approx(
        protocol.run(strict(protocol), cases[0]).values
    )
    assert [hashlib.sha256(file.read_bytes()).hexdigest() for file in files] == before


def test_pair_mosaics_are_made_once_and_hold_no_path_of_this_machine(
    client: Client, dataset: Dataset, tmp_path: Path
) -> None:
    info = client.get_model("tiny-vit").model
    rows = method_rows(STRICT, info, MethodKind.PAIR)
    protocol = PairMosaics(client, info, dataset, rows, tmp_path / "run")
    run_protocol(protocol, tmp_path / "run", limit=2, progress=False, concurrency=1)
    files = sorted((tmp_path / "run" / "mosaics").iterdir())
    assert len(files) == 2
    before = [(file.stat().st_ino, file.stat().st_mtime_ns) for file in files]
    for row in ("centre", "edges"):
        protocol.run(row, protocol.cases()[0])
    assert [(file.stat().st_ino, file.stat().st_mtime_ns) for file in files] == before
    # A run's folder can be moved: its own pictures are found in it.
    (tmp_path / "run").rename(tmp_path / "moved")
    evaluation = Evaluation.load(tmp_path / "moved")
    assert {record.row for record in evaluation.records} >= {strict(protocol), "centre"}
    for record in evaluation.records:
        mosaic, partner = record.maps
        assert evaluation.picture(mosaic).size == (info.input_width, info.input_height)
        assert evaluation.picture(partner).size == SIZE
        assert not Path(partner.picture).is_absolute()
    report = write_report(evaluation, tmp_path / "report.html").read_text("utf-8")
    assert "not there any more" not in report
    for folder in (dataset.root, tmp_path):
        assert str(folder) not in report
