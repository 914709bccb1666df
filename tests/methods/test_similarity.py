import dataclasses

import pytest
import torch
from torch import nn

from pairlens_server.errors import InvalidParameterError, MethodUnsupportedError
from pairlens_server.methods.parameters import Profile
from pairlens_server.methods.similarity import (
    BiasMode,
    FoldedParts,
    PooledDecomposition,
    Redistribution,
    redistribute,
)
from pairlens_server.recording import parts
from pairlens_server.recording.activations import evaluate, primitives
from pairlens_server.recording.attention import HeadFusion
from pairlens_server.recording.facts import Refusals
from pairlens_server.recording.primitives import (
    AttentionMatrix,
    Embedding,
    FusedAttention,
    PooledParts,
)
from pairlens_server.recording.targets import Similarity
from tests.support import facts, pixels, recorded, zoo_model, zoo_recorder

NO_ATTENTION = Refusals(matrix="a ResNet has no attention")
NONE, ROLLOUT = Redistribution.NONE, Redistribution.ROLLOUT


def side(method, model, tokens, attentions=(), embedding=None):
    """Activations of one picture from its parts [1, T, C], as the engine would derive them."""
    recorded = {PooledParts(): tokens} | {FusedAttention(b): a for b, a in enumerate(attentions)}
    values = {
        activation: activation.derive(recorded, model)[0]
        for activation in method.pair_needs()
        if isinstance(activation, FoldedParts)
    }
    total = tokens.sum(dim=1)[0] + model.embedding_constant
    values[Embedding()] = total if embedding is None else embedding
    return values


def batched(*sides):
    return {a: torch.stack([s[a] for s in sides]) for a in sides[0]}


def random_pair(model, channels=4, attention=True):
    generator = torch.Generator().manual_seed(3)
    tokens = model.layout.tokens
    made = []
    for _ in range(3):
        split = torch.zeros(1, tokens, channels)
        split[:, list(model.pooled)] = torch.randn(
            1, len(model.pooled), channels, generator=generator
        )
        maps = [
            torch.softmax(2 * torch.randn(1, tokens, tokens, generator=generator), dim=-1)
            for _ in range(model.blocks if attention else 0)
        ]
        made.append((split, maps))
    return made


def test_projected_example_with_bias_in_tokens():
    # methods.md A1: W=[[1,2],[0,1]], b=(.5,-1) give (.43724,.50450), sum .94174 = s.
    projection = nn.Linear(2, 2)
    with torch.no_grad():
        projection.weight.copy_(torch.tensor([[1.0, 2], [0, 1]]))
        projection.bias.copy_(torch.tensor([0.5, -1]))
        first = parts.project(parts.mean_parts(torch.tensor([[[1.0, 0], [0, 1]]])), projection)
        second = parts.project(parts.mean_parts(torch.tensor([[[1.0, 0], [1, 0]]])), projection)
    model = facts(1, 2, constant=parts.embedding_constant(None, projection, 2))
    method = PooledDecomposition(bias_mode=BiasMode.IN_TOKENS, redistribution=NONE).resolve(model)
    query = side(method, model, first)
    torch.testing.assert_close(query[Embedding()], torch.tensor([2, -0.5]))
    maps = method.maps(query, batched(side(method, model, second)), model)
    torch.testing.assert_close(
        maps.query_maps[0, 0], torch.tensor([0.43724, 0.50450]), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(maps.similarity, torch.tensor([0.94174]), atol=1e-5, rtol=0)
    assert float(maps.query_bias[0]) == 0
    torch.testing.assert_close(maps.candidate_maps.sum(), maps.similarity[0])

    separate = dataclasses.replace(method, bias_mode=BiasMode.SEPARATE)
    maps = separate.maps(
        side(separate, model, first), batched(side(separate, model, second)), model
    )
    torch.testing.assert_close(maps.query_maps.sum() + maps.query_bias[0], maps.similarity[0])
    assert float(maps.query_bias[0]) > 0.1


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        (Profile.REFERENCE, [0.5303, 0.3536]),
        (Profile.PAPER, [0.3536, 0.1768]),
        (Profile.STRICT, [0.5303, 0.1768]),
    ],
)
def test_redistribution_example_in_every_profile(profile, expected):
    # methods.md A2
    model = facts(1, 2)
    attentions = [torch.tensor([[[1.0, 0], [1, 0]]]), torch.tensor([[[0.0, 1], [0, 1]]])]
    first = parts.mean_parts(torch.tensor([[[1.0, 0], [0, 1]]]))
    second = parts.mean_parts(torch.tensor([[[1.0, 0], [1, 0]]]))
    method = PooledDecomposition(profile=profile, redistribution=ROLLOUT).resolve(model)
    maps = method.maps(
        side(method, model, first, attentions),
        batched(side(method, model, second, attentions)),
        model,
    )
    torch.testing.assert_close(maps.query_maps[0, 0], torch.tensor(expected), atol=1e-4, rtol=0)
    torch.testing.assert_close(maps.similarity, torch.tensor([0.7071]), atol=1e-4, rtol=0)
    gamma = redistribute(torch.tensor([[[0.7071], [0.0]]]), attentions, profile)
    torch.testing.assert_close(gamma[0, :, 0], torch.tensor(expected), atol=1e-4, rtol=0)


def test_unredistributed_example_of_both_sides():
    # methods.md A2: γ^{i|j} = (.7071, 0), γ^{j|i} = (.3536, .3536).
    model = facts(1, 2)
    method = PooledDecomposition(redistribution=NONE).resolve(model)
    first = parts.mean_parts(torch.tensor([[[1.0, 0], [0, 1]]]))
    second = parts.mean_parts(torch.tensor([[[1.0, 0], [1, 0]]]))
    maps = method.maps(side(method, model, first), batched(side(method, model, second)), model)
    torch.testing.assert_close(maps.query_maps[0, 0], torch.tensor([0.7071, 0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        maps.candidate_maps[0, 0], torch.tensor([0.3536, 0.3536]), atol=1e-4, rtol=0
    )


def test_max_pooling_example():
    # methods.md A3: α=(3,0),(1,2),(0,2), β^j=(2,1) give (.7442,.1240,.1240), s=.9923.
    model = facts(1, 3, blocks=0, refusals=NO_ATTENTION)
    method = PooledDecomposition().resolve(model)
    split = parts.max_parts(torch.tensor([[[3.0, 0], [1, 2], [0, 2]]]))
    query = side(method, model, split)
    torch.testing.assert_close(query[Embedding()], torch.tensor([3.0, 2]))
    other = side(method, model, parts.max_parts(torch.tensor([[[2.0, 1], [0, 0], [0, 0]]])))
    maps = method.maps(query, batched(other), model)
    torch.testing.assert_close(
        maps.query_maps[0, 0], torch.tensor([0.7442, 0.1240, 0.1240]), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(maps.similarity, torch.tensor([0.9923]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("redistribution", list(Redistribution))
@pytest.mark.parametrize("bias_mode", list(BiasMode))
@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_strict_parts_add_up_to_the_similarity_on_both_sides(redistribution, bias_mode, prefix):
    model = facts(2, 3, prefix=prefix, constant=torch.tensor([0.3, -0.2, 0.5, 0.1]))
    method = PooledDecomposition(redistribution=redistribution, bias_mode=bias_mode)
    method = method.resolve(model)
    query, *others = (side(method, model, *made) for made in random_pair(model))
    maps = method.maps(query, batched(*others), model)
    cosine = torch.nn.functional.cosine_similarity
    expected = torch.stack([cosine(query[Embedding()], o[Embedding()], dim=0) for o in others])
    torch.testing.assert_close(maps.similarity, expected)
    query_total = maps.query_maps.sum(dim=(1, 2)) + maps.query_bias + maps.query_prefix
    other_total = maps.candidate_maps.sum(dim=(1, 2)) + maps.candidate_bias + maps.candidate_prefix
    torch.testing.assert_close(query_total, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(other_total, expected, atol=1e-6, rtol=0)
    leaks = redistribution is ROLLOUT and prefix > 0
    assert bool(maps.query_prefix.abs().max() > 1e-4) == leaks


def test_identical_pictures_give_identical_sides_and_swapping_swaps_them():
    model = facts(2, 3, prefix=1, constant=torch.tensor([0.3, -0.2, 0.5, 0.1]))
    method = PooledDecomposition(match_matrix=True).resolve(model)
    one, other, _ = (side(method, model, *made) for made in random_pair(model))
    same = method.maps(one, batched(one), model)
    torch.testing.assert_close(same.similarity, torch.ones(1))
    torch.testing.assert_close(same.query_maps, same.candidate_maps)
    forth = method.maps(one, batched(other), model)
    back = method.maps(other, batched(one), model)
    torch.testing.assert_close(forth.query_maps, back.candidate_maps)
    torch.testing.assert_close(forth.match, back.match.mT)


def test_match_matrix_sums_to_both_maps():
    model = facts(2, 3, constant=torch.tensor([0.3, -0.2, 0.5, 0.1]))
    method = PooledDecomposition(
        redistribution=NONE, bias_mode=BiasMode.IN_TOKENS, match_matrix=True
    ).resolve(model)
    query, *others = (side(method, model, *made) for made in random_pair(model))
    maps = method.maps(query, batched(*others), model)
    assert maps.match.shape == (2, 6, 6)
    torch.testing.assert_close(maps.match.sum(2), maps.query_maps.flatten(1))
    torch.testing.assert_close(maps.match.sum(1), maps.candidate_maps.flatten(1))


def test_profiles_agree_without_rollout_and_share_activations():
    model = facts(2, 3)
    methods = [
        PooledDecomposition(profile=p, redistribution=NONE, bias_mode=BiasMode.SEPARATE).resolve(
            model
        )
        for p in Profile
    ]
    assert len({m.pair_needs() for m in methods}) == 1


def test_defaults_depend_on_profile_and_family():
    vit, cnn = facts(2, 2), facts(2, 2, refusals=NO_ATTENTION)
    assert PooledDecomposition().resolve(vit).redistribution is NONE
    assert PooledDecomposition().resolve(cnn).redistribution is NONE
    assert PooledDecomposition().resolve(vit).bias_mode is BiasMode.SEPARATE
    for profile in (Profile.REFERENCE, Profile.PAPER):
        authors = PooledDecomposition(profile=profile).resolve(vit)
        assert authors.redistribution is ROLLOUT
        assert authors.bias_mode is BiasMode.IN_TOKENS
        assert PooledDecomposition(profile=profile).resolve(cnn).redistribution is NONE


def test_rollout_without_attention_is_refused():
    cnn = facts(2, 2, refusals=NO_ATTENTION)
    with pytest.raises(MethodUnsupportedError, match="ResNet has no attention"):
        PooledDecomposition(redistribution=ROLLOUT).resolve(cnn)


def test_a_zero_embedding_gives_no_number():
    model = facts(1, 2)
    method = PooledDecomposition(redistribution=NONE).resolve(model)
    one = side(method, model, torch.tensor([[[1.0, 0], [0, 1]]]))
    zero = side(method, model, torch.zeros(1, 2, 2))
    assert torch.isnan(method.maps(one, batched(zero), model).similarity).all()


@pytest.mark.parametrize("redistribution", list(Redistribution))
def test_a_map_of_a_gallery_is_the_sum_of_its_pairs(redistribution):
    # Black et al. 2022, section 4.2; methods.md A4.
    model = facts(2, 3, prefix=1, constant=torch.tensor([0.3, -0.2, 0.5, 0.1]))
    method = PooledDecomposition(redistribution=redistribution).resolve(model)
    query, *others = (side(method, model, *made) for made in random_pair(model))
    gallery = torch.stack([o[Embedding()] for o in others])
    found = method.explain(query, model, Similarity.to(gallery))
    pairs = method.maps(query, batched(*others), model)
    torch.testing.assert_close(found.heatmap, pairs.query_maps.sum(0))
    assert found.bias_share == pytest.approx(float(pairs.query_bias.sum()), abs=1e-6)
    assert found.prefix_share == pytest.approx(float(pairs.query_prefix.sum()), abs=1e-6)
    total = float(found.heatmap.sum()) + found.bias_share + found.prefix_share
    assert total == pytest.approx(float(pairs.similarity.sum()), abs=1e-5)


def test_a_match_matrix_is_of_a_pair():
    model = facts(1, 2)
    method = PooledDecomposition(match_matrix=True).resolve(model)
    assert len(method.pair_needs()) == 3
    PooledDecomposition().resolve(model).check_alone()
    with pytest.raises(InvalidParameterError, match="PairSimilarity") as caught:
        method.check_alone()
    assert caught.value.field == "method.pooled_decomposition.match_matrix"


def test_refusal_is_the_models_own():
    refused = facts(1, 2, refusals=Refusals(parts="class token"))
    assert PooledDecomposition.refusal(refused) == "class token"


@pytest.mark.parametrize("fusion", HeadFusion)
def test_rollout_takes_heads_as_they_are_fused(fusion):
    recorder, images = zoo_recorder("vit-avg"), pixels(zoo_model("vit-avg"), 1)
    model = recorder.facts
    method = PooledDecomposition(redistribution=ROLLOUT, fusion=fusion).resolve(model)
    matrices = [AttentionMatrix(block) for block in range(model.blocks)]
    found = recorded(recorder, images, *primitives([method.folded], model), *matrices)
    fuse = {"mean": torch.mean, "max": torch.amax, "min": torch.amin}[fusion.value]
    fused = [fuse(found[matrix], dim=1) for matrix in matrices]
    expected = redistribute(found[PooledParts()], fused, Profile.STRICT)
    folded = evaluate(method.folded, found, model)
    torch.testing.assert_close(
        folded[:, :-1], expected[:, model.layout.prefix :], atol=1e-6, rtol=1e-5
    )
    # Without rollout nothing is fused, and all share one entry of the cache.
    unrolled = dataclasses.replace(method, redistribution=NONE)
    assert unrolled.folded.fusion is HeadFusion.MEAN
