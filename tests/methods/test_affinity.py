"""Affinity: each place read alone, against other embeddings."""

import pytest
import torch

from pairlens_server.methods.affinity import Affinity
from pairlens_server.recording.facts import Refusals
from pairlens_server.recording.primitives import Embedding, ProjectedTokens
from pairlens_server.recording.targets import Similarity
from tests.support import explained, facts, pixels, recorded, zoo_model, zoo_recorder

MODEL = facts(1, 3, prefix=1, readout=(0,))
TOKENS = torch.tensor([[9.0, 9], [3, 4], [0, -2], [0, 0]])


def test_cosines_by_hand():
    # methods.md A1: α·f / (‖α‖‖f‖), here with f = (0, 5); a zero place is 0.
    found = Affinity().explain(
        {ProjectedTokens(): TOKENS}, MODEL, Similarity.to(torch.tensor([[0.0, 5]]))
    )
    torch.testing.assert_close(found.heatmap, torch.tensor([[0.8, -1.0, 0.0]]))


def test_a_gallery_is_the_sum_of_its_pictures():
    gallery = torch.tensor([[0.0, 5], [2, 0], [1, 1]])
    maps = [
        Affinity().explain({ProjectedTokens(): TOKENS}, MODEL, Similarity.to(g)).heatmap
        for g in (gallery, *gallery[:, None])
    ]
    torch.testing.assert_close(maps[0], maps[1] + maps[2] + maps[3])


@pytest.mark.parametrize("name", ["vit", "clip", "swin", "convnext", "resnetv2", "xcit"])
def test_maps_of_real_models_are_cosines_of_places(name):
    model, recorder = zoo_model(name), zoo_recorder(name)
    images, layout = pixels(model), model.layout
    other = recorded(recorder, pixels(model, 1, seed=5), Embedding())[Embedding()]
    places = recorded(recorder, images, ProjectedTokens())[ProjectedTokens()]
    found = explained(recorder, images, Affinity(), Similarity.to(other))
    expected = torch.nn.functional.cosine_similarity(places, other[None], dim=-1)
    for findings, row in zip(found, expected, strict=True):
        grid = row[layout.prefix :].reshape(layout.rows, layout.columns)
        torch.testing.assert_close(findings.heatmap, grid, atol=1e-5, rtol=0)
        assert float(findings.heatmap.abs().max()) <= 1 + 1e-6


def test_refusal_is_the_models_own():
    assert Affinity.refusal(facts(1, 2, refusals=Refusals(places="no single token"))) == (
        "no single token"
    )
    assert Affinity.refusal(MODEL) == ""
