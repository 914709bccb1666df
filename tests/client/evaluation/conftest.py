"""Data sets of small pictures."""

import pytest

from pairlens.evaluation import read_dataset
from tests.client.evaluation.pictures import class_folders, write


@pytest.fixture
def dataset(tmp_path):
    return read_dataset(class_folders(tmp_path / "data", {"goldfish": 2, "trout": 1}))


@pytest.fixture
def boxed(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.png", seed=ord(name))
    lines = "path,label,left,top,right,bottom\na.png,goldfish,1,2,9,10\nb.png,goldfish,,,,\n"
    (tmp_path / "data.csv").write_text(lines)
    return read_dataset(tmp_path / "data.csv")
