"""The decomposition on real networks: sums, and redistribution against float64 matrices."""

import pytest
import torch

from pairlens_server.methods.parameters import Profile
from pairlens_server.methods.similarity import PooledDecomposition, Redistribution
from pairlens_server.recording.activations import evaluate, primitives
from pairlens_server.recording.primitives import Embedding
from pairlens_server.recording.targets import Similarity
from tests.oracles import explicit_run
from tests.support import explained, pixels, recorded, zoo_model, zoo_recorder

SPLIT = [
    "vit-avg",
    "vit-avg-fcnorm",
    "eva02",
    "dinov3",
    "swin",
    "convnext",
    "resnet-max",
    "resnetv2",
]


@pytest.mark.parametrize("profile", list(Profile))
@pytest.mark.parametrize("name", SPLIT)
def test_maps_of_real_models_sum_to_the_cosine(name, profile):
    model, recorder = zoo_model(name), zoo_recorder(name)
    known = recorder.facts
    rolled = not known.refusals.matrix
    redistribution = Redistribution.ROLLOUT if rolled else Redistribution.NONE
    method = PooledDecomposition(profile, redistribution).resolve(known)
    found = recorded(recorder, pixels(model, 4), *primitives(method.pair_needs(), known))
    values = {a: evaluate(a, found, known) for a in method.pair_needs()}
    query = {a: v[0] for a, v in values.items()}
    candidates = {a: v[1:] for a, v in values.items()}
    maps = method.maps(query, candidates, known)
    cosines = torch.nn.functional.cosine_similarity(
        query[Embedding()][None], candidates[Embedding()], dim=1
    )
    torch.testing.assert_close(maps.similarity, cosines, atol=1e-6, rtol=0)
    if profile is not Profile.STRICT and rolled:
        return  # the authors' Rγ does not keep the sum
    for side_maps, bias, prefix in (
        (maps.query_maps, maps.query_bias, maps.query_prefix),
        (maps.candidate_maps, maps.candidate_bias, maps.candidate_prefix),
    ):
        total = side_maps.sum((1, 2)) + bias + prefix
        torch.testing.assert_close(total, cosines, atol=2e-6, rtol=0)


@pytest.mark.parametrize("profile", list(Profile))
def test_redistribution_of_a_real_model_agrees_with_float64_matrices(profile):
    # A mean-pooled ViT with a class token, from timm's own attention and tokens.
    model, recorder = zoo_model("vit-avg"), zoo_recorder("vit-avg")
    known, images = recorder.facts, pixels(model, 2)
    run = explicit_run(model, images, ["norm"])
    mixed = [(a.detach().mean(1) + torch.eye(25)) / 2 for a in run.attentions]
    rollout = mixed[2] @ mixed[1] @ mixed[0]
    if profile is Profile.PAPER:
        rollout = mixed[0] @ mixed[1] @ mixed[2]
    tokens, linear = run.outputs["norm"].detach(), run.projection
    embeddings = run.embedding.detach()
    partner = embeddings[[1, 0]] / embeddings.norm(dim=1).prod()
    owned = torch.zeros(2, 25, dtype=torch.float64)
    owned[:, 1:] = torch.einsum("bnc,bc->bn", tokens[:, 1:] @ linear.weight.T / 24, partner)
    if profile is Profile.STRICT:
        expected = torch.einsum("bxy,bx->by", rollout, owned)
    else:  # the bias is in the tokens
        owned[:, 1:] += (partner @ linear.bias / 24)[:, None]
        expected = torch.einsum("bxy,by->bx", rollout, owned)
    method = PooledDecomposition(profile, Redistribution.ROLLOUT).resolve(known)
    for picture in range(2):
        other = Similarity.to(embeddings[1 - picture : 2 - picture].float())
        found = explained(recorder, images, method, other)[picture].heatmap
        torch.testing.assert_close(
            found.double(), expected[picture, 1:].reshape(4, 6), atol=1e-6, rtol=1e-4
        )
