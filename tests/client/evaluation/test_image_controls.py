"""Controls of single pictures."""

import numpy as np
import pytest

from pairlens._tensors import to_float32
from pairlens.evaluation.controls import control_map
from pairlens.v1 import explanation_service_pb2
from tests.client.evaluation.images import EXPLAIN, SCORE, protocol


@pytest.mark.parametrize("control", ["random", "centre", "edges"])
def test_drawn_controls_are_given_maps(client, service, dataset, control):
    images = protocol(client, dataset, seed=3)
    record = images.run(control, "trout/000.png")
    (request,) = service.requests(SCORE)
    sent = to_float32(request.heatmap.values, 2, "map")
    (drawn,) = record.maps
    assert sent.shape == (14, 14)
    assert request.heatmap.extent == explanation_service_pb2.HEATMAP_EXTENT_GRID
    assert np.array_equal(sent, drawn.heatmap)
    # Where the scripted server says that the model looks.
    box = client.explain(dataset.file("trout/000.png"), model="vit").geometry.region
    assert drawn.region == (box.left, box.top, box.right, box.bottom)
    picture = dataset.picture("trout/000.png")
    expected = control_map(control, picture, box, 14, 14, "3\0trout/000.png")
    assert np.array_equal(sent, expected)


def test_controls_can_be_told_apart(client, dataset):
    images = protocol(client, dataset)
    names = [row.name for row in images.rows if row.control]
    assert names == ["random", "centre", "edges", "random weights"]
    first, second = (
        images.run("random", path).maps[0].heatmap for path in ("trout/000.png", "goldfish/000.png")
    )
    assert not np.array_equal(first, second)


def test_random_weights_are_those_of_the_twin(client, service, dataset):
    images = protocol(client, dataset)
    record = images.run("random weights", "trout/000.png")
    (explained,), (scored,) = service.requests(EXPLAIN), service.requests(SCORE)
    assert explained.model == "vit_random"
    assert explained.method.rollout.end_block == 11
    assert not explained.HasField("target")  # rollout takes none
    assert scored.model == "vit"
    assert not scored.HasField("target")
    sent = to_float32(scored.heatmap.values, 2, "map")
    assert np.array_equal(sent, record.maps[0].heatmap)


def test_random_weights_explain_the_class_that_the_model_predicts(client, service, dataset):
    service.models[0].default_explanation_method.score_cam.SetInParent()
    images = protocol(client, dataset)
    images.run("random weights", "trout/000.png")
    (explained,) = service.requests(EXPLAIN)
    assert explained.target.class_index == 1  # the scripted prediction
    asked, scored = service.requests(SCORE)
    assert asked.model == scored.model == "vit"
    assert [metric.WhichOneof("metric") for metric in asked.metrics] == ["energy_pointing_game"]


def test_without_a_twin_the_control_says_so(client, service, dataset):
    service.models[0].random_twin = ""
    row = protocol(client, dataset).rows[-1]
    assert row.name == "random weights"
    assert "random weights" in row.refusal
