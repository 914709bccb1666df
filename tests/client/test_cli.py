import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pairlens
from pairlens.evaluation import DEFAULT_CALL_TIMEOUT_S
from pairlens.v1 import explanation_service_pb2
from tests.client.conftest import Run
from tests.client.scripted import Running, Scripted, fails


@pytest.mark.parametrize(
    "command", [[], ["models"], ["methods"], ["explain"], ["attention"], ["pair"]]
)
def test_help(run: Run, command: list[str]):
    code, out, err = run(*command, "--help")
    assert (code, err) == (0, "")
    assert "examples:\n" in out


@pytest.mark.parametrize(
    ("command", "seconds"),
    [
        ("models", "30"),
        ("explain", "30, with --method all 600"),
        ("score", "600"),
        ("evaluate", f"{DEFAULT_CALL_TIMEOUT_S:g}"),
        ("warm", "600"),
    ],
)
def test_help_tells_each_commands_own_timeout(run: Run, command: str, seconds: str):
    text = " ".join(run(command, "--help")[1].split())
    assert f"how long each call may take (default {seconds})" in text


def test_version(run: Run):
    assert run("--version") == (0, f"pairlens {pairlens.__version__}\n", "")


def test_models(run: Run):
    code, out, err = run("models")
    assert (code, err) == (0, "")
    assert out.index("vit_tiny_patch16_224") < out.index("resnet18")
    assert "methods of explain" in out
    heading, _, vit, *_, cnn = (line for line in out.splitlines() if line.strip())
    assert vit[heading.index("methods of explain") :].startswith("rollout, raw_attention")
    assert vit[heading.index("methods of pair") :].strip() == ""
    assert cnn[heading.index("methods of explain") :].startswith("grad_cam, pooled_decomposition  ")
    assert cnn[heading.index("methods of pair") :].strip() == "pooled_decomposition, correspondence"


def test_a_model(run: Run):
    code, out, _ = run("models", "vit")
    assert code == 0
    for text in (
        "rollout (default)",
        "affinity (default for a similarity)",
        "strict, reference, paper",
        "0 to 11",
        "refused: its embed",
        "blocks.11.norm1",
    ):
        assert text in out
    assert "1,048,576 bytes" in out


def test_models_json(run: Run):
    models = json.loads(run("models", "--json")[1])["models"]
    assert [model["name"] for model in models] == ["vit", "cnn"]
    details = json.loads(run("models", "vit", "--json")[1])
    assert details["limits"]["max_candidates"] == 4
    assert details["model"]["labels"] == ["[tench]", "goldfish"]
    assert details["model"]["default_explanation_method"] == {
        "name": "rollout",
        "parameters": {"start_block": 0, "end_block": 11},
    }


def test_explain(run: Run, tmp_path: Path):
    code, out, err = run("explain", "cat.png", "--out", "map.png")
    assert (code, err) == (0, "")
    assert "rollout(start_block=0, end_block=11)" in out
    with Image.open(tmp_path / "map.png") as drawn:
        assert drawn.size == (60, 40)


def test_explain_json(run: Run):
    code, out, err = run(
        "explain", "cat.png", "--model", "cnn", "--method", "grad_cam", "--target", "7", "--json"
    )
    assert (code, err) == (0, "")
    (made,) = json.loads(out)["explanations"]
    assert made["image"] == "cat.png"
    assert made["heatmap"]["values"] == [[0, 1, 2], [3, 4, 5]]
    assert made["heatmap"]["geometry"] == {
        "rows": 2,
        "columns": 3,
        "image_height": 40,
        "image_width": 60,
        "region": {"left": 0, "top": 0, "right": 60, "bottom": 40},
    }
    assert made["target"]["class_index"] == 7
    assert made["score"] == 0.75
    assert made["method"] == {"name": "grad_cam", "parameters": {}}
    assert made["provenance"]["model_fingerprint"] == "f00d"
    assert made["timing"]["total_s"] == 1.5
    assert made["out"] is None


def test_method_flags(run: Run, service: Scripted):
    run("explain", "cat.png", "--method", "raw_attention", "--block", 3, "--head", 0)
    run("explain", "cat.png", "--start-block", 2, "--profile", "paper")
    first, second = service.requests(explanation_service_pb2.ExplainRequest)
    assert (first.method.raw_attention.block, first.method.raw_attention.head) == (3, 0)
    assert first.method.raw_attention.HasField("head")
    assert second.method.rollout.start_block == 2


def test_a_label_as_target(run: Run, service: Scripted):
    run("explain", "cat.png", "--method", "grad_cam", "--target", "goldfish")
    assert service.calls[-1].target.label == "goldfish"


def test_the_map_itself(run: Run, tmp_path: Path):
    assert run("explain", "cat.png", "--out", "map.npy")[0] == 0
    assert np.load(tmp_path / "map.npy").tolist() == [[0, 1, 2], [3, 4, 5]]


def test_drawing_flags(run: Run, server: Running, tmp_path: Path):
    style = ["--color-map", "jet", "--opacity", 0.3, "--interpolation", "nearest", "--max-side", 20]
    assert run("explain", "cat.png", "--out", "a.png", *style, "--fixed-range", -1, 9)[0] == 0
    with pairlens.Client(server.target) as client:
        client.explain(tmp_path / "cat.png").save(
            tmp_path / "b.png",
            color_map="jet",
            opacity=0.3,
            interpolation="nearest",
            max_side=20,
            fixed=(-1, 9),
        )
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_several_pictures(run: Run, tmp_path: Path):
    code, out, err = run("explain", "cat.png", "dog.png", "photos/cat.png", "--out", "maps/new")
    assert (code, err) == (0, "")
    written = sorted(path.name for path in (tmp_path / "maps" / "new").iterdir())
    assert written == ["cat-2.png", "cat.png", "dog.png"]
    assert out.index("cat.png") < out.index("dog.png") < out.index("photos/cat.png")


def test_one_picture_into_a_folder(run: Run, tmp_path: Path):
    assert run("explain", "cat.png", "--out", "photos")[0] == 0
    with Image.open(tmp_path / "photos" / "cat.png") as drawn:
        assert np.ptp(np.asarray(drawn)) > 0


def test_one_of_several_fails(run: Run, tmp_path: Path):
    code, out, err = run("explain", "cat.png", "notes.txt", "dog.png", "--out", "maps", "--json")
    assert code == 3
    assert err == "pairlens: notes.txt: not a picture\n"
    assert [path.name for path in sorted((tmp_path / "maps").iterdir())] == ["cat.png", "dog.png"]
    made = json.loads(out)["explanations"]
    assert ["error" in one for one in made] == [False, True, False]
    assert made[1]["error"]["reason"] == "IMAGE_UNDECODABLE"


def test_a_servers_failure_ends_several(run: Run, service: Scripted):
    service.script.append(lambda _: None)  # the list of models
    service.script.extend([fails("INTERNAL", "error 1f3a")] * 50)
    code, out, err = run("explain", *["cat.png"] * 9, "--json")
    assert (code, out, err) == (1, "", "pairlens: error 1f3a\n")


def test_pair(run: Run, tmp_path: Path):
    code, out, err = run("pair", "cat.png", "dog.png", "--out", "pair.png")
    assert (code, err) == (0, "")
    assert "cnn: pooled_decomposition(profile=strict" in out
    assert "0.5" in out
    with Image.open(tmp_path / "pair.png") as drawn:
        assert drawn.height > 30


def test_pair_json(run: Run):
    code, out, err = run("pair", "cat.png", "dog.png", "notes.txt", "--json")
    assert code == 3
    assert err == "pairlens: notes.txt: not a picture\n"
    document = json.loads(out)
    match, failure = document["results"]
    assert document["query"] == "cat.png"
    assert (match["candidate"], match["similarity"]) == ("dog.png", 0.5)
    assert match["query_map"]["values"] == [[0, 1, 2], [3, 4, 5]]
    assert match["candidate_map"]["values"] == [[0, 2, 4], [6, 8, 10]]
    assert match["query_map"]["sum"] == 0.25
    assert match["candidate_map"]["geometry"]["image_height"] == 30
    assert (failure["candidate"], failure["error"]["field"]) == ("notes.txt", "candidates[1]")


def test_pair_parameters(run: Run, service: Scripted):
    flags = ["--redistribution", "none", "--profile", "reference", "--bias-mode", "in_tokens"]
    assert run("pair", "cat.png", "dog.png", *flags)[0] == 0
    sent = service.calls[-1].method.pooled_decomposition
    assert (sent.redistribution, sent.profile, sent.bias_mode) == (1, 2, 2)
    assert not sent.match_matrix


def test_match_matrix(run: Run, tmp_path: Path):
    assert run("pair", "cat.png", "dog.png", "--match-matrix", "m.npy")[0] == 0
    assert np.load(tmp_path / "m.npy").shape == (6, 6)
    assert run("pair", "cat.png", "dog.png", "notes.txt", "cat.png", "--match-matrix", "m.npz")[0]
    with np.load(tmp_path / "m.npz") as matrices:
        assert sorted(matrices) == ["candidate_0", "candidate_2"]


def test_no_candidate_can_be_used(run: Run, tmp_path: Path):
    code, out, err = run(
        "pair", "cat.png", "notes.txt", "--out", "pair.png", "--match-matrix", "m.npy", "--json"
    )
    assert (code, err) == (3, "pairlens: notes.txt: not a picture\n")
    assert len(json.loads(out)["results"]) == 1
    assert not (tmp_path / "pair.png").exists()
    assert not (tmp_path / "m.npy").exists()


def test_no_server(run: Run):
    code, out, err = run("models", "--server", "127.0.0.1:1")
    assert (code, out) == (1, "")
    assert err.startswith("pairlens: no pairlens server can be reached at 127.0.0.1:1: ")
    assert err.count("\n") == 1


def test_interrupted(run: Run, monkeypatch):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pairlens.Client, "explain", interrupt)
    assert run("explain", "cat.png") == (130, "", "pairlens: interrupted\n")


def test_as_a_module_and_into_a_closed_pipe(server: Running, tmp_path: Path):
    command = [sys.executable, "-m", "pairlens", "models", "--server", server.target]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "resnet18" in done.stdout
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()  # nobody reads, as after `| head`
    assert process.stderr.read() == b""
    assert process.wait() == 1
    process.stderr.close()
