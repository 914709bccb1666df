"""Two servers with one Redis: what one computed the other serves, and nothing else."""

from __future__ import annotations

import itertools

import grpc
import numpy as np
import pytest

from tests.contract.support import decomposition, failure_of_rpc, unseen
from tests.faults.calls import (
    BYPASS,
    Embed,
    Explain,
    Pair,
    by_digest,
    content,
    inline,
    is_warm,
    until,
)

EXPLANATIONS = {
    "raw attention": ("tiny-vit-cls", {"raw_attention": {}}),
    "raw attention of every head": (
        "tiny-vit-cls",
        {"raw_attention": {"each": "EACH_BLOCK_AND_HEAD"}},
    ),
    "rollout": ("tiny-vit-cls", {"rollout": {}}),
    "attention relevance": ("tiny-vit-cls", {"attention_relevance": {}}),
    "GradCAM of a ResNet": ("tiny-resnet", {"grad_cam": {}}),
    "ScoreCAM": ("tiny-resnet", {"score_cam": {}}),
    "full_grad": ("tiny-resnet", {"full_grad": {}}),
    "integrated gradients": ("tiny-resnet", {"integrated_gradients": {"steps": 4}}),
    "occlusion": ("tiny-vit", {"occlusion": {}}),
}
PAIRS = {
    "decomposition": ("tiny-vit", decomposition()),
    "decomposition of a ResNet": ("tiny-resnet", decomposition()),
    "decomposition with rollout": (
        "tiny-vit",
        decomposition(redistribution="REDISTRIBUTION_ROLLOUT"),
    ),
    "match matrix": ("tiny-vit", decomposition(match_matrix=True)),
    "correspondence": (
        "tiny-vit",
        {"correspondence": {"query_region": {"right": 30, "bottom": 20}}},
    ),
    "affinity": ("tiny-vit", {"affinity": {}}),
}
DISPUTED = ("other-weights", "other-preprocessing")


def served_by_the_other(first, second, request):
    """Have one replica answer, and check what the other does then."""
    cold = first.send(request)
    assert cold.timing.cached_images == 0
    first.written()
    hits = second.redis_count("hits")
    warm = second.send(request)
    assert is_warm(warm)
    assert content(warm) == content(cold)
    # Now it is in its own memory.
    looked = second.redis_count("hits") + second.redis_count("misses")
    assert second.redis_count("hits") > hits
    again = second.send(request)
    assert is_warm(again)
    assert content(again) == content(cold)
    assert second.redis_count("hits") + second.redis_count("misses") == looked


@pytest.mark.parametrize("name", EXPLANATIONS)
def test_explanations(first, second, name):
    model, method = EXPLANATIONS[name]
    request = Explain(model=model, image=inline(unseen()), method=method)
    served_by_the_other(first, second, request)


@pytest.mark.parametrize("name", PAIRS)
def test_pairs(first, second, name):
    model, method = PAIRS[name]
    query, *candidates = (inline(unseen()) for _ in range(4))
    request = Pair(model=model, query=query, candidates=candidates, method=method)
    served_by_the_other(first, second, request)


def test_embeddings_in_turns(first, second):
    """Half of the pictures each, and then all from both."""
    images = [inline(unseen()) for _ in range(12)]
    for replica, half in ((first, images[::2]), (second, images[1::2])):
        assert replica.send(Embed(model="tiny-vit", images=half)).timing.cached_images == 0
        replica.written()
    answers = [r.send(Embed(model="tiny-vit", images=images)) for r in (first, second)]
    assert all(map(is_warm, answers))
    assert content(answers[0]) == content(answers[1])


def test_pictures_uploaded_to_one_are_found_at_the_other(first, second):
    pictures = [unseen() for _ in range(3)]
    assert second.missing(*pictures) == 3
    first.upload(*pictures)
    assert second.missing(*pictures) == 0
    images = list(map(by_digest, pictures))
    request = Pair(model="tiny-vit", query=images[0], candidates=images[1:])
    answer = second.send(request)
    assert answer.timing.cached_images == 0
    files = Pair(model="tiny-vit", query=inline(pictures[0]))
    files.candidates.extend(map(inline, pictures[1:]))
    assert content(second.send(files)) == content(answer)


def test_what_is_known_of_a_picture_needs_no_picture(first, second):
    picture = unseen()
    cold = first.send(Explain(model="tiny-vit-cls", image=inline(picture)))
    first.written()
    known = Explain(model="tiny-vit-cls", image=by_digest(picture))
    warm = second.send(known)
    assert is_warm(warm)
    assert content(warm) == content(cold)
    # To draw, it has to be looked at.
    with pytest.raises(grpc.RpcError) as caught:
        second.send(
            Explain(model="tiny-vit-cls", image=by_digest(picture), rendering={"overlay": 1})
        )
    assert failure_of_rpc(caught.value).reason == "IMAGE_MISSING"


@pytest.mark.parametrize("model", DISPUTED)
@pytest.mark.parametrize("method", ["rollout", "grad_cam"])
def test_models_of_one_name_that_differ_share_nothing(first, second, model, method):
    # Not of the model's shape, so that the way it is brought to it matters.
    image = inline(unseen())
    asked = {"model": model, "image": image, "method": {method: {}}}
    embed = Embed(model=model, images=[image])
    seen = set()
    for replica in (first, second):
        answer, embedding = replica.send(Explain(**asked)), replica.send(embed)
        replica.written()
        # The other's are there now, and are not taken.
        assert answer.timing.cached_images == embedding.timing.cached_images == 0
        assert is_warm(replica.send(Explain(**asked)))
        assert content(replica.send(Explain(**asked, cache=BYPASS))) == content(answer)
        seen |= {answer.heatmap.values.data, embedding.results[0].embedding.data}
    assert len(seen) == 4


def test_models_of_one_server_that_differ_share_nothing(first):
    image = inline(unseen())
    names = ("tiny-vit-cls", "tiny-vit", "tiny-resnet")
    for name in names:
        assert first.send(Embed(model=name, images=[image])).timing.cached_images == 0
    for name in names:
        assert is_warm(first.send(Embed(model=name, images=[image])))


def test_the_same_model_under_another_name_is_the_same(first):
    """Only what a model computes counts: "other-weights" has those of tiny-vit-cls there."""
    image = inline(unseen())
    assert not is_warm(first.send(Embed(model="tiny-vit-cls", images=[image])))
    assert is_warm(first.send(Embed(model="other-weights", images=[image])))


def test_both_at_once(first, second):
    """Calls for the same at the same time: each is right whoever computes it."""
    images = [inline(unseen()) for _ in range(20)]
    requests = [Explain(model="tiny-vit-cls", image=i, method={"rollout": {}}) for i in images]
    futures = [(r, c.begin(r)) for r, c in itertools.product(requests, (first, second))]
    answers = [(request, future.result().heatmap.values.data) for request, future in futures]
    right = {}
    for replica in (first, second):
        replica.written()
    until(lambda: all(is_warm(second.send(request)) for request in requests), "all is cached")
    for request in requests:
        right[request.image.inline] = second.send(request).heatmap.values.data
    assert len(set(right.values())) == len(images)
    for request, values in answers:
        close(values, right[request.image.inline])


def close(found, expected):
    """Equal but for the rounding of batches of other sizes."""
    np.testing.assert_allclose(
        np.frombuffer(found, "<f4"), np.frombuffer(expected, "<f4"), atol=1e-5
    )
