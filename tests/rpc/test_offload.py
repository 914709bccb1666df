"""How large an answer is, and where it is converted."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from pairlens.rendering import Box, GridGeometry
from pairlens.v1 import common_pb2, explanation_service_pb2, methods_pb2
from pairlens_server.errors import ImageUndecodableError
from pairlens_server.fidelity.copies import Side
from pairlens_server.fidelity.erasures import Deletion
from pairlens_server.fidelity.placing import Enlargement
from pairlens_server.images.render import Rendered
from pairlens_server.methods.rollout import Rollout
from pairlens_server.methods.similarity import PooledDecomposition
from pairlens_server.rpc.offload import (
    LARGE_BYTES,
    embed_bytes,
    explain_bytes,
    inline_or_thread,
    pair_bytes,
    score_bytes,
    score_request_bytes,
    target_bytes,
)
from pairlens_server.service.commands import (
    ExplainOutcome,
    PairMatch,
    PairOutcome,
    PanelOutcome,
    ResolvedTarget,
    SideMap,
    Timings,
)
from pairlens_server.service.score_commands import (
    EmbedOutcome,
    MetricOutcome,
    ScoredCurve,
    ScoredMap,
    ScoreOutcome,
)
from tests.support import vit

GEOMETRY = GridGeometry(2, 3, 40, 50, Box(0.0, 0.0, 50.0, 40.0))
MAP = np.zeros((2, 3), np.float32)
MASK = np.zeros((2, 3), np.bool_)
DRAWN = Rendered(upsampled=np.zeros((10, 10), np.float32), overlay_png=b"x" * 1000)
ERROR = ImageUndecodableError("no picture")


@pytest.mark.parametrize("nbytes", [0, LARGE_BYTES - 1])
async def test_short_work_stays_on_the_loop(nbytes):
    assert await inline_or_thread(nbytes, threading.current_thread) is threading.current_thread()


async def test_long_work_goes_to_a_thread():
    found = await inline_or_thread(LARGE_BYTES, threading.current_thread)
    assert found is not threading.current_thread()


@pytest.mark.parametrize("nbytes", [0, LARGE_BYTES])
async def test_errors_come_back(nbytes):
    def fail(text: str) -> None:
        raise ValueError(text)

    with pytest.raises(ValueError, match="what"):
        await inline_or_thread(nbytes, fail, text="what")


def explained(**fields: Any) -> ExplainOutcome:
    return ExplainOutcome(
        **{
            "model": vit(),
            "heatmap": MAP,
            "geometry": GEOMETRY,
            "method": Rollout(),
            "target": None,
            "rendered": None,
            "timings": Timings(),
            **fields,
        }
    )


def test_explain():
    panel = PanelOutcome(MAP, GEOMETRY, DRAWN, 1, 2, None, MASK)
    assert explain_bytes(explained()) == 24
    assert explain_bytes(explained(rendered=DRAWN)) == 24 + 400 + 1000
    assert explain_bytes(explained(rendered=Rendered(None, None))) == 24
    assert explain_bytes(explained(mask=MASK, panels=(panel,) * 3)) == 30 + 3 * 1430
    assert explain_bytes(explained(target=ResolvedTarget(similarities=(0.5,) * 7))) == 24 + 56


def test_pair():
    side = SideMap(MAP, GEOMETRY, 0.0, 0.0, None)
    drawn = SideMap(MAP, GEOMETRY, 0.0, 0.0, DRAWN)
    matrix = np.zeros((6, 6), np.float32)
    results = (PairMatch(0.5, side, side, None), ERROR, PairMatch(0.5, drawn, side, matrix))
    outcome = PairOutcome(vit(), results, PooledDecomposition(), Timings())
    assert pair_bytes(outcome) == 48 + (48 + 144 + 1400)


def test_score():
    points = np.zeros(5, np.float32)
    curve = ScoredCurve(points, points, np.zeros((5, 8), np.float32))
    results = (
        MetricOutcome(Deletion(), Side.IMAGE, 0.5, curve=curve),
        MetricOutcome(Deletion(), Side.IMAGE, 0.5),
    )
    outcome = ScoreOutcome(
        vit(),
        results,
        ResolvedTarget(),
        Rollout(),
        None,
        ScoredMap(MAP, GEOMETRY),
        None,
        Enlargement.BILINEAR,
        1,
        Timings(),
    )
    assert score_bytes(outcome) == 20 + 20 + 160 + 24


def test_embed():
    outcome = EmbedOutcome(vit(), (np.zeros(6, np.float32), ERROR), Timings())
    assert embed_bytes(outcome) == 24


def tensor(*shape: int) -> common_pb2.Tensor:
    return common_pb2.Tensor(shape=shape)


def test_requests_by_the_shapes_that_they_say():
    target = methods_pb2.Target(similarity={"embeddings": tensor(7, 3)})
    request = explanation_service_pb2.ScoreSaliencyRequest(
        heatmap={"values": tensor(2, 3)},
        partner_heatmap={"values": tensor(4, 5)},
        region={"mask": tensor(1, 1)},
        target=target,
    )
    assert target_bytes(target) == 84
    assert score_request_bytes(request) == 24 + 80 + 4 + 84
    assert score_request_bytes(explanation_service_pb2.ScoreSaliencyRequest()) == 0
    assert target_bytes(methods_pb2.Target(class_index=1)) == 0


@pytest.mark.parametrize("shape", [(), (2**62,) * 5000, (-2, 3), (5,)])
def test_shapes_that_are_none_cost_nothing(shape):
    target = methods_pb2.Target(similarity={"embeddings": tensor(*shape)})
    assert target_bytes(target) == 0
