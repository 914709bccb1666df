import pytest
import torch

from pairlens_server.errors import InvalidParameterError
from pairlens_server.methods.interrelation import (
    LineRule,
    PatchWeighting,
    focus_index,
    interrelations,
    keypoint_shares,
    patch_scores,
)
from pairlens_server.methods.semantic_attention import SemanticAttention
from pairlens_server.models.loaded import TokenLayout
from pairlens_server.recording.activations import evaluate, primitives
from pairlens_server.recording.facts import ModelFacts, Refusals
from pairlens_server.recording.primitives import AttentionMatrix, KeypointCounts

ROWS, COLUMNS, PREFIX, BLOCKS, HEADS = 2, 3, 1, 3, 2


def facts(refusals: Refusals | None = None) -> ModelFacts:
    return ModelFacts(
        layout=TokenLayout(ROWS, COLUMNS, PREFIX, (0,)),
        blocks=BLOCKS,
        heads=HEADS,
        classes=3,
        embedding_size=2,
        embedding_constant=torch.zeros(2),
        refusals=refusals or Refusals(),
    )


def recorded(batch: int = 2) -> dict:
    """Random attention of every block and keypoints of a batch."""
    generator = torch.Generator().manual_seed(0)
    tokens = PREFIX + ROWS * COLUMNS
    found = {
        AttentionMatrix(block): torch.softmax(
            2 * torch.randn(batch, HEADS, tokens, tokens, generator=generator), dim=-1
        )
        for block in range(BLOCKS)
    }
    counts = torch.tensor([[0, 3, 1, 0, 0, 2], [5, 0, 0, 0, 1, 0]], dtype=torch.float32)
    return {**found, KeypointCounts(False): counts, KeypointCounts(True): counts.clamp(max=1)}


def explained(method: SemanticAttention, batch: dict, picture: int):
    """Run a method on one picture as the service does: derive in the batch, explain alone."""
    model = facts()
    method = method.resolve(model)
    values = {a: evaluate(a, batch, model)[picture] for a in method.needs(model, None)}
    assert all(bool(torch.isfinite(v).all()) for v in values.values())
    return method.explain(values, model, None)


def test_map_and_numbers_are_those_of_the_formulas_between_patches():
    batch = recorded()
    counts = batch[KeypointCounts(False)]
    for picture in range(2):
        findings = explained(SemanticAttention(block=1), batch, picture)
        assert [(h.block, h.head) for h in findings.interrelations] == [
            (b, h) for b in range(BLOCKS) for h in range(HEADS)
        ]
        assert findings.keypoints.dtype == torch.int64
        assert findings.keypoints.tolist() == counts[picture].reshape(ROWS, COLUMNS).tolist()
        for block in range(BLOCKS):
            between = batch[AttentionMatrix(block)][:, :, PREFIX:, PREFIX:]
            shares = keypoint_shares(between, counts)
            expected = interrelations(shares, counts)
            focus = focus_index(between)
            if block == 1:
                scores = patch_scores(shares)[picture].reshape(ROWS, COLUMNS)
                torch.testing.assert_close(findings.heatmap, scores)
            for head in range(HEADS):
                got = findings.interrelations[block * HEADS + head]
                assert got.kk == pytest.approx(float(expected.kk[picture, head]))
                assert got.kn == pytest.approx(1 - got.kk)
                assert got.nk == pytest.approx(float(expected.nk[picture, head]))
                assert got.nn == pytest.approx(1 - got.nk)
                assert got.focus_index == pytest.approx(float(focus[picture, head]))


@pytest.mark.parametrize(
    "options",
    [
        {"line_rule": LineRule.RANGE, "line": 0.5},
        {"line": 1.5},
        {"weighting": PatchWeighting.COUNT_PLUS_ONE},
        {"attention_weighted": True},
    ],
)
def test_options_reach_the_shares(options):
    batch = recorded()
    counts = batch[KeypointCounts(False)]
    between = batch[AttentionMatrix(BLOCKS - 1)][:, :, PREFIX:, PREFIX:]
    named = {"rule" if k == "line_rule" else k: v for k, v in options.items()}
    scores = patch_scores(keypoint_shares(between, counts, **named)).nan_to_num(nan=0.0)
    plain = explained(SemanticAttention(), batch, 0).heatmap
    heatmap = explained(SemanticAttention(**options), batch, 0).heatmap
    torch.testing.assert_close(heatmap, scores[0].reshape(ROWS, COLUMNS))
    assert not torch.allclose(heatmap, plain)


def test_dedupe_takes_the_other_counts_and_renormalised_changes_the_focus_index_alone():
    batch = recorded()
    plain = explained(SemanticAttention(), batch, 0)
    deduped = explained(SemanticAttention(dedupe=True), batch, 0)
    assert deduped.keypoints.tolist() == [[0, 1, 1], [0, 0, 1]]
    renormalised = explained(SemanticAttention(renormalised=True), batch, 0)
    torch.testing.assert_close(renormalised.heatmap, plain.heatmap)
    between = batch[AttentionMatrix(0)][:, :, PREFIX:, PREFIX:]
    focus = focus_index(between, renormalised=True)[0]
    assert renormalised.interrelations[0].focus_index == pytest.approx(float(focus[0]))
    assert renormalised.interrelations[0].focus_index != plain.interrelations[0].focus_index


def test_what_is_undefined_is_none_and_leaves_the_map_finite():
    batch = recorded(1)
    batch[KeypointCounts(False)] = torch.zeros(1, ROWS * COLUMNS)
    none = explained(SemanticAttention(), batch, 0)
    assert all(h.kk is None and h.kn is None for h in none.interrelations)
    assert all(h.nk == 0 and h.nn == 1 for h in none.interrelations)
    # No patch rises above the largest: nothing is attended.
    flat = explained(SemanticAttention(line_rule=LineRule.MAX), recorded(), 0)
    assert all(x.kk is None and x.nk is None and x.nn is None for x in flat.interrelations)
    assert flat.heatmap.tolist() == [[0.0] * COLUMNS] * ROWS


def test_needs_attention_of_every_block_and_shares_it():
    model = facts()
    method = SemanticAttention().resolve(model)
    expected = {KeypointCounts(False), *(AttentionMatrix(b) for b in range(BLOCKS))}
    assert primitives(method.needs(model, None), model) == expected
    other = SemanticAttention(line=2.0).resolve(model)
    kept = set(method.needs(model, None)) & set(other.needs(model, None))
    assert len(kept) == 1 + BLOCKS  # keypoints and focus indices


def test_defaults():
    resolved = SemanticAttention().resolve(facts())
    assert (resolved.block, resolved.line) == (BLOCKS - 1, 1.0)
    assert resolved.resolve(facts()) == resolved


@pytest.mark.parametrize(
    ("method", "field", "span"),
    [
        (SemanticAttention(block=3), "method.semantic_attention.block", "0 to 2"),
        (SemanticAttention(line=-0.5), "method.semantic_attention.line", "at least 0"),
        (SemanticAttention(line=11.0), "method.semantic_attention.line", "at most 10"),
    ],
)
def test_out_of_range_names_field_and_range(method, field, span):
    with pytest.raises(InvalidParameterError, match=span) as caught:
        method.resolve(facts())
    assert caught.value.field == field


def test_refused_where_no_attention_between_all_tokens_exists():
    assert SemanticAttention.refusal(facts()) == ""
    assert SemanticAttention.refusal(facts(Refusals(matrix="no matrix"))) == "no matrix"
