"""The SDK and the CLI against the real server in its own process."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pairlens import (
    Box,
    Client,
    ImageTooLargeError,
    ImageUndecodableError,
    InvalidParameterError,
    MethodUnsupportedError,
    ModelNotFoundError,
    PairMatch,
    Rendering,
    RequestTooLargeError,
    SimilarTo,
)
from pairlens.cli import main
from tests.conftest import MAX_IMAGE_BYTES, MAX_REQUEST_BYTES
from tests.contract.support import noise, png, unseen
from tests.server_process import MODELS


@pytest.fixture(scope="module")
def client(server_target: str) -> Iterator[Client]:
    with Client(server_target) as made:
        yield made


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{seed}.png" for seed in range(3)]
    for seed, path in enumerate(paths):
        noise(seed).save(path)
    return paths


def test_models(client):
    assert [model.name for model in client.list_models()] == [m["name"] for m in MODELS]
    details = client.get_model("tiny-vit")
    assert (details.model.grid_rows, details.model.grid_columns) == (4, 6)
    assert details.limits.max_candidates == 64


def test_explain_takes_paths_bytes_pictures_and_arrays_alike(client, pictures):
    picture = noise(0)
    given = (pictures[0], str(pictures[0]), pictures[0].read_bytes(), picture, np.asarray(picture))
    maps = [client.explain(one, model="tiny-vit-cls").heatmap for one in given]
    assert maps[0].shape == (4, 6)
    for other in maps[1:]:
        np.testing.assert_allclose(other, maps[0], atol=1e-6)


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("raw_attention", {"block": 1, "head": 0}),
        ("rollout", {"start_block": 1, "end_block": 2, "profile": "reference"}),
    ],
)
def test_parameters_arrive_and_are_echoed(client, method, parameters):
    result = client.explain(png(1), model="tiny-vit-cls", method=method, **parameters)
    assert result.method.name == method
    assert result.method.parameters.items() >= parameters.items()
    default = client.explain(png(1), model="tiny-vit-cls", method=method)
    assert not np.allclose(result.heatmap, default.heatmap)


def test_targets(client):
    by_index = client.explain(png(1), model="tiny-resnet", method="grad_cam", target=1)
    by_label = client.explain(png(1), model="tiny-resnet", method="grad_cam", target="dog")
    assert by_index.target == by_label.target
    np.testing.assert_array_equal(by_index.heatmap, by_label.heatmap)


def test_a_target_of_pictures_and_of_their_embeddings(client, pictures):
    by_pictures = client.explain(pictures[0], model="tiny-vit", target=SimilarTo(pictures[1:]))
    assert len(by_pictures.target.similarities) == 2
    axes = [
        client.explain(path, model="tiny-vit", target=SimilarTo(embeddings=np.eye(6)))
        for path in pictures[1:]
    ]
    embeddings = np.array([answer.target.similarities for answer in axes])
    by_embeddings = client.explain(
        pictures[0], model="tiny-vit", target=SimilarTo(embeddings=embeddings)
    )
    np.testing.assert_allclose(by_embeddings.heatmap, by_pictures.heatmap, atol=1e-6)
    assert by_embeddings.target.similarities == pytest.approx(by_pictures.target.similarities)


def test_class_similarity_is_the_sum_of_the_pairs(client, pictures):
    summed = client.class_similarity(pictures[0], pictures[1:], model="tiny-vit")
    pairs = client.pair_similarity(
        pictures[0], pictures[1:], model="tiny-vit", method="pooled_decomposition"
    )
    total = np.sum([match.query.heatmap for match in pairs.matches], axis=0)
    np.testing.assert_allclose(summed.heatmap, total, atol=1e-5)


def test_what_matches_a_region(client, pictures):
    results = client.pair_similarity(
        pictures[0],
        pictures[1:],
        model="tiny-vit",
        method="correspondence",
        query_region=Box(0, 0, 28, 20),
    )
    for match in results.matches:
        outside = match.query.heatmap.copy()
        outside[:2, :3] = 0
        assert not outside.any()
        assert match.query.heatmap.sum() == pytest.approx(match.candidate.heatmap.sum(), abs=1e-5)


def test_further_maps_masks_and_numbers(client):
    heads = client.explain(png(1), model="tiny-vit-cls", method="raw_attention", each="head")
    assert [panel.head for panel in heads.panels] == [0, 1]
    mean = np.mean([panel.heatmap for panel in heads.panels], axis=0)
    np.testing.assert_allclose(mean, heads.heatmap, atol=1e-6)
    masked = client.explain(png(1), model="tiny-vit-cls", method="attention_mask", ratio=0.5)
    assert masked.mask.sum() == 12
    units = client.explain(png(1), model="tiny-vit", method="hidden_unit", strongest=2)
    assert [unit.unit for unit in units.units] == [panel.unit for panel in units.panels]
    semantic = client.explain(png(1), model="tiny-vit-cls", method="semantic_attention")
    assert len(semantic.interrelations) == 6
    assert semantic.keypoints.shape == (4, 6)


def test_the_servers_mask_is_the_clients(client):
    asked = {"model": "tiny-vit-cls", "method": "attention_mask"}
    drawn = client.explain(noise(3, 90, 140), **asked, render=Rendering(max_side=100))
    plain = client.explain(noise(3, 90, 140), **asked)
    servers = Image.open(io.BytesIO(drawn.rendered.overlay_png))
    np.testing.assert_array_equal(np.asarray(servers), np.asarray(plain.overlay(max_side=100)))


def test_pairs_add_up_and_a_bad_candidate_fails_alone(client, pictures):
    results = client.pair_similarity(
        pictures[0], [pictures[1], b"no picture", pictures[2]], model="tiny-vit", match_matrix=True
    )
    assert [isinstance(result, PairMatch) for result in results] == [True, False, True]
    (failure,) = results.failures
    assert isinstance(failure.error, ImageUndecodableError)
    assert failure.error.field == "candidates[1]"
    for match in results.matches:
        for side in (match.query, match.candidate):
            assert side.heatmap.sum() + side.bias_share + side.prefix_share == pytest.approx(
                match.similarity, abs=1e-5
            )
        assert match.match_matrix.shape == (24, 24)


def test_the_servers_overlay_is_the_clients(client):
    picture = noise(3, 90, 140)
    drawn = client.explain(picture, model="tiny-vit", render=Rendering(max_side=100))
    plain = client.explain(picture, model="tiny-vit")
    assert drawn.rendered is not None
    servers = Image.open(io.BytesIO(drawn.rendered.overlay_png))
    assert (servers.mode, servers.size) == ("RGB", (100, 64))
    assert plain.rendered is None
    clients = plain.overlay(max_side=100)
    np.testing.assert_array_equal(np.asarray(servers), np.asarray(clients))
    np.testing.assert_array_equal(np.asarray(drawn.overlay(max_side=100)), np.asarray(clients))


def test_a_map_goes_back_to_the_pixels_that_the_model_saw(client):
    result = client.explain(noise(3, 100, 400), model="tiny-resnet", method="grad_cam")
    upsampled = result.upsampled()
    assert upsampled.shape == (100, 400)
    unseen = np.isnan(upsampled)
    assert unseen[:, :40].all()
    assert unseen[:, -40:].all()
    assert not unseen[:, 180:220].all()


@pytest.mark.parametrize(
    ("call", "error", "field"),
    [
        (lambda c: c.explain(png(1), model="nobody"), ModelNotFoundError, "model"),
        (lambda c: c.explain(b"x", model="tiny-vit"), ImageUndecodableError, "image"),
        (
            lambda c: c.explain(bytes(MAX_IMAGE_BYTES + 1), model="tiny-vit"),
            ImageTooLargeError,
            "image",
        ),
        (lambda c: c.explain(bytes(MAX_REQUEST_BYTES), model="tiny-vit"), RequestTooLargeError, ""),
        (
            lambda c: c.explain(png(1), model="tiny-vit", method="raw_attention", block=3),
            InvalidParameterError,
            "method.raw_attention.block",
        ),
        (
            lambda c: c.explain(png(1), model="tiny-resnet", method="rollout"),
            MethodUnsupportedError,
            "method",
        ),
        (
            lambda c: c.pair_similarity(
                png(1), png(2), model="tiny-vit-cls", method="pooled_decomposition"
            ),
            MethodUnsupportedError,
            "method",
        ),
        (
            lambda c: c.explain(
                png(1), model="tiny-headless", method="grad_cam", target=SimilarTo(b"x")
            ),
            ImageUndecodableError,
            "target.similarity.images[0]",
        ),
        (
            lambda c: c.explain(png(1), model="tiny-headless", method="grad_cam", target=0),
            InvalidParameterError,
            "target",
        ),
        (
            lambda c: c.explain(
                png(1), model="tiny-vit", target=SimilarTo(embeddings=np.ones((2, 5)))
            ),
            InvalidParameterError,
            "target.similarity.embeddings",
        ),
        (
            lambda c: c.pair_similarity(png(1), [png(2)] * 65, model="tiny-vit"),
            InvalidParameterError,
            "candidates",
        ),
    ],
)
def test_mistakes_are_typed_and_the_server_goes_on(client, call, error, field):
    with pytest.raises(error) as caught:
        call(client)
    assert caught.value.field == field
    # Unseen, so that the model runs: a cached answer would not show that the device goes on.
    result = client.explain(unseen(), model="tiny-vit")
    assert result.timing.cached_images == 0
    assert result.heatmap.shape == (4, 6)


def test_cli_pair_and_explain(server_target, pictures, tmp_path, capsys):
    server = ("--server", server_target)
    pair, explained = tmp_path / "pair.png", tmp_path / "map.png"
    paths = [str(path) for path in pictures]
    assert main(["pair", *paths, "--model", "tiny-vit", "--out", str(pair), *server]) == 0
    assert Image.open(pair).mode == "RGB"
    rollout = ["--model", "tiny-vit-cls", "--method", "rollout", "--out", str(explained)]
    assert main(["explain", paths[0], *rollout, *server]) == 0
    assert Image.open(explained).size == (56, 40)
    capsys.readouterr()
    assert main(["pair", *paths, "--model", "tiny-vit", "--json", *server]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["results"]) == 2
    assert np.shape(answer["results"][0]["query_map"]["values"]) == (4, 6)


def test_cli_mistake_is_one_line_and_code_2(server_target, pictures, capsys):
    arguments = ["explain", str(pictures[0]), "--model", "tiny-vit", "--block", "9"]
    assert main([*arguments, "--method", "raw_attention", "--server", server_target]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1
    assert "0 to 2" in captured.err
