"""Calls that use, fill, describe and empty the server's cache."""

import os
import socket

import pytest

from pairlens import (
    CacheKindStats,
    ClearedCache,
    Client,
    ImageUndecodableError,
    InvalidParameterError,
    MalformedResponseError,
    Method,
    ModelNotFoundError,
    RequestTooLargeError,
    _cache_codec,
)
from pairlens.v1 import admin_service_pb2, common_pb2, explanation_service_pb2
from tests.client.scripted import Running, Scripted, fails, png

WARM = explanation_service_pb2.WarmRequest
BYPASS, REFRESH = common_pb2.CACHE_POLICY_BYPASS, common_pb2.CACHE_POLICY_REFRESH


def large(number: int) -> bytes:
    return png(110, 110 + number, noise=True)


CALLS = {
    "Explain": lambda client, **how: client.explain(png(), model="vit", **how),
    "Pooled": lambda client, **how: client.class_similarity(png(), png(9), model="cnn", **how),
    "Pair": lambda client, **how: client.pair_similarity(png(), png(), model="cnn", **how),
    "Score": lambda client, **how: client.score_saliency(png(), model="vit", **how),
    "Embed": lambda client, **how: client.embed(png(), model="vit", **how),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_call_says_how_the_cache_is_used(client: Client, service: Scripted, call: str):
    CALLS[call](client)
    CALLS[call](client, cache="bypass")
    CALLS[call](client, cache="refresh")
    CALLS[call](client, cache="default")
    sent = [request.cache for request in service.calls if hasattr(request, "cache")]
    assert sent == [0, BYPASS, REFRESH, 0]
    with pytest.raises(InvalidParameterError, match="cache is one of default, bypass, refresh"):
        CALLS[call](client, cache="off")


def test_the_clients_policy_is_the_default(server: Running):
    with Client(server.target, timeout=10, cache="bypass") as client:
        client.explain(png(), model="vit")
        client.explain(png(9), model="vit", cache="default")
    assert [request.cache for request in server.service.calls] == [BYPASS, 0]
    with pytest.raises(InvalidParameterError, match="cache is one of"):
        Client(server.target, cache="sometimes")


def test_the_answer_says_how_long_the_shared_cache_took(client: Client):
    assert client.explain(png(), model="vit").timing.cache_s == 0.25
    assert client.embed([png(9 + n) for n in range(9)]).timing.cache_s == 0.75


def test_a_client_has_a_name(server: Running):
    with Client(server.target, timeout=10) as client:
        client.explain(png())
        assert client.name == f"{socket.gethostname()[:50]}:{os.getpid()}"
        assert set(server.service.names) == {client.name}
    with Client(server.target, timeout=10, name="indexer") as client:
        client.explain(png(110, 110, noise=True), model="vit")
    assert server.service.names[-4:] == ["indexer"] * 4
    for name in ("", "a" * 101, "naïve", "a\nb"):
        with pytest.raises(InvalidParameterError, match="name is 1 to 100 printable"):
            Client(server.target, name=name)


def test_warm(client: Client, service: Scripted):
    pictures = [png(10 + number) for number in range(9)]
    pictures[4] = b"no picture"
    warmed = client.warm(pictures, model="vit", methods="rollout, grad_cam(rule=libra)")
    assert [len(request.images) for request in service.requests(WARM)] == [4, 4, 1]
    assert warmed.cached == (False,) * 9
    assert (len(warmed), warmed.computed, list(warmed.failures)) == (9, 8, [4])
    assert isinstance(warmed.failures[4], ImageUndecodableError)
    assert warmed.timing.total_s == 3 * 1.5
    again = client.warm(
        pictures, model="vit", methods=["rollout", Method("grad_cam", (("rule", "libra"),))]
    )
    assert again.cached == tuple(index != 4 for index in range(9))
    assert again.computed == 0
    first, second = service.requests(WARM)[0], service.requests(WARM)[3]
    assert [method.WhichOneof("method") for method in first.methods] == ["rollout", "grad_cam"]
    assert list(second.methods) == list(first.methods)


def test_warm_takes_the_first_model_and_its_own_methods(client: Client, service: Scripted):
    client.warm(png(), cache="refresh")
    (request,) = service.requests(WARM)
    assert request == WARM(model="vit", images=[{"inline": png()}], cache=REFRESH)
    client.warm(png(9), model="cnn", pair_methods="correspondence")
    assert service.calls[-1].pair_methods[0].WhichOneof("method") == "correspondence"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": []}, "at least one picture"),
        ({"methods": "rollin"}, "unknown method 'rollin'"),
        ({"methods": "rollout(head=1)"}, "unknown parameter 'head'"),
        ({"pair_methods": Method("rollout")}, "unknown method 'rollout'"),
        ({"cache": "bypass"}, "bypass keeps nothing"),
        ({"cache": "never"}, "cache is one of"),
    ],
)
def test_mistakes_of_warm(client: Client, service: Scripted, arguments, message: str):
    with pytest.raises(InvalidParameterError, match=message):
        client.warm(**({"images": png(), "model": "vit"} | arguments))
    assert not service.requests(WARM)


def test_warm_on_a_client_that_bypasses(server: Running):
    with Client(server.target, timeout=10, cache="bypass") as client:
        with pytest.raises(InvalidParameterError, match="bypass keeps nothing"):
            client.warm(png())
        assert client.warm(png(), cache="default").computed == 1


def test_requests_of_hashes_hold_as_many_pictures_as_are_allowed(client: Client, service: Scripted):
    service.limits.max_candidates = 16
    service.limits.max_request_bytes = 100_000  # two files
    pictures = [large(number) for number in range(20)]
    client.embed(pictures, model="vit")
    client.warm(pictures, model="vit")
    counts = [len(r.images) for r in service.calls if hasattr(r, "images") and hasattr(r, "model")]
    assert counts == [16, 4, 16, 4]
    uploads = [call for call in service.calls if type(call).__name__ == "UploadImagesRequest"]
    assert sum(len(call.images) for call in uploads) == 20  # nothing of them by warm
    assert max(call.ByteSize() for call in uploads) <= 100_000


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_requests_of_files_stay_within_their_bytes(client: Client, service: Scripted, when: str):
    service.limits.max_candidates = 16
    service.limits.max_request_bytes = 100_000
    if when == "before":
        service.limits.keeps_images = False
    else:
        service.images.kept = False
    pictures = [*(large(number) for number in range(5)), large(400), png()]
    embeddings = client.embed(pictures, model="vit")
    requests = service.requests(explanation_service_pb2.EmbedRequest)
    assert [len(request.images) for request in requests] == [2, 2, 1, 1]
    assert list(embeddings.failures) == [5]
    assert isinstance(embeddings.failures[5], RequestTooLargeError)
    assert embeddings.vectors[[0, 1, 2, 3, 4, 6], 0].tolist() == [
        len(pictures[index]) for index in (0, 1, 2, 3, 4, 6)
    ]
    assert list(client.warm(pictures, model="vit").failures) == [5]


def test_evicted_between_requests(client: Client, service: Scripted):
    pictures = [large(number) for number in range(10)]
    service.images.max_bytes = 3 * len(large(9))  # a request holds 4
    embeddings = client.embed(pictures, model="vit")
    assert embeddings.vectors[:, 0].tolist() == [len(picture) for picture in pictures]


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda response: response.results.pop(), "1 results for 2 pictures"),
        (lambda response: response.results[1].Clear(), "picture 1 holds neither success nor"),
    ],
)
def test_an_answer_of_warm_that_breaks_the_contract(break_it, message: str):
    response = explanation_service_pb2.WarmResponse(
        results=[{"warmed": {}}, {"warmed": {"cached": True}}]
    )
    break_it(response)
    with pytest.raises(MalformedResponseError, match=message):
        _cache_codec.WarmedParts().add(response, 2)


def test_cache_stats(client: Client):
    stats = client.cache_stats()
    assert stats.memory[0] == CacheKindStats(
        kind="activation",
        hits=30,
        misses=10,
        corrupt=0,
        stored=10,
        dropped=0,
        evicted=2,
        entries=8,
        bytes=3 * 2**20,
        max_bytes=2**30,
    )
    assert (stats.memory[1].kind, stats.memory[1].max_bytes) == ("image", 2**28)
    redis = stats.redis
    assert (redis.state, redis.errors, redis.timeouts, redis.queued_bytes) == ("up", 2, 1, 100)
    assert (redis.kinds[0].hits, redis.kinds[0].corrupt) == (3, 1)
    assert (redis.used_bytes, redis.max_bytes) == (5 * 2**20, 0)


def test_clear_cache(client: Client, service: Scripted):
    assert client.clear_cache("vit") == ClearedCache(8, 20, True)
    client.clear_cache(images=True)
    first, second = service.requests(admin_service_pb2.ClearCacheRequest)
    assert (first.model, list(first.kinds)) == ("vit", [admin_service_pb2.CACHE_KIND_ACTIVATION])
    assert (second.model, list(second.kinds)) == (
        "",
        [admin_service_pb2.CACHE_KIND_ACTIVATION, admin_service_pb2.CACHE_KIND_IMAGE],
    )
    with pytest.raises(InvalidParameterError, match="images belong to no model"):
        client.clear_cache("vit", images=True)
    service.redis_cleared = False
    assert not client.clear_cache("vit").redis_cleared
    with pytest.raises(ModelNotFoundError):
        client.clear_cache("bert")


def test_a_failed_request_fails_warm(client: Client, service: Scripted):
    client.get_model("vit")
    service.script.append(fails("METHOD_UNSUPPORTED", "no pairs"))
    with pytest.raises(Exception, match="no pairs"):
        client.warm(png(), model="vit")
