"""PairFaith against the real server, with small models and pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pairlens import Client
from pairlens.errors import InvalidParameterError
from pairlens.evaluation.dataset import Dataset, read_dataset
from pairlens.evaluation.pair_measures import PairOptions
from pairlens.evaluation.pairfaith import PairFaith
from pairlens.evaluation.rows import method_rows
from pairlens.metrics import Metric
from pairlens.models import MethodKind
from pairlens.targets import SimilarTo
from tests.client.evaluation.pair_pictures import STRICT, pair_dataset, picture, strict

OPTIONS = PairOptions(seed=1, fractions=(0.1, 0.5), substrates=("mean", "black"))


@pytest.fixture(scope="module")
def client(server_target: str) -> Iterator[Client]:
    with Client(server_target, timeout=120) as connected:
        yield connected


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return pair_dataset(tmp_path_factory.mktemp("pictures"))


def pairfaith(client: Client, dataset: Dataset, directory: Path, model: str = "tiny-vit"):
    info = client.get_model(model).model
    rows = method_rows(STRICT, info, MethodKind.PAIR)
    return PairFaith(client, info, dataset, rows, directory, OPTIONS)


@pytest.fixture(scope="module")
def protocol(client: Client, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory):
    return pairfaith(client, dataset, tmp_path_factory.mktemp("run"))


def test_queries_are_of_all_classes_in_turn(protocol: PairFaith, dataset: Dataset) -> None:
    cases = protocol.cases()
    assert len(cases) == 21
    assert {case.split("/")[0] for case in cases[:5]} == set("abcde")
    assert [file.path for file in protocol.skipped()] == ["a/broken.png"]


def test_embeddings_are_kept(client: Client, dataset: Dataset, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    info = client.get_model("tiny-vit").model
    rows = method_rows(STRICT, info, MethodKind.PAIR)
    first = PairFaith(client, info, dataset, rows, tmp_path, OPTIONS, lambda *x: told.append(x))
    cases = first.cases()
    assert told[-1] == ("embedding pictures", 21, 21)
    (kept,) = tmp_path.iterdir()
    told.clear()
    again = PairFaith(client, info, dataset, rows, tmp_path, OPTIONS, lambda *x: told.append(x))
    assert again.cases() == cases
    assert told == []
    # What an interrupted run left undone is asked for.
    vectors = np.load(kept)
    changed = vectors.copy()
    changed[3:] = np.nan
    np.save(kept, changed)
    third = PairFaith(client, info, dataset, rows, tmp_path, OPTIONS, lambda *x: told.append(x))
    third.cases()
    assert told[-1] == ("embedding pictures", 21, 21)
    np.testing.assert_allclose(np.load(kept), vectors, atol=1e-5)


def unit(client: Client, path: Path) -> np.ndarray:
    vector = client.embed([path], model="tiny-vit").vectors[0].astype(np.float64)
    return vector / np.linalg.norm(vector)


def test_a_record_by_hand(client: Client, dataset: Dataset, protocol: PairFaith) -> None:
    case = next(path for path in protocol.cases() if path.startswith("b/"))
    record = protocol.run(strict(protocol), case)
    query, label = dataset.file(case), "b"
    vectors = {image.path: unit(client, dataset.file(image)) for image in dataset.images}
    ranked = sorted(vectors, key=lambda path: -float(vectors[path] @ vectors[case]))
    positive, second = [path for path in ranked if path[0] == label and path != case][:2]
    negative = next(path for path in ranked if path[0] != label)
    assert [drawn.picture for drawn in record.maps] == [case, positive]

    maps = client.pair_similarity(
        query,
        [dataset.file(positive), dataset.file(second)],
        model="tiny-vit",
        method="pooled_decomposition",
        profile="strict",
    ).matches
    np.testing.assert_allclose(record.maps[0].heatmap, maps[0].query.heatmap, atol=1e-6)

    def curves(match, **more):
        scored = client.score_saliency(
            query,
            model="tiny-vit",
            heatmap=match.query,
            partner_heatmap=match.candidate,
            target=SimilarTo(dataset.file(positive)),
            metrics=[
                Metric.of(
                    "deletion",
                    fractions=(0.1, 0.2, 0.5),
                    substrate="mean",
                    unit="cells",
                    order=order,
                )
                for order in ("most_relevant_first", "least_relevant_first")
            ],
            sides=("image", "partner", "both"),
            return_embeddings=True,
            **more,
        ).scores
        return {
            (order, score.side): score
            for order, part in (("morf", scored[:3]), ("lerf", scored[3:]))
            for score in part
        }

    found, values = curves(maps[0]), record.values
    for side in ("image", "partner"):
        morf, lerf = found["morf", side], found["lerf", side]
        if values[f"{side}.srg"] is None:
            assert morf.clean_score - morf.masked_score < 0.05
            continue
        # The server normalises by the same two ends.
        assert values[f"{side}.del_auc"] == pytest.approx(morf.normalized_value, abs=1e-4)
        assert values[f"{side}.ins_auc"] == pytest.approx(lerf.normalized_value, abs=1e-4)
        assert values[f"{side}.srg"] == pytest.approx(
            lerf.normalized_value - morf.normalized_value, abs=2e-4
        )

    def drops(match) -> float:
        curve = curves(match)["morf", "image"].curve
        copies = curve.embeddings.astype(np.float64)
        copies /= np.linalg.norm(copies, axis=1, keepdims=True)
        # The copies' embeddings are those whose cosine is scored.
        np.testing.assert_allclose(copies @ vectors[positive], curve.scores, atol=1e-5)
        gain = copies @ vectors[positive] - copies @ vectors[negative]
        return float(np.trapezoid(gain[0] - gain, curve.fractions))

    assert values["contrast"] == pytest.approx(drops(maps[0]), abs=1e-5)
    assert values["specificity"] == pytest.approx(drops(maps[0]) - drops(maps[1]), abs=1e-5)
    assert values["completeness"] < 1e-5
    assert record.group == "b"
    assert set(values) == {measure.name for measure in protocol.measures}
    assert set(record.notes) == {name for name, value in values.items() if value is None}


@pytest.mark.parametrize("row", ["random", "centre", "edges", "single-image rollout"])
def test_a_map_that_ignores_its_partner_has_no_specificity(protocol: PairFaith, row: str) -> None:
    record = protocol.run(row, protocol.cases()[0])
    assert record.values["specificity"] == 0
    assert record.values["partner_correlation"] == pytest.approx(1)
    assert record.values["completeness"] is None
    assert "no share" in record.notes["completeness"]
    assert record.values["contrast"] != 0
    if row == "random":
        assert record.values["rank_drop"] == 0


def test_rank_drop_is_of_the_random_control_of_the_case(protocol: PairFaith) -> None:
    for case in protocol.cases()[:3]:
        assert protocol.run("centre", case).values["rank_drop"] in (-1, 0, 1)
    assert set(protocol._prepared().random_hits) >= set(protocol.cases()[:3])


def test_a_run_gives_the_same_numbers_again(
    client: Client, dataset: Dataset, protocol: PairFaith, tmp_path: Path
) -> None:
    case = protocol.cases()[1]
    again = pairfaith(client, dataset, tmp_path)
    for row in (strict(protocol), "random"):
        first, second = protocol.run(row, case), again.run(row, case)
        assert first.values.keys() == second.values.keys()
        for name, value in first.values.items():
            assert second.values[name] == pytest.approx(value, abs=1e-4), name
    assert protocol.settings() == again.settings()
    assert protocol.settings()["server_version"]
    assert protocol.settings()["controls"]["default_method_revision"] >= 1


def test_rows_that_the_model_cannot_give_say_why(
    client: Client, dataset: Dataset, tmp_path: Path
) -> None:
    method, *controls = pairfaith(client, dataset, tmp_path, "tiny-resnet").rows
    assert not method.control
    assert not method.refusal
    rows = {row.name: row for row in controls}
    assert list(rows) == ["random", "centre", "edges", "single-image rollout", "random weights"]
    assert "attention" in rows["single-image rollout"].refusal
    assert rows["random weights"].refusal == (
        "the server holds no model that is tiny-resnet with random weights; "
        "random_twin: true in its models file adds one"
    )


def test_random_weights_are_those_of_the_twin(
    client: Client, dataset: Dataset, tmp_path: Path
) -> None:
    # Any other served model stands for the twin.
    info = replace(client.get_model("tiny-vit").model, random_twin="tiny-headless")
    rows = method_rows(STRICT, info, MethodKind.PAIR)
    protocol = PairFaith(client, info, dataset, rows, tmp_path, OPTIONS)
    case = protocol.cases()[0]
    record = protocol.run("random weights", case)
    query, partner = (dataset.file(drawn.picture) for drawn in record.maps)
    (match,) = client.pair_similarity(query, partner, model="tiny-headless").matches
    np.testing.assert_allclose(record.maps[0].heatmap, match.query.heatmap, atol=1e-6)
    np.testing.assert_allclose(record.maps[1].heatmap, match.candidate.heatmap, atol=1e-6)
    assert record.values["partner_correlation"] < 1


def test_two_pictures_of_a_class_are_too_few(client: Client, tmp_path: Path) -> None:
    for label in "ab":
        (tmp_path / label).mkdir()
        for number in range(2):
            picture(number, ord(label)).save(tmp_path / label / f"{number}.png")
    with pytest.raises(InvalidParameterError, match="two others of its class"):
        pairfaith(client, read_dataset(tmp_path), tmp_path)
