"""ScoreSaliency, batched and in chunks, against the oracle's one copy at a time."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from torch import Tensor

from pairlens.rendering import Box
from pairlens_server.demo.pairs import MODELS_FILE
from pairlens_server.fidelity.copies import Side
from pairlens_server.fidelity.drops import AverageDrop, AverageIncrease
from pairlens_server.fidelity.erasures import Deletion, Insertion
from pairlens_server.fidelity.localisation import RegionOfInterest
from pairlens_server.fidelity.metrics import Metric
from pairlens_server.fidelity.placing import Enlargement, Extent
from pairlens_server.fidelity.pointing import EnergyPointingGame, PointingGame
from pairlens_server.models.config import load_model_configs
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.models.loading import load_model
from pairlens_server.service.commands import ClassTarget, SimilarityTarget, Target
from pairlens_server.service.score_commands import GivenHeatmap, ScoreOutcome
from tests.fidelity import oracle
from tests.support import zoo_model

from .conftest import Bench, png
from .oracle_metrics import CELLS, CURVES, DROPS, FEW, LEAST, OF_DEMO, OF_PAIRS, REFERENCE
from .oracle_scenes import (
    TOLERANCE,
    Scene,
    check,
    check_normalized,
    expected,
    random_map,
    reads_predicted,
    scene_of,
)

ZOO = ("vit", "vit-avg", "resnet", "convnext")
DEMO = ("demo-vit", "demo-resnet")
MAX_METRICS = 16  # of a call


@cache
def model_of(name: str) -> LoadedModel:
    if name in ZOO:
        return replace(zoo_model(name), name=f"zoo-{name}")
    if name == "vit-sharp":
        plain = zoo_model("vit")
        network = deepcopy(plain.network)
        network.head.weight.mul_(200)
        return replace(plain, name=name, network=network, fingerprint=name)
    (config,) = (one for one in load_model_configs(MODELS_FILE) if one.name == name)
    return load_model(config)


@pytest.fixture
async def bench():
    # Chunks end anywhere in the curves.
    made = Bench(*(model_of(name) for name in (*ZOO, *DEMO, "vit-sharp")), max_batch=5)
    await made.start()
    yield made
    await made.stop()


def check_classes(scene: Scene, asked: tuple[Metric, ...], outcome: ScoreOutcome) -> None:
    """Compare a call without sides, by the probability of its target or the predicted class."""
    own = oracle.predicted(scene.model, scene.pictures[0])
    assert outcome.target.class_index is not None
    assert len(outcome.results) == len(asked)
    for metric, found in zip(asked, outcome.results, strict=True):
        chosen = own if reads_predicted(metric) else outcome.target.class_index
        assert found.class_index == chosen
        assert found.side is Side.IMAGE
        check(found, expected(scene, metric, oracle.class_score(scene.model, chosen)))


def by_calls(metrics: tuple[Metric, ...]) -> list[tuple[Metric, ...]]:
    return [metrics[i : i + MAX_METRICS] for i in range(0, len(metrics), MAX_METRICS)]


@pytest.mark.parametrize("metrics", by_calls(DROPS + CURVES))
@pytest.mark.parametrize("name", ZOO)
async def test_probabilities(bench: Bench, name: str, metrics: tuple[Metric, ...]) -> None:
    scene = scene_of(bench, model_of(name))
    own = oracle.predicted(scene.model, scene.pictures[0])
    target = (own + 2) % scene.model.classes
    outcome = await scene.score(metrics, ClassTarget(target))
    assert outcome.target.class_index == target
    check_classes(scene, metrics, outcome)


async def test_normalized_by_the_profiles_rule(bench: Bench) -> None:
    """REFERENCE takes points as evenly spaced, for the scaled area as for the area itself."""
    scene = scene_of(bench, model_of("vit"))
    metrics = tuple(kind(profile=REFERENCE, step_size=400) for kind in (Deletion, Insertion))
    outcome = await scene.score(metrics, None)
    score = oracle.class_score(scene.model, oracle.predicted(scene.model, scene.pictures[0]))
    for metric, found in zip(metrics, outcome.results, strict=True):
        check_normalized(found, expected(scene, metric, score))


@pytest.mark.parametrize("name", DEMO)
async def test_probabilities_of_the_demo(bench: Bench, name: str) -> None:
    """Photographs, and the predicted class."""
    scene = scene_of(bench, model_of(name))
    metrics = (*OF_DEMO, *DROPS[1:5], Insertion(profile=REFERENCE, step_size=6000))
    outcome = await scene.score(metrics, None)
    assert outcome.target.class_index == oracle.predicted(scene.model, scene.pictures[0])
    check_classes(scene, metrics, outcome)


@pytest.mark.parametrize("sides", [(Side.PARTNER,), (Side.BOTH,), tuple(Side)])
@pytest.mark.parametrize("name", ["vit-avg", "resnet"])
async def test_pairs(bench: Bench, name: str, sides: tuple[Side, ...]) -> None:
    scene = scene_of(bench, model_of(name))
    metrics = (*OF_PAIRS, *DROPS[2:6]) if sides == tuple(Side) else OF_PAIRS
    await check_pair(scene, metrics, sides)


@pytest.mark.parametrize("name", DEMO)
async def test_pairs_of_the_demo(bench: Bench, name: str) -> None:
    await check_pair(scene_of(bench, model_of(name)), OF_DEMO, tuple(Side))


async def check_pair(scene: Scene, metrics: tuple[Metric, ...], sides: tuple[Side, ...]) -> None:
    seen: dict[bytes, np.ndarray] = {}

    def embedding(picture: Tensor) -> np.ndarray:
        key = picture.numpy().tobytes()
        if key not in seen:
            seen[key] = oracle.embedding(scene.model, picture)
        return seen[key]

    image, partner = map(embedding, scene.pictures)
    scores: dict[Side, tuple[oracle.Score, tuple[int, ...]]] = {
        Side.IMAGE: (lambda picture: oracle.cosine(embedding(picture), partner), (0,)),
        Side.PARTNER: (lambda picture: oracle.cosine(image, embedding(picture)), (1,)),
        Side.BOTH: (lambda *pair: oracle.cosine(*map(embedding, pair)), (0, 1)),
    }
    target = SimilarityTarget((scene.files[1],))
    for asked in by_calls(metrics):
        outcome = await scene.score(asked, target, *sides)
        assert outcome.target.similarities == pytest.approx(
            [oracle.cosine(image, partner)], abs=TOLERANCE
        )
        wanted = [(metric, side) for metric in asked for side in sides]
        assert [result.side for result in outcome.results] == [side for _, side in wanted]
        for (metric, side), found in zip(wanted, outcome.results, strict=True):
            assert found.class_index is None
            check(found, expected(scene, metric, *scores[side]))


@pytest.mark.parametrize("name", ["vit", "convnext"])
async def test_summed_similarity(bench: Bench, name: str) -> None:
    """To two pictures and two embeddings."""
    scene = scene_of(bench, model_of(name))
    size = scene.model.embedding_size
    given = np.random.default_rng(5).normal(size=(2, size)).astype(np.float32)
    files = (scene.files[1], png(9))
    outcome = await scene.score(FEW, SimilarityTarget(files, given))
    pictures = [bench.pixels(scene.model.name, file) for file in files]
    others = [oracle.embedding(scene.model, picture) for picture in pictures]
    score = oracle.similarity_score(scene.model, [*others, *given.astype(np.float64)])
    for metric, found in zip(FEW, outcome.results, strict=True):
        check(found, expected(scene, metric, score))


async def test_a_similarity_that_is_not_positive(bench: Bench) -> None:
    """Leaves no share of it to be lost; curves are what they are."""
    scene = scene_of(bench, model_of("vit"))
    opposite = -oracle.embedding(scene.model, scene.pictures[0])
    outcome = await scene.score(FEW, SimilarityTarget((), opposite[None].astype(np.float32)))
    score = oracle.similarity_score(scene.model, [opposite])
    assert score(scene.pictures[0]) == pytest.approx(-1)
    for metric, found in zip(FEW, outcome.results, strict=True):
        if isinstance(metric, AverageDrop):
            assert found.value is None
            assert "not positive" in found.undefined
        else:
            check(found, expected(scene, metric, score))


async def test_probabilities_that_underflow(bench: Bench) -> None:
    """STRICT compares logarithms; REFERENCE has a float32 zero to divide by."""
    model = model_of("vit-sharp")
    scene = scene_of(bench, model)
    picture = scene.pictures[0]
    target = int(oracle.logits(model, picture).argmin())
    clean = oracle.log_probability(model, picture, target)
    assert clean < -200
    masked = oracle.under_map(picture, scene.on_input(0), oracle.filling(model, picture, "black"))
    change = oracle.log_probability(model, masked, target) - clean
    metrics = (AverageDrop(), AverageIncrease(), AverageDrop(profile=REFERENCE), Deletion(steps=6))
    outcome = await scene.score(metrics, ClassTarget(target))
    drop, increase, undefined, deletion = outcome.results
    assert drop.value == pytest.approx(max(0.0, -np.expm1(change)), abs=TOLERANCE)
    assert increase.value == float(change > 0)
    assert undefined.value is None
    assert "zero" in undefined.undefined
    check(deletion, expected(scene, metrics[3], oracle.class_score(model, target)))


@pytest.mark.parametrize("enlargement", list(Enlargement))
@pytest.mark.parametrize("target", [ClassTarget(1), ClassTarget(3)])
async def test_enlargements(bench: Bench, enlargement: Enlargement, target: Target) -> None:
    scene = scene_of(bench, model_of("resnet"), enlargement)
    outcome = await scene.score(FEW, target)
    assert outcome.enlargement is enlargement
    check_classes(scene, FEW, outcome)


@pytest.mark.parametrize("extent", [Extent.INPUT, Extent.GRID, Extent.PICTURE])
async def test_maps_of_the_inputs_size(bench: Bench, extent: Extent) -> None:
    """Of a picture of that size all three lie on the same pixels."""
    scene = scene_of(bench, model_of("vit"))
    values = random_map(6, scene.size)
    scene = replace(scene, maps=(values,), files=(png(4, scene.size),))
    metrics = tuple(metric for metric in FEW if getattr(metric, "unit", None) is not CELLS)
    heatmap = GivenHeatmap(values, extent)
    outcome = await scene.score(metrics, ClassTarget(2), heatmap=heatmap)
    check_classes(scene, metrics, outcome)


@pytest.mark.parametrize(
    "grid", [np.zeros((4, 6)), np.full((4, 6), -2.5), -np.arange(24.0).reshape(4, 6), np.eye(3, 5)]
)
async def test_flat_negative_and_foreign_maps(bench: Bench, grid: np.ndarray) -> None:
    """All zero, constant, all negative, and with cells of different sizes."""
    scene = replace(scene_of(bench, model_of("vit")), maps=(grid.astype(np.float32),))
    # An even order of ties is what enlarging must not disturb.
    metrics = (*FEW, Insertion(profile=REFERENCE, step_size=300), Deletion(steps=9))
    heatmap = GivenHeatmap(scene.maps[0], Extent.GRID)
    outcome = await scene.score(metrics, ClassTarget(0), heatmap=heatmap)
    check_classes(scene, metrics, outcome)


async def test_embeddings_of_copies(bench: Bench) -> None:
    scene = scene_of(bench, model_of("vit-avg"))
    metrics = (Deletion(steps=4), Insertion(fractions=(0.5,), order=LEAST))
    target = SimilarityTarget((scene.files[1],))
    outcome = await scene.score(metrics, target, Side.BOTH, return_embeddings=True)
    score = oracle.pair_score(scene.model)
    for metric, found in zip(metrics, outcome.results, strict=True):
        copies = expected(scene, metric, score, (0, 1)).copies
        assert copies is not None
        assert found.curve is not None
        for which, given in enumerate((found.curve.embeddings, found.curve.partner_embeddings)):
            wanted = [oracle.embedding(scene.model, pictures[which]) for pictures in copies]
            np.testing.assert_allclose(given, wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("name", ["vit", "resnet"])
async def test_localisation(bench: Bench, name: str) -> None:
    """Boxes that overlap, and a mask; on a picture whose cells end at whole pixels."""
    scene = scene_of(bench, model_of(name))
    height, width = scene.size
    scene = replace(scene, files=(png(4, scene.size),))
    mask = np.zeros(scene.size, bool)
    mask[height // 2 :, 3 : width // 3] = True
    boxes = (Box(5, 2, 20, 17), Box(10, 9, 31, 25))
    inside = mask.copy()
    for box in boxes:
        inside[int(box.top) : int(box.bottom), int(box.left) : int(box.right)] = True
    metrics = (EnergyPointingGame(), PointingGame(), PointingGame(tolerance=4.5))
    for seed in range(12):
        grid = random_map(seed, scene.maps[0].shape)
        region = RegionOfInterest(boxes, mask)
        outcome = await replace(scene, maps=(grid,)).score(metrics, None, region=region)
        energy, *pointing = outcome.results
        share = oracle.energy_in_region(grid, inside)
        assert energy.value == (None if share is None else pytest.approx(share, abs=1e-6))
        assert bool(energy.undefined) is (share is None)
        assert [result.value for result in pointing] == pytest.approx(
            [oracle.pointing(grid, inside, 0), oracle.pointing(grid, inside, 4.5)]
        )
