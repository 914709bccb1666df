"""What a call gets does not depend on who else calls: batches, probes and models in between."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pairlens import Box, Client, Explanation, PairMatch, SimilarTo
from tests.conformance.cells import EXPLANATION, cells, picture
from tests.contract.support import Stubs
from tests.server_process import ServerProcess

# Between them they give every method.
NETWORKS = ("vit", "vit-avg", "dinov2-registers", "eva02", "swin", "coat", "convnext", "resnet")
THREADS = 8
PICTURES = 5
OPTIONS = {
    "integrated_gradients": {"steps": 4},
    "correspondence": {"query_region": Box(0, 0, 30, 30)},
}

Call = Callable[[Client], Explanation | PairMatch]


@pytest.fixture(scope="module")
def client(zoo_process: ServerProcess) -> Iterator[Client]:
    with Client(zoo_process.target, timeout=120) as made:
        yield made


def calls(server: Stubs) -> dict[str, Call]:
    """The whole catalogue on every network, with pictures in turn."""
    found: dict[str, Call] = {}

    def explain(cell, data):
        target = {"class": 1, "similarity": SimilarTo(embeddings=cell.vector), "none": None}
        options = OPTIONS.get(cell.method, {})
        return lambda client: client.explain(
            data, model=cell.model, method=cell.method, target=target[cell.target], **options
        )

    def pair(name, method, data, other):
        options = OPTIONS.get(method, {})
        return lambda client: client.pair_similarity(
            data, other, model=name, method=method, **options
        ).matches[0]

    for name in NETWORKS:
        info = server.get_model(name).model
        pictures = [picture(info, seed) for seed in range(PICTURES)]
        for cell in cells(info):
            found[str(cell)] = explain(cell, pictures[len(found) % PICTURES])
        for method in (m for m in info.methods if m.kind != EXPLANATION and not m.refusal):
            data, other = (pictures[(len(found) + step) % PICTURES] for step in (0, 1))
            found[f"{name} pair {method.name}"] = pair(name, method.name, data, other)
    return found


def maps(answer: Explanation | PairMatch) -> list[np.ndarray]:
    if isinstance(answer, PairMatch):
        return [answer.query.heatmap, answer.candidate.heatmap]
    return [answer.heatmap, *(panel.heatmap for panel in answer.panels)]


def test_the_networks_give_every_method(server):
    listed = [server.get_model(name).model.methods for name in NETWORKS]
    for methods in zip(*listed, strict=True):
        assert not all(method.refusal for method in methods), methods[0].name


@pytest.fixture(scope="module")
def alone(server: Stubs, client: Client) -> dict[str, list[np.ndarray]]:
    """Every call's maps, one call after the other."""
    return {name: maps(call(client)) for name, call in calls(server).items()}


@pytest.mark.parametrize("mixed", [True, False], ids=["networks mixed", "network by network"])
def test_everything_at_once_is_what_everything_is_alone(server, client, alone, mixed):
    asked = calls(server)
    names = list(asked)
    random.Random(0).shuffle(names)
    if not mixed:  # so that batches are full
        names.sort(key=lambda name: name.split()[0])
    with ThreadPoolExecutor(THREADS) as pool:
        answers = pool.map(lambda name: maps(asked[name](client)), names)
        together = dict(zip(names, answers, strict=True))
    problems = []
    for name, expected in alone.items():
        for one, other in zip(expected, together[name], strict=True):
            off = float(np.abs(one - other).max())
            if off > 1e-5 * max(1.0, float(np.abs(one).max())):
                problems.append(f"{name}: {off} of {np.abs(one).max()}")
    assert not problems, "\n".join(["", *problems])
    assert len(asked) > 250
