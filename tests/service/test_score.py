"""What a call of ScoreSaliency does once, and off the event loop."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from pairlens.rendering import Box
from pairlens_server.fidelity import localisation
from pairlens_server.fidelity.copies import Side
from pairlens_server.fidelity.drops import AverageDrop
from pairlens_server.fidelity.erasures import Deletion, Insertion
from pairlens_server.fidelity.localisation import RegionOfInterest
from pairlens_server.fidelity.pointing import EnergyPointingGame, PointingGame
from pairlens_server.recording.targets import Similarity
from pairlens_server.service import partners, targets
from pairlens_server.service.commands import SimilarityTarget
from pairlens_server.service.score_commands import GivenHeatmap, ScoreCommand

from .conftest import MAX_TARGET_EMBEDDINGS, MEAN, Bench, png

MAP = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
METRICS = (AverageDrop(), Deletion(steps=3), Insertion(steps=4))


class Calls:
    """Threads in which a function ran, which does what it always does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str):
        self.threads: list[threading.Thread] = []
        plain = getattr(owner, name)

        def logged(*arguments, **fields):
            self.threads.append(threading.current_thread())
            return plain(*arguments, **fields)

        monkeypatch.setattr(owner, name, logged)

    @property
    def on_loop(self) -> bool:
        return threading.main_thread() in self.threads


def command(*metrics, **fields) -> ScoreCommand:
    return ScoreCommand(MEAN, png(1), metrics, **{"heatmap": GivenHeatmap(MAP), **fields})


async def test_a_gallery_is_gone_over_once_and_not_on_the_event_loop(bench: Bench, monkeypatch):
    size = bench.models[MEAN].embedding_size
    gallery = np.random.default_rng(1).normal(size=(MAX_TARGET_EMBEDDINGS, size))
    target = SimilarityTarget((), gallery.astype(np.float32))
    norms = Calls(monkeypatch, Similarity, "to")
    cosines = Calls(monkeypatch, targets, "cosines")
    checks = Calls(monkeypatch, partners, "check_embeddings")
    outcome = await bench.use_cases.score(command(*METRICS, target=target))
    assert len(outcome.target.similarities) == MAX_TARGET_EMBEDDINGS
    # Once for the image, and once for its partner.
    assert len(norms.threads) == 2
    assert len(cosines.threads) == len(checks.threads) == 1
    assert not norms.on_loop
    assert not cosines.on_loop
    assert not checks.on_loop


async def test_a_pair_is_gone_over_once_for_all_metrics_and_sides(bench: Bench, monkeypatch):
    norms = Calls(monkeypatch, Similarity, "to")
    fields = {"target": SimilarityTarget((png(2),)), "partner_heatmap": GivenHeatmap(-MAP)}
    outcome = await bench.use_cases.score(command(*METRICS, sides=tuple(Side), **fields))
    assert len(outcome.results) == 9
    assert len(norms.threads) == 2
    assert len({result.clean_score for result in outcome.results}) == 1


async def test_equal_games_are_played_once(bench: Bench, monkeypatch):
    pointing = Calls(monkeypatch, localisation, "pointing_game")
    energy = Calls(monkeypatch, localisation, "energy_pointing_game")
    games = (PointingGame(), PointingGame(tolerance=0.0), PointingGame(tolerance=3.0))
    asked = (*games, EnergyPointingGame(), EnergyPointingGame(), *games)
    region = RegionOfInterest((Box(0, 0, 28, 20),), None)
    outcome = await bench.use_cases.score(command(*asked, region=region))
    assert len(pointing.threads) == 2
    assert len(energy.threads) == 1
    values = [result.value for result in outcome.results]
    assert values[:3] == values[5:]
    assert values[0] == values[1]
    assert values[3] == values[4]
    assert not pointing.on_loop
