import json
from pathlib import Path

import numpy as np
from PIL import Image

from pairlens import attention_figure
from pairlens.v1 import methods_pb2
from tests.client.answers import explanation_of
from tests.client.conftest import Run
from tests.client.scripted import Scripted
from tests.client.scripted_answers import KEYPOINTS


def test_the_table_is_the_mean_over_heads(run: Run):
    code, out, err = run("attention", "cat.png")
    assert (code, err) == (0, "")
    assert "vit: semantic_attention" in out
    rows = [line.split() for line in out.splitlines()]
    assert ["0", "0.15625", "0.84375", "0.5", "0.5", "31"] in rows
    assert ["1", "0.1875", "0.8125", "29"] in rows  # NK and NN are unset


def test_the_figure(run: Run, tmp_path: Path, service: Scripted):
    flags = ["--block", "5", "--line-rule", "max", "--line", "0.5", "--color-map", "inferno"]
    assert run("attention", "cat.png", *flags, "--out", "a.png")[0] == 0
    assert service.calls[-1].method.semantic_attention == methods_pb2.SemanticAttention(
        block=5, line_rule=2, line=0.5
    )
    made = explanation_of("semantic_attention", block=5, line_rule=2, line=0.5)
    with Image.open(tmp_path / "a.png") as drawn:
        expected = attention_figure(made, color_map="inferno")
        np.testing.assert_array_equal(np.asarray(drawn), np.asarray(expected))


def test_numbers(run: Run, tmp_path: Path):
    code, out, _ = run("attention", "cat.png", "--out", "a.npz", "--json")
    assert code == 0
    document = json.loads(out)
    assert (document["image"], document["out"]) == ("cat.png", "a.npz")
    assert document["keypoints"] == KEYPOINTS.tolist()
    assert document["interrelations"][3]["nk"] is None
    assert document["interrelations"][0]["focus_index"] == 30
    with np.load(tmp_path / "a.npz", allow_pickle=False) as saved:
        assert saved["interrelations"].shape == (36, 7)
