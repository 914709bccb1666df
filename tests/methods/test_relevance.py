"""Generic attention relevance, LeGrad and TIBAV as methods.

Their numbers on real models are tested against slow definitions in `tests/recording`.
"""

import pytest
import torch

from pairlens_server.errors import InvalidParameterError
from pairlens_server.methods.relevance import (
    AttentionRelevance,
    LayerScoreRow,
    LeGrad,
    RelevanceRow,
    TransformerAttribution,
    relevance_row,
)
from pairlens_server.recording.facts import Refusals
from pairlens_server.recording.primitives import (
    Embedding,
    GradientWeightedAttention,
    LayerScoreGradient,
    TransformerAttributionRow,
)
from pairlens_server.recording.targets import ClassLogit, Similarity
from tests.support import explained, facts, pixels, recorded, zoo_model, zoo_recorder

TARGET = ClassLogit(1)
# methods.md B7: A = [[.6,.4],[.5,.5]], ∇ = [[.2,-.1],[.3,.5]].
CONTRIBUTION = torch.tensor([[[0.12, 0.0], [0.15, 0.25]]])


@pytest.mark.parametrize(
    ("readout", "expected"),
    [((0,), [1.2544, 0]), ((1,), [0.3555, 1.5625]), ((0, 1), [0.80495, 0.78125])],
)
def test_hand_checked_example(readout, expected):
    # Two identical layers give R = [[1.2544, 0], [.3555, 1.5625]].
    row = relevance_row([CONTRIBUTION, CONTRIBUTION], readout)
    own = torch.eye(2)[list(readout)].mean(dim=0)
    torch.testing.assert_close(row + own, torch.tensor([expected]), atol=1e-6, rtol=1e-6)


def test_the_chain_of_vectors_is_the_recursion_of_matrices():
    generator = torch.Generator().manual_seed(0)
    contributions = [torch.rand(2, 5, 5, generator=generator) for _ in range(4)]
    relevance = torch.eye(5, dtype=torch.float64).expand(2, 5, 5)
    for contribution in contributions:
        relevance = relevance + contribution.double() @ relevance
    row = relevance_row(contributions, (0, 3)).double() + torch.eye(5)[[0, 3]].mean(0)
    torch.testing.assert_close(row, relevance[:, [0, 3]].mean(1), atol=1e-4, rtol=1e-6)


def test_a_small_relevance_is_not_lost_beside_the_identity():
    contribution = torch.full((1, 4, 4), 1e-9)
    contribution[0, :, 2] = 2e-9
    row = relevance_row([contribution], (0, 1, 2, 3))[0]
    torch.testing.assert_close(row, torch.tensor([1e-9, 1e-9, 2e-9, 1e-9]), atol=0, rtol=1e-5)


def test_relevance_of_a_method_is_its_row_without_the_prefix():
    model = facts(1, 1, prefix=1, readout=(0,), blocks=2)
    method = AttentionRelevance().resolve(model)
    (needed,) = method.needs(model, TARGET)
    assert needed == RelevanceRow(0, TARGET)
    found = {GradientWeightedAttention(b, TARGET): CONTRIBUTION.mT.contiguous() for b in (0, 1)}
    row = needed.derive(found, model)[0]
    heatmap = method.explain({needed: row}, model, TARGET).heatmap
    torch.testing.assert_close(heatmap, torch.tensor([[0.3555]]), atol=1e-6, rtol=0)


def test_the_first_block_of_a_range_counts():
    model = facts(1, 2, blocks=3, readout=(0,))
    (needed,) = AttentionRelevance(start_block=2).resolve(model).needs(model, TARGET)
    assert needed.inputs(model) == (GradientWeightedAttention(2, TARGET),)
    (layer_scores,) = LeGrad(start_block=1).resolve(model).needs(model, TARGET)
    assert layer_scores == LayerScoreRow(1, TARGET)
    assert layer_scores.inputs(model) == tuple(LayerScoreGradient(b, TARGET) for b in (1, 2))


def test_le_grad_is_the_mean_over_blocks():
    model = facts(1, 2, prefix=1, blocks=2, readout=(0,))
    method = LeGrad().resolve(model)
    (needed,) = method.needs(model, TARGET)
    rows = {
        LayerScoreGradient(0, TARGET): torch.tensor([[9.0, 1, 2]]),
        LayerScoreGradient(1, TARGET): torch.tensor([[9.0, 3, 6]]),
    }
    heatmap = method.explain({needed: needed.derive(rows, model)[0]}, model, TARGET).heatmap
    assert heatmap.tolist() == [[2, 4]]


def test_transformer_attribution_reports_its_drift():
    model = facts(1, 2, prefix=1, blocks=2, readout=(0,))
    method = TransformerAttribution(start_block=1, single_precision=True).resolve(model)
    (needed,) = method.needs(model, TARGET)
    assert needed == TransformerAttributionRow(1, TARGET, single_precision=True)
    found = method.explain({needed: torch.tensor([9.0, 0.5, 0.25, 0.125])}, model, TARGET)
    assert found.heatmap.tolist() == [[0.5, 0.25]]
    assert found.relevance_drift == 0.125


def test_transformer_attribution_in_both_precisions_agrees():
    model, recorder = zoo_model("vit"), zoo_recorder("vit")
    images = pixels(model)
    single = explained(recorder, images, TransformerAttribution(single_precision=True), TARGET)
    double = explained(recorder, images, TransformerAttribution(), TARGET)
    for one, other in zip(single, double, strict=True):
        scale = float(other.heatmap.max())
        assert scale > 0
        torch.testing.assert_close(one.heatmap, other.heatmap, atol=1e-3 * scale, rtol=0)
        assert other.relevance_drift < 1e-6


@pytest.mark.parametrize("method", [AttentionRelevance, LeGrad, TransformerAttribution])
@pytest.mark.parametrize("name", ["vit-avg", "deit-distilled"])
def test_maps_are_at_least_zero_and_depend_on_their_target(method, name):
    model, recorder = zoo_model(name), zoo_recorder(name)
    images = pixels(model)
    gallery = recorded(recorder, pixels(model, 1, seed=4), Embedding())[Embedding()]
    maps = [
        torch.stack([f.heatmap for f in explained(recorder, images, method(), target)])
        for target in (ClassLogit(0), ClassLogit(1), Similarity.to(gallery))
    ]
    for number, heatmaps in enumerate(maps):
        assert float(heatmaps.min()) >= 0
        for other in maps[:number]:
            assert float((heatmaps - other).abs().max()) > 1e-6


@pytest.mark.parametrize("kind", [AttentionRelevance, LeGrad, TransformerAttribution])
def test_a_block_out_of_range_names_field_and_range(kind):
    with pytest.raises(InvalidParameterError, match="blocks 0 to 1") as caught:
        kind(start_block=2).resolve(facts(1, 2, blocks=2))
    assert caught.value.field == f"method.{kind.name}.start_block"


def test_refusals_are_the_models_own():
    model = facts(
        1, 2, refusals=Refusals(relevance="no pairs", layer_scores="late", attribution="not Eva")
    )
    kinds = (AttentionRelevance, LeGrad, TransformerAttribution)
    assert [kind.refusal(model) for kind in kinds] == ["no pairs", "late", "not Eva"]
    assert [kind.refusal(facts(1, 2)) for kind in kinds] == ["", "", ""]
    assert "patent" in TransformerAttribution.caution
