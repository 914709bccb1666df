"""How far half precision in the cache moves an answer from that of float32.

Every kept value x becomes x(1 + d) with |d| <= u = 2^-11 (and an absolute 2^-39 of the tensor's
largest, which is nothing beside). To first order a cell m of a map then moves by at most
u Σ |dm/dx| |x| over all kept values: u times its condition, which is computed here by
differentiating the method. Where a cell is a kept value, or a mean of values of one sign (`PLAIN`),
the condition is the map's largest value: the map is right to 2^-11 of that. Elsewhere terms cancel,
and the condition says how much: in scalar products over an embedding (parts of a pair, affinity),
in sums over channels (CAMs), in differences (occlusion). All cells are bounded by the condition of
the worst, since a ReLU has no derivative below zero.

What only a threshold decides (the mask of AttentionMask) may differ in cells whose values are
within 2u of each other. Nothing else is decided after rounding: units, discarded attention and
keypoints are, on the device, before.

Real caches round tensors of more than `packing.SMALL` values alone; here all of them are.
"""

from __future__ import annotations

import pytest
import pytest_asyncio
import torch

from pairlens_server.cache import packing
from pairlens_server.cache.memory import MemoryTier
from pairlens_server.cache.packing import Precision
from pairlens_server.cache.tiers import Cache
from pairlens_server.methods.base import ProbeResult
from pairlens_server.methods.cam import ScoreCam
from pairlens_server.methods.correspondence import Correspondence
from pairlens_server.recording.primitives import Embedding
from pairlens_server.recording.targets import ClassLogit, Similarity
from pairlens_server.service.commands import (
    ClassTarget,
    ExplainCommand,
    PairCommand,
    SimilarityTarget,
)
from pairlens_server.service.findings import needed
from tests.service.conftest import Bench, png
from tests.service.every_method import (
    PARTNERS,
    PICTURE,
    explanations,
    facts_of,
    largest,
    resolved,
    split_pairs,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

UNIT = 2.0**-11
SECOND_ORDER = 1.05
"""Room for products of two roundings."""
NOISE = 1e-5
"""Of float32 sums, in parts of what is summed."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared():
    made = Bench(max_batch=1)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def bench(shared, monkeypatch):
    monkeypatch.setattr(packing, "SMALL", 0)
    return shared


async def both(bench, command):
    """The answers with half precision and with float32."""
    answers = []
    for precision in (Precision.HALF, Precision.FLOAT32):
        cache = Cache(MemoryTier(10_000_000), MemoryTier(0), precision=precision)
        use_cases = bench.over(cache)
        call = use_cases.explain if isinstance(command, ExplainCommand) else use_cases.pair
        answers.append(await call(command))
    return answers


def leaves(values, method=None):
    """The values that are rounded, to be differentiated by; the others as they are.

    ScoreCAM's scores are of masks made of rounded features.
    """
    of_masks = ProbeResult if isinstance(method, ScoreCam) else ()
    return {
        a: v.clone().requires_grad_(not a.exact or isinstance(a, of_masks))
        for a, v in values.items()
    }


def condition(cells, *recorded):
    """Largest Σ |dm/dx| |x| of any cell."""
    inputs = [v for values in recorded for v in values.values() if v.requires_grad]
    if not inputs:
        return 0.0
    flat = cells.flatten()
    every = torch.eye(len(flat))
    slopes = torch.autograd.grad(
        flat, inputs, every, retain_graph=True, allow_unused=True, is_grads_batched=True
    )
    pairs = [(s, x) for s, x in zip(slopes, inputs, strict=True) if s is not None]
    terms = [(s * x).detach().abs().flatten(1).sum(dim=1) for s, x in pairs]
    return float(torch.stack(terms).sum(dim=0).max())


async def recorded(bench, case, picture, target):
    """What a method gets, in float32: its activations and the result of its probe."""
    model, facts, method = bench.models[case.model], facts_of(case.model), resolved(case)
    pixels = bench.pixels(case.model, picture)
    values = dict((await bench.engine.record(model, pixels, needed(method, facts, target))).values)
    probe = method.probe(values, facts, target)
    if probe is not None:
        values[method.probed(target)] = (await bench.engine.probe(model, pixels, probe)).result
    return values


async def score_target(bench, case):
    """The target of a case as methods take it."""
    if isinstance(case.target, ClassTarget):
        return ClassLogit(case.target.class_index)
    if isinstance(case.target, SimilarityTarget):
        rows = [torch.from_numpy(await bench.embedding(case.model, f)) for f in PARTNERS]
        return Similarity.to(torch.stack(rows))
    return None


PLAIN = {
    *("raw_attention", "raw_log", "raw_power", "key_norm", "rollout", "attention_relevance"),
    *("transformer_attribution", "le_grad", "full_grad", "integrated_gradients", "hidden_unit"),
    *("semantic_attention", "attention_mask"),
}
"""Methods whose terms do not cancel."""


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
@pytest.mark.parametrize("case", explanations(predicted=False))
async def test_explain(bench, case):
    picture = png(3)
    half, full = await both(bench, ExplainCommand(case.model, picture, case.method, case.target))
    target = await score_target(bench, case)
    values = leaves(await recorded(bench, case, picture, target), resolved(case))
    findings = resolved(case).explain(values, facts_of(case.model), target)
    exact = torch.from_numpy(full.heatmap)
    top = largest(exact)
    moved = largest(torch.from_numpy(half.heatmap) - exact)
    torch.testing.assert_close(findings.heatmap.detach(), exact, rtol=0, atol=NOISE * top)
    worst = condition(findings.heatmap, values)
    assert moved <= UNIT * (SECOND_ORDER * worst + NOISE * top)
    if case.method.name in PLAIN:
        assert worst <= top * (1 + NOISE)
    # The model's own numbers are kept as they are.
    assert half.target == full.target
    assert [u.unit for u in half.units] == [u.unit for u in full.units]
    assert half.bias_share == full.bias_share
    for one, other in zip(half.panels, full.panels, strict=True):
        assert (one.block, one.head, one.unit) == (other.block, other.head, other.unit)
        size = abs(other.heatmap).max()
        assert abs(one.heatmap - other.heatmap).max() <= 2 * UNIT * size
    if half.mask is not None:
        assert half.mask.sum() == full.mask.sum()
        doubtful = full.heatmap[half.mask != full.mask]
        if doubtful.size:
            assert doubtful.max() - doubtful.min() <= 2 * UNIT * SECOND_ORDER * doubtful.max()
    for one, other in zip(half.interrelations, full.interrelations, strict=True):
        for name in ("kk", "kn", "nk", "nn", "focus_index"):
            value, wanted = getattr(one, name), getattr(other, name)
            assert (value is None) == (wanted is None)
            if wanted is not None:
                assert value == pytest.approx(wanted, rel=2 * UNIT, abs=2 * UNIT)


@pytest.mark.parametrize("case", split_pairs())
async def test_pair(bench, case):
    facts, method = facts_of(case.model), resolved(case)
    half, full = await both(bench, PairCommand(case.model, PICTURE, PARTNERS[:1], case.method))
    one, other = half.results[0], full.results[0]
    assert one.similarity == other.similarity
    assert (one.query.bias_share, one.candidate.bias_share) == (
        other.query.bias_share,
        other.candidate.bias_share,
    )
    model = bench.models[case.model]
    wanted = method.pair_needs()
    query, candidate = [
        leaves((await bench.engine.record(model, bench.pixels(case.model, file), wanted)).values)
        for file in (PICTURE, PARTNERS[0])
    ]
    stacked = {a: v[None] for a, v in candidate.items()}
    if isinstance(method, Correspondence):
        nothing = torch.from_numpy(other.query.heatmap).flatten()[None] != 0
        if method.query_region is None:
            nothing = torch.from_numpy(other.candidate.heatmap).flatten()[None] != 0
        maps = method.maps(query, stacked, facts, nothing.float())
    else:
        maps = method.maps(query, stacked, facts)
    sides = [
        (one.query.heatmap, other.query.heatmap, maps.query_maps[0]),
        (one.candidate.heatmap, other.candidate.heatmap, maps.candidate_maps[0]),
    ]
    if maps.match is not None:
        sides.append((one.match_matrix, other.match_matrix, maps.match[0]))
    for rounded, exact, cells in sides:
        worst = condition(cells, query, candidate)
        top = abs(exact).max()
        assert abs(rounded - exact).max() <= UNIT * SECOND_ORDER * worst + NOISE * UNIT * top
    assert Embedding() in query
