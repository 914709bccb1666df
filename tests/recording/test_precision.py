"""Half precision: maps come back in float32 and close to those of float32.

Tolerances are of ‖half − full‖ / ‖full‖ over four pictures of the zoo's random models, which are
harsher than trained ones; measured with torch 2.15 on a CPU, the largest of all models in
parentheses. bfloat16 keeps 8 bits, so that one rounding is 0.4 %.
"""

from __future__ import annotations

import pytest
import torch

from pairlens_server.methods.attention import RawAttention
from pairlens_server.methods.cam import GradCam
from pairlens_server.methods.relevance import AttentionRelevance, LeGrad
from pairlens_server.methods.rollout import Rollout
from pairlens_server.recording.primitives import Embedding, FusedAttention, PooledParts
from pairlens_server.recording.targets import ClassLogit, Similarity
from tests.support import explained, pixels, recorded, zoo_model, zoo_recorder

MODELS = [
    *("vit", "vit-avg", "vit-avg-fcnorm", "vit-registers", "deit-distilled", "clip", "siglip"),
    *("dinov2", "eva02", "eva02-token", "dinov3-token", "pit", "swin", "swinv2", "twins-svt"),
    *("coat", "coat-lite", "convit", "xcit", "convnext", "convnextv2"),
]
TOLERANCES = {
    RawAttention: 0.06,  # 0.035
    Rollout: 0.03,  # 0.015
    AttentionRelevance: 0.09,  # 0.056
    LeGrad: 0.03,  # 0.019
    GradCam: 0.15,  # 0.088
}
# Max pooling and ReLUs choose, and may choose another: 0.25 is the largest there.
CHOOSING = ["vit-max", "resnet", "resnet-max", "resnetv2", "twins-pcpvt"]


def distance(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def maps(name, dtype, method, target):
    found = explained(zoo_recorder(name, dtype), pixels(zoo_model(name), 4), method, target)
    heatmaps = torch.stack([f.heatmap for f in found])
    assert heatmaps.dtype == torch.float32
    return heatmaps


@pytest.mark.parametrize("name", [*MODELS, *CHOOSING])
def test_maps_of_bfloat16_are_close_to_those_of_float32(name):
    facts = zoo_recorder(name).facts
    size = facts.embedding_size
    similar = Similarity.to(torch.randn(1, size, generator=torch.Generator().manual_seed(1)))
    targets = [similar, ClassLogit(1)] if facts.classes else [similar]
    for kind, tolerance in TOLERANCES.items():
        if kind.refusal(facts):
            continue
        limit = 0.4 if name in CHOOSING and kind is GradCam else tolerance
        for target in targets if kind.takes_class else [None]:
            half = maps(name, "bfloat16", kind(), target)
            assert distance(half, maps(name, "float32", kind(), target)) < limit, kind.name


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["vit-avg", "vit-avg-fcnorm", "swin", "convnext", "resnet-max"])
def test_parts_add_up_in_half_precision_too(name, dtype):
    recorder = zoo_recorder(name, dtype)
    found = recorded(recorder, pixels(zoo_model(name)), PooledParts(), Embedding())
    total = found[PooledParts()].sum(1) + recorder.facts.embedding_constant
    torch.testing.assert_close(total, found[Embedding()], atol=2e-6, rtol=1e-5)
    exact = recorded(zoo_recorder(name), pixels(zoo_model(name)), Embedding())[Embedding()]
    assert distance(found[Embedding()], exact) < (0.03 if dtype == "bfloat16" else 0.004)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["vit", "eva02", "dinov3", "pit"])
def test_rows_of_attention_sum_to_one_in_half_precision_too(name, dtype):
    found = recorded(zoo_recorder(name, dtype), pixels(zoo_model(name)), FusedAttention(1))
    rows = found[FusedAttention(1)]
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.sum(-1), torch.ones(rows.shape[:2]))
