"""The main job: the demo starts a real server, explains real pairs and leaves nothing behind."""

import re
import subprocess
import sys

import pytest
from PIL import Image

from pairlens_server.demo.local_server import ServerFailedError, local_server
from pairlens_server.demo.pairs import PAIRS


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "pictures"
    run = subprocess.run(
        [sys.executable, "-m", "pairlens_server.demo", "--out", out],
        capture_output=True,
        text=True,
        timeout=240,
    )
    return run, out


def test_it_succeeds_and_draws_every_pair(demo):
    run, out = demo
    assert run.returncode == 0, run.stdout + run.stderr
    assert {path.name for path in out.iterdir()} == {f"{pair.name}.png" for pair in PAIRS}
    for path in out.iterdir():
        picture = Image.open(path)
        assert picture.mode == "RGB"
        assert min(picture.size) > 300
        assert len(picture.getcolors(maxcolors=1 << 24)) > 1000


def test_the_table_has_a_row_for_each_pair_and_model(demo):
    run, _ = demo
    rows = re.findall(r"│ (\S+) +│ (demo-\S+) +│ (\d\.\d+) +│ (\d+) ms", run.stdout)
    assert {(pair, model) for pair, model, _, _ in rows} == {
        (pair.name, model) for pair in PAIRS for model in ("demo-vit", "demo-resnet")
    }
    assert all(0 < float(similarity) < 1 for _, _, similarity, _ in rows)


def test_the_shipped_photographs_are_attributed():
    attribution = (PAIRS[0].query.parent / "ATTRIBUTION.md").read_text()
    assert "CC BY 4.0" in attribution
    for pair in PAIRS:
        assert pair.query.name in attribution
        assert pair.candidate.name in attribution


def test_a_server_that_cannot_start_says_why(tmp_path):
    with pytest.raises(ServerFailedError, match="no-such"), local_server(tmp_path / "no-such.yaml"):
        raise AssertionError("it started")
