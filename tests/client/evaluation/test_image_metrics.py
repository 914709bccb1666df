"""Metrics of single pictures, as columns and as values."""

import numpy as np
import pytest

from pairlens.errors import InvalidParameterError
from pairlens.evaluation.image_metrics import _shrunk
from pairlens.metrics import Metric
from tests.client.evaluation.images import SCORE, knows, protocol


def test_measures_and_curves_describe_the_metrics(client, service, dataset):
    knows(service, "insertion", "average_drop")
    images = protocol(
        client,
        dataset,
        metrics=[
            "deletion",
            Metric.of("deletion", order="least_relevant_first"),
            "average_drop, insertion,deletion",
        ],
    )
    assert [(item.name, item.label, item.higher_is_better) for item in images.measures] == [
        ("deletion", "Deletion", False),
        ("deletion(order=least_relevant_first)", "Deletion(order=least_relevant_first)", True),
        ("average_drop", "Average drop", False),
        ("insertion", "Insertion", True),
        ("clean_score", "Clean score", None),
    ]
    assert [(item.name, item.higher_is_better) for item in images.curves] == [
        ("deletion", False),
        ("deletion(order=least_relevant_first)", True),
        ("insertion", True),
    ]
    assert images.headline == "insertion"
    assert protocol(client, dataset, metrics="average_drop,deletion").headline == "deletion"
    assert protocol(client, dataset, metrics="average_drop").headline == "average_drop"


def test_an_undefined_value_keeps_its_reason(client, service, dataset):
    knows(service, "average_increase")
    images = protocol(client, dataset, metrics="average_increase")
    record = images.run("rollout", "trout/000.png")
    assert record.values == {"average_increase": None, "clean_score": 0.75}
    assert record.notes == {"average_increase": "the picture scores zero"}


def test_games_are_played_where_there_are_boxes(client, service, boxed):
    images = protocol(client, boxed, metrics="pointing_game,deletion")
    with_box, without = (images.run("rollout", path) for path in ("a.png", "b.png"))
    first, second = service.requests(SCORE)
    (box,) = first.region.boxes
    assert (box.left, box.top, box.right, box.bottom) == (1, 2, 9, 10)
    assert len(first.metrics) == 2
    assert not second.HasField("region")
    assert [metric.WhichOneof("metric") for metric in second.metrics] == ["deletion"]
    assert with_box.values == {"pointing_game": 1.0, "deletion": 0.3125, "clean_score": 0.75}
    assert without.values == {"pointing_game": None, "deletion": 0.3125, "clean_score": 0.75}
    assert without.notes == {"pointing_game": "the picture has no box"}


def test_a_picture_without_any_metric_takes_no_call(client, service, boxed):
    images = protocol(client, boxed, metrics="pointing_game")
    assert images.run("rollout", "b.png").values == {"pointing_game": None, "clean_score": None}
    assert service.requests(SCORE) == []


def test_games_need_boxes(client, dataset):
    with pytest.raises(InvalidParameterError, match="needs boxes"):
        protocol(client, dataset, metrics="pointing_game")


def test_by_default_all_metrics_that_the_data_allow(client, service, dataset, boxed):
    knows(service, "average_drop", "average_increase", "insertion", "energy_pointing_game")
    names = [item.name for item in protocol(client, dataset, metrics=None).measures]
    assert names == [
        "average_drop",
        "average_increase",
        "deletion",
        "insertion",
        "clean_score",
    ]
    names = [item.name for item in protocol(client, boxed, metrics=None).measures]
    assert names[4:6] == ["pointing_game", "energy_pointing_game"]


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ("removal", "unknown metric 'removal'"),
        ("deletion(step=3)", "unknown parameter 'step'"),
        ("insertion", "the server does not know the metric 'insertion'"),
        ("", "no metric"),
    ],
)
def test_mistakes_in_metrics_are_found_at_once(client, dataset, metrics, message):
    with pytest.raises(InvalidParameterError, match=message):
        protocol(client, dataset, metrics=metrics)


def test_the_profile_is_of_metrics_that_take_one(client, service, dataset):
    knows(service, "insertion", "average_drop")
    for info in service.models[0].metrics:
        if info.name in ("deletion", "insertion"):
            info.parameters.add(name="profile", type="enum", description="which")
    metrics = "deletion(steps=4),insertion(profile=strict),average_drop"
    images = protocol(client, dataset, metrics=metrics, profile="reference")
    assert images.settings()["metrics"] == [
        "deletion(profile=reference, steps=4)",
        "insertion(profile=strict)",
        "average_drop",
    ]
    # The columns are named as they were written.
    assert [item.name for item in images.measures[:3]] == [
        "deletion(steps=4)",
        "insertion(profile=strict)",
        "average_drop",
    ]
    other = protocol(client, dataset, metrics=metrics, profile="strict")
    assert other.settings() != images.settings()
    with pytest.raises(InvalidParameterError, match="profile"):
        protocol(client, dataset, profile="wild")


def test_a_map_with_more_cells_than_a_report_shows_is_kept_by_means():
    large = np.arange(128 * 192, dtype=np.float32).reshape(128, 192)
    small = _shrunk(large)
    assert small.shape == (43, 64)
    assert small.mean() == pytest.approx(large.mean(), rel=1e-3)
    halved = _shrunk(large[:, :128])
    assert np.allclose(halved, large[:, :128].reshape(64, 2, 64, 2).mean(axis=(1, 3)))
    assert np.array_equal(_shrunk(large[:64, :64]), large[:64, :64])
