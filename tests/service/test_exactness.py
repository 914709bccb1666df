"""What half precision would break is kept as it is."""

import dataclasses

import pytest

from pairlens_server.cache import packing
from pairlens_server.cache.memory import MemoryTier
from pairlens_server.cache.packing import Precision
from pairlens_server.cache.tiers import Cache
from pairlens_server.methods.full_grad import FullGrad
from pairlens_server.methods.hidden_unit import HiddenUnit
from pairlens_server.methods.perturbation import IntegratedGradients, Occlusion
from pairlens_server.methods.relevance import TransformerAttribution
from pairlens_server.methods.semantic_attention import SemanticAttention
from pairlens_server.service.commands import ClassTarget, ExplainCommand
from tests.service.conftest import Bench, png
from tests.service.watching import assert_same
from tests.support import vit

WIDE = "wide"


@pytest.mark.parametrize(
    ("method", "target"),
    [
        # Numbers of units, most of them above 2048 and half of those odd.
        (HiddenUnit(strongest=64), None),
        (SemanticAttention(), None),
        (Occlusion(), ClassTarget(1)),
        (IntegratedGradients(steps=2), ClassTarget(1)),
        (FullGrad(), ClassTarget(1)),
        (TransformerAttribution(), ClassTarget(1)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
async def test_numbers_of_units_counts_and_differences_are_not_rounded(method, target, monkeypatch):
    monkeypatch.setattr(packing, "SMALL", 0)
    wide = dataclasses.replace(vit(pooling="token", mlp_ratio=300.0), name=WIDE)
    bench = Bench(wide, max_batch=1)
    await bench.start()
    try:
        command = ExplainCommand(WIDE, png(0), method, target)
        answers = []
        for precision in Precision:
            cache = Cache(MemoryTier(10**8), MemoryTier(0), precision=precision)
            answers.append(await bench.over(cache).explain(command))
        half, full = answers
        if isinstance(method, HiddenUnit):
            assert sum(unit.unit > 2048 and unit.unit % 2 for unit in full.units) > 5
        if isinstance(method, SemanticAttention):
            # Shares of keypoint patches are rounded; the keypoints are not.
            half = dataclasses.replace(
                half, heatmap=full.heatmap, interrelations=full.interrelations
            )
        assert_same(half, full)
    finally:
        await bench.stop()
