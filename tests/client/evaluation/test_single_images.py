"""The protocol "images"."""

import pytest

from pairlens.errors import InvalidParameterError, MethodUnsupportedError
from pairlens.evaluation import Evaluation, evaluate_images, read_dataset
from pairlens.evaluation.protocol import UnusableFileError
from pairlens.metrics import Metric
from pairlens.v1 import explanation_service_pb2
from tests.client.evaluation.images import SCORE, knows, protocol
from tests.client.evaluation.pictures import class_folders, write
from tests.client.scripted import fails


def test_a_method_is_scored_in_one_call(client, service, dataset):
    knows(service, "average_drop")
    metrics = "deletion(steps=4),average_drop"
    images = protocol(client, dataset, "rollout(start_block=2)", metrics, timeout=7.0)
    record = images.run("rollout(start_block=2)", "goldfish/001.png")
    (request,) = service.requests(SCORE)
    assert request.image.inline == (dataset.root / "goldfish/001.png").read_bytes()
    assert request.method.rollout.start_block == 2
    assert not request.HasField("target")
    assert [metric.WhichOneof("metric") for metric in request.metrics] == [
        "deletion",
        "average_drop",
    ]
    assert request.metrics[0].deletion.steps == 4
    assert service.deadlines[-1] == pytest.approx(7, abs=0.5)
    assert record.values == {"deletion(steps=4)": 0.3125, "average_drop": 0.5, "clean_score": 0.75}
    assert record.group == "goldfish"
    curve = record.curves["deletion(steps=4)"]
    assert curve.fractions == (0, 0.25, 0.5, 1)
    assert curve.scores == (0.75, 0.5, 0.25, 0)
    (drawn,) = record.maps
    assert drawn.picture == "goldfish/001.png"
    assert len(drawn.region) == 4


def test_the_label_may_be_the_target(client, service, dataset):
    images = protocol(client, dataset, "score_cam", target="label")
    assert sorted(images.cases()) == ["goldfish/000.png", "goldfish/001.png"]
    (skipped,) = images.skipped()
    assert (skipped.path, skipped.reason) == ("trout/000.png", "vit has no class 'trout'")
    images.run("score_cam", "goldfish/000.png")
    assert service.requests(SCORE)[0].target.class_index == 1


def test_labels_that_the_model_does_not_know(client, dataset, tmp_path):
    trout = read_dataset(class_folders(tmp_path / "other", {"trout": 2}))
    with pytest.raises(InvalidParameterError, match="vit knows none of the labels"):
        protocol(client, trout, target="label")
    with pytest.raises(InvalidParameterError, match="predicted or label"):
        protocol(client, trout, target="best")


def test_methods_of_similarities_are_refused(client, dataset):
    images = protocol(client, dataset, "all")
    refused = {row.name: row.refusal for row in images.rows if row.refusal}
    assert refused == {"affinity": "it explains a similarity and no class"}


def test_a_model_without_classes(client, service, dataset):
    service.models[0].classes = 0
    with pytest.raises(InvalidParameterError, match="vit has no classes"):
        protocol(client, dataset)


def test_in_one_call(client, service, dataset, tmp_path):
    evaluation = evaluate_images(
        client,
        dataset.root,
        model="vit",
        methods="rollout,affinity",
        metrics="deletion",
        directory=tmp_path / "run",
        controls=False,
        progress=False,
    )
    assert evaluation.complete
    (line, refused) = evaluation.table()
    assert (line["row"], line["deletion"], line["cases"]) == ("rollout", 0.3125, 3)
    assert refused["refusal"]
    assert evaluation.mean_curve("rollout", "deletion").mean.tolist() == [0.75, 0.5, 0.25, 0]
    calls = len(service.requests(SCORE))
    again = evaluate_images(
        client,
        dataset,
        model="vit",
        methods=["rollout", "affinity"],
        metrics=[Metric.of("deletion")],
        directory=tmp_path / "run",
        controls=False,
        progress=False,
    )
    assert len(service.requests(SCORE)) == calls == 3
    assert again.table() == evaluation.table() == Evaluation.load(tmp_path / "run").table()


def test_what_the_server_refuses_for_good_becomes_the_row_s_refusal(client, service, dataset):
    images = protocol(client, dataset)
    service.script.append(fails("METHOD_UNSUPPORTED", "no LibraGrad here"))
    with pytest.raises(MethodUnsupportedError, match="no LibraGrad here"):
        images.run("rollout", "trout/000.png")


def test_the_profile_reference_scores_the_label(client, service, dataset, tmp_path):
    images = protocol(client, dataset, "rollout,score_cam", profile="reference")
    assert sorted(images.cases()) == ["goldfish/000.png", "goldfish/001.png"]
    assert images.settings()["target"] == "label"
    images.run("score_cam", "goldfish/000.png")
    assert service.requests(SCORE)[-1].target.class_index == 1
    given = protocol(client, dataset, profile="reference", target="predicted")
    assert len(given.cases()) == 3
    assert given.settings()["target"] == "predicted"
    assert protocol(client, dataset, profile="strict").settings()["target"] == "predicted"
    trout = read_dataset(class_folders(tmp_path / "other", {"trout": 2}))
    with pytest.raises(InvalidParameterError, match="none of the labels, which the profile ref"):
        protocol(client, trout, profile="reference")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [2, 2, 2, 2]),
        # Rollout takes no target, nor does the twin's map, which is one of rollout.
        ({"profile": "reference"}, [3, 2, 2, 3]),
        ({"profile": "reference", "enlargement": "nearest"}, [1, 1, 1, 1]),
        ({"enlargement": "bilinear_aligned"}, [3, 3, 3, 3]),
    ],
)
def test_how_cells_become_pixels(client, service, dataset, options, expected):
    images = protocol(client, dataset, "rollout,score_cam", **options)
    for row in ("rollout", "score_cam", "random", "random weights"):
        images.run(row, "goldfish/000.png")
    names = ["", "nearest", "bilinear", "bilinear_aligned"]
    sent = [request.enlargement for request in service.requests(SCORE)]
    assert [explanation_service_pb2.Enlargement.Name(number).lower() for number in sent] == [
        f"enlargement_{names[number]}" for number in expected
    ]
    settings = images.settings()
    assert settings["server_version"] == "9.9"
    assert settings["controls"]["default_method_revision"] == 3
    assert settings["enlargement"] == names[expected[1]]
    assert settings["enlargement_without_target"] == names[expected[0]]


def test_an_unknown_enlargement(client, dataset):
    with pytest.raises(InvalidParameterError, match="nearest, bilinear, bilinear_aligned; not 'x'"):
        protocol(client, dataset, enlargement="x")


def test_a_larger_limit_goes_on_from_a_smaller_one(client, service, dataset, tmp_path):
    def run(limit, directory):
        return evaluate_images(
            client,
            read_dataset(dataset.root, limit=limit),
            model="vit",
            methods="rollout",
            metrics="deletion",
            directory=tmp_path / directory,
            progress=False,
        )

    run(2, "run")
    sent = len(service.requests(SCORE))
    longer = run(3, "run")
    assert len(service.requests(SCORE)) - sent == sent // 2
    assert longer.complete
    assert longer.table() == run(3, "fresh").table()
    # Another picture under the name of a case is another case.
    write(dataset.root / longer.records[0].case, seed=99)
    with pytest.raises(InvalidParameterError, match="cases are others, or their files"):
        run(3, "run")


def test_a_file_that_is_gone_is_named_without_its_folder(client, dataset):
    images = protocol(client, dataset)
    dataset.file("trout/000.png").unlink()
    with pytest.raises(UnusableFileError) as raised:
        images.run("rollout", "trout/000.png")
    assert (raised.value.path, raised.value.reason) == (
        "trout/000.png",
        "No such file or directory",
    )
