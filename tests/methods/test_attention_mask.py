import pytest
import torch

from pairlens_server.errors import InvalidParameterError, MethodUnsupportedError
from pairlens_server.methods.attention_mask import AttentionMask
from pairlens_server.methods.masking import MaskSelection, MaskSource, attention_mask
from pairlens_server.methods.parameters import Profile
from pairlens_server.methods.rollout import Rollout
from pairlens_server.models.loaded import TokenLayout
from pairlens_server.recording.activations import evaluate, primitives
from pairlens_server.recording.facts import ModelFacts, Refusals
from pairlens_server.recording.primitives import ReadoutAttention, ReadoutLogAttention
from tests import support


def facts(
    rows: int = 2, columns: int = 2, *, blocks: int = 3, first: int = 0, matrix: str = ""
) -> ModelFacts:
    return ModelFacts(
        layout=TokenLayout(rows, columns, 1, (0,)),
        blocks=blocks,
        heads=2,
        classes=3,
        embedding_size=2,
        embedding_constant=torch.zeros(2),
        first_readout_block=first,
        refusals=Refusals(matrix=matrix),
    )


def explained(method: AttentionMask, recorded: dict, model: ModelFacts | None = None):
    model = model or facts()
    return method.resolve(model).explain(recorded, model, None)


# The class token's own column, then methods.md G: head means (.1, .4, .2, .3).
HEADS = torch.tensor([[0.9, 0.1, 0.5, 0.1, 0.3], [0.9, 0.1, 0.3, 0.3, 0.3]])


def test_hand_checked_masks():
    recorded = {ReadoutAttention(2): HEADS}
    high = explained(AttentionMask(ratio=0.5), recorded)
    torch.testing.assert_close(high.heatmap, torch.tensor([[0.1, 0.4], [0.2, 0.3]]))
    assert high.mask.tolist() == [[False, True], [False, True]]
    assert high.mask.dtype == torch.bool
    assert high.panels == ()
    low = explained(AttentionMask(ratio=0.5, selection=MaskSelection.LOW), recorded)
    assert low.mask.tolist() == [[True, False], [True, False]]


def test_power_and_log_are_taken_head_by_head():
    # methods.md G: heads (.25, .09) alone give (.5, .3) at power .5.
    heads = torch.tensor([[0.5, 0.25, 0.09, 0.04, 0.01]] * 2)
    heads[1, 1:] = torch.tensor([0.25, 0.49, 0.01, 0.16])
    power = explained(AttentionMask(MaskSource.POWER, ratio=0.5), {ReadoutAttention(2): heads})
    torch.testing.assert_close(power.heatmap, torch.tensor([[0.5, 0.5], [0.15, 0.25]]))
    assert power.mask.tolist() == [[True, True], [False, False]]
    log = explained(AttentionMask(MaskSource.LOG), {ReadoutLogAttention(2): heads.log()})
    torch.testing.assert_close(log.heatmap.exp(), torch.tensor([[0.25, 0.21], [0.02, 0.04]]))
    assert log.mask.tolist() == [[True, False], [False, False]]  # int(.3 · 4)


def test_several_blocks_give_a_mask_each_of_one_size():
    model = facts(10, 10)
    generator = torch.Generator().manual_seed(0)
    heads = {ReadoutAttention(b): torch.rand(2, 101, generator=generator) for b in range(3)}
    method = AttentionMask(blocks=(2, 0), ratio=0.1, max_ratio=0.9, seed=3)
    findings = explained(method, heads, model)
    assert [p.block for p in findings.panels] == [2, 0]
    assert torch.equal(findings.heatmap, findings.panels[0].heatmap)
    assert torch.equal(findings.mask, findings.panels[0].mask)
    for panel in findings.panels:
        scores = heads[ReadoutAttention(panel.block)][:, 1:].mean(dim=0)
        torch.testing.assert_close(panel.heatmap.flatten(), scores)
        expected = attention_mask(scores[None], 0.1, seeds=[3], max_ratio=0.9)
        assert torch.equal(panel.mask.flatten(), expected[0])
    assert findings.panels[0].mask.sum() == findings.panels[1].mask.sum()


def test_hints_seed_and_selection_reach_the_mask():
    model = facts(10, 10)
    heads = torch.rand(2, 101, generator=torch.Generator().manual_seed(0))
    recorded = {ReadoutAttention(2): heads}
    full = explained(AttentionMask(), recorded, model).mask
    hinted = [
        explained(AttentionMask(hint_ratio=0.5, seed=seed), recorded, model).mask
        for seed in (0, 0, 1)
    ]
    assert full.sum() == 30
    assert [int(m.sum()) for m in hinted] == [25] * 3
    assert not (hinted[0] & ~full).any()
    assert torch.equal(hinted[0], hinted[1])
    assert not torch.equal(hinted[0], hinted[2])


def test_rollout_masks_hide_what_the_rollout_shows():
    model = facts(3, 4)
    method = AttentionMask(MaskSource.ROLLOUT, start_block=1, ratio=0.25).resolve(model)
    assert (method.start_block, method.end_block) == (1, 2)
    rollout = Rollout(start_block=1, end_block=2).resolve(model)
    needed = method.needs(model, None)
    assert needed == rollout.needs(model, None)
    generator = torch.Generator().manual_seed(0)
    attention = {
        p: torch.softmax(torch.randn(1, 13, 13, generator=generator), dim=-1)
        for p in sorted(primitives(needed, model), key=lambda a: a.key)
    }
    recorded = {a: evaluate(a, attention, model)[0] for a in needed}
    findings = method.explain(recorded, model, None)
    shown = rollout.explain(recorded, model, None).heatmap
    torch.testing.assert_close(findings.heatmap, shown)
    assert set(findings.mask.flatten().nonzero()[:, 0].tolist()) == set(
        shown.flatten().topk(3).indices.tolist()
    )


def test_needs_what_its_map_is_made_of():
    def needs(method: AttentionMask) -> tuple:
        return method.resolve(facts()).needs(facts(), None)

    assert needs(AttentionMask()) == (ReadoutAttention(2),)
    assert needs(AttentionMask(blocks=(1, 0))) == (ReadoutAttention(1), ReadoutAttention(0))
    assert needs(AttentionMask(MaskSource.POWER)) == (ReadoutAttention(2),)
    assert needs(AttentionMask(MaskSource.LOG)) == (ReadoutLogAttention(2),)


@pytest.mark.parametrize("source", list(MaskSource))
def test_resolved_methods_echo_what_their_map_takes_and_resolve_to_themselves(source):
    resolved = AttentionMask(source).resolve(facts())
    taken = (resolved.blocks, resolved.power, resolved.start_block, resolved.end_block)
    assert (
        taken
        == {
            MaskSource.RAW: ((2,), None, None, None),
            MaskSource.LOG: ((2,), None, None, None),
            MaskSource.POWER: ((2,), 0.5, None, None),
            MaskSource.ROLLOUT: ((), None, 0, 2),
        }[source]
    )
    assert (resolved.ratio, resolved.max_ratio) == (0.3, None)
    assert (resolved.hint_ratio, resolved.seed) == (0.0, 0)
    assert resolved.resolve(facts()) == resolved


@pytest.mark.parametrize(
    ("method", "field", "message"),
    [
        (AttentionMask(blocks=(0, 3)), "blocks", "block 3 is out of range.*0 to 2"),
        (AttentionMask(blocks=(1, 1)), "blocks", "named twice"),
        (AttentionMask(MaskSource.ROLLOUT, blocks=(1,)), "blocks", "made of rollout"),
        (AttentionMask(power=0.5), "power", "belongs to power"),
        (AttentionMask(MaskSource.POWER, power=0.0), "power", "more than 0"),
        (AttentionMask(MaskSource.POWER, power=1.5), "power", "at most 1"),
        (AttentionMask(start_block=0), "start_block", "belongs to rollout"),
        (AttentionMask(MaskSource.LOG, end_block=0), "end_block", "made of log"),
        (
            AttentionMask(MaskSource.ROLLOUT, start_block=2, end_block=1),
            "start_block",
            "2 comes after end_block 1",
        ),
        (AttentionMask(MaskSource.ROLLOUT, end_block=3), "end_block", "0 to 2"),
        (AttentionMask(ratio=0.0), "ratio", "more than 0"),
        (AttentionMask(ratio=1.0), "ratio", "less than 1"),
        (AttentionMask(ratio=float("nan")), "ratio", "out of range"),
        (AttentionMask(max_ratio=0.2), "max_ratio", "less than ratio 0.3"),
        (AttentionMask(hint_ratio=1.1), "hint_ratio", "at most 1"),
        (
            AttentionMask(selection=MaskSelection.LOW, hint_ratio=0.5),
            "hint_ratio",
            "belongs to high",
        ),
        (AttentionMask(seed=-1), "seed", "at least 0"),
    ],
)
def test_wrong_parameters_name_their_field(method, field, message):
    with pytest.raises(InvalidParameterError, match=message) as caught:
        method.resolve(facts())
    assert caught.value.field == f"method.attention_mask.{field}"


def test_blocks_that_the_readout_has_not_joined_are_refused():
    with pytest.raises(InvalidParameterError, match="blocks 1 to 2"):
        AttentionMask(blocks=(0,)).resolve(facts(first=1))


def test_rollout_masks_are_refused_and_not_offered_without_attention_between_all_tokens():
    model = facts(matrix="tokens are factorised")
    with pytest.raises(MethodUnsupportedError, match="tokens are factorised") as caught:
        AttentionMask(MaskSource.ROLLOUT).resolve(model)
    assert caught.value.field == "method.attention_mask.source"
    (described,) = (p for p in AttentionMask.parameters(model) if p.name == "source")
    assert described.choices == ("raw", "log", "power")
    assert AttentionMask.refusal(model) == ""


def test_a_rollout_mask_follows_the_profile():
    recorder, images = support.zoo_recorder("vit"), support.pixels(support.zoo_model("vit"), 1)
    rolled = {
        profile: support.explained(
            recorder, images, AttentionMask(MaskSource.ROLLOUT, profile=profile)
        )[0]
        for profile in Profile
    }
    for profile, found in rolled.items():
        (expected,) = support.explained(recorder, images, Rollout(profile=profile))
        assert torch.equal(found.heatmap, expected.heatmap)
    assert not torch.equal(rolled[Profile.STRICT].heatmap, rolled[Profile.PAPER].heatmap)
    with pytest.raises(InvalidParameterError, match="profile belongs to rollout masks"):
        AttentionMask(profile=Profile.PAPER).resolve(recorder.facts)
