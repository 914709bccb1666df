import copy
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from pairlens import AsyncClient, Client, PairFailure, PairMatch, Rendering, errors
from pairlens._steps import Deadline, Rpc
from pairlens._transport import MAX_QUEUE_ATTEMPTS, call
from pairlens.v1 import common_pb2, explanation_service_pb2, model_service_pb2
from tests.client.scripted import Running, Scripted, fails, png

EXPLAIN = explanation_service_pb2.ExplainRequest
PAIR = explanation_service_pb2.PairSimilarityRequest
LIST = model_service_pb2.ListModelsRequest


def test_models(client: Client):
    assert [model.name for model in client.list_models()] == ["vit", "cnn"]
    details = client.get_model("cnn")
    assert details.model.architecture == "resnet18"
    assert details.limits.max_candidates == 4
    assert details.limits.max_target_embeddings == 9
    with pytest.raises(errors.ModelNotFoundError, match="no model 'x'"):
        client.get_model("x")


def test_explain(client: Client, service: Scripted):
    made = client.explain(png(), model="cnn", method="grad_cam", target="goldfish")
    assert made.heatmap.shape == (2, 3)
    assert (made.target.label, made.method.name) == ("goldfish", "grad_cam")
    (sent,) = service.calls
    assert sent == EXPLAIN(
        model="cnn",
        image={"inline": png()},
        method={"grad_cam": {}},
        target={"label": "goldfish"},
    )


def test_rendering_is_asked_for(client: Client, service: Scripted):
    service.overlay_png = png(16, 16)
    made = client.explain(png(), model="vit", render=Rendering(max_side=16))
    assert made.overlay(max_side=16).size == (16, 16)
    assert service.calls[0].rendering.scale == common_pb2.COLOR_SCALE_IMAGE
    client.pair_similarity(png(), png(), model="cnn", render=Rendering())
    assert service.requests(PAIR)[0].rendering.scale == common_pb2.COLOR_SCALE_PAIR


def test_pair_similarity(client: Client, service: Scripted):
    results = client.pair_similarity(
        png(),
        [png(20, 30), b"broken", png(30, 20)],
        model="cnn",
        match_matrix=True,
        profile="paper",
    )
    assert [type(result) for result in results] == [PairMatch, PairFailure, PairMatch]
    assert [match.similarity for match in results.matches] == [0.5, 0.75]
    assert results.matches[1].match_matrix.shape == (6, 6)
    assert isinstance(results[1].error, errors.ImageUndecodableError)
    assert results[1].error.field == "candidates[1]"
    (sent,) = service.requests(PAIR)
    assert sent.method.pooled_decomposition.match_matrix
    assert results.method.parameters["profile"] == "paper"


def test_one_candidate(client: Client):
    assert len(client.pair_similarity(png(), np.zeros((8, 8), np.uint8), model="cnn")) == 1


def test_no_candidate(client: Client, service: Scripted):
    with pytest.raises(errors.InvalidParameterError, match="at least one candidate"):
        client.pair_similarity(png(), [], model="cnn")
    assert not service.calls


@pytest.mark.parametrize(
    ("method", "model"), [(None, "vit"), ("rollout", "vit"), ("grad_cam", "cnn")]
)
def test_the_first_model_that_gives_the_method(client: Client, method: str | None, model: str):
    assert client.explain(png(), method=method).provenance.model == model


def test_pairs_choose_a_model_that_gives_pairs(client: Client):
    assert client.pair_similarity(png(), png()).provenance.model == "cnn"


def test_the_list_of_models_is_remembered(client: Client, service: Scripted):
    for _ in range(3):
        client.explain(png())
    assert len(service.requests(LIST)) == 1
    client.list_models()
    assert len(service.requests(LIST)) == 2


def test_a_model_that_went_away_makes_the_list_be_asked_for_anew(client: Client, service: Scripted):
    client.explain(png())
    service.models.reverse()
    service.script.append(fails("MODEL_NOT_FOUND"))
    with pytest.raises(errors.ModelNotFoundError):
        client.explain(png())
    assert client.explain(png()).provenance.model == "cnn"


def test_parameters_without_a_method_are_the_default_methods(client: Client, service: Scripted):
    client.explain(png(), model="vit", start_block=2)
    assert service.requests(EXPLAIN)[0].method.rollout.start_block == 2
    with pytest.raises(errors.InvalidParameterError, match="unknown parameter 'head'; rollout"):
        client.explain(png(), head=2)


def test_no_model_gives_it(client: Client, service: Scripted):
    del service.models[1]
    with pytest.raises(errors.MethodUnsupportedError, match="vit: its embedding is no sum"):
        client.pair_similarity(png(), png())
    with pytest.raises(errors.MethodUnsupportedError, match="no model gives 'grad_cam'"):
        client.explain(png(), method="grad_cam")
    with pytest.raises(errors.MethodUnsupportedError, match="its embedding"):
        client.pair_similarity(png(), png(), model="vit", profile="strict")
    service.models.clear()
    client.list_models()
    with pytest.raises(errors.ModelNotFoundError, match="serves no models"):
        client.explain(png())
    with pytest.raises(errors.ModelNotFoundError, match="no model 'vit' is served; served: none"):
        client.explain(png(), model="vit", start_block=1)


def test_deadline(client: Client, service: Scripted):
    release = threading.Event()
    service.script.append(lambda _: release.wait(5) and None)
    start = time.monotonic()
    with pytest.raises(errors.DeadlineExceededError, match=r"no answer from .* within 0\.3 s"):
        client.explain(png(), model="vit", timeout=0.3)
    assert time.monotonic() - start < 2
    release.set()
    assert 0 < service.deadlines[0] <= 0.3


def test_the_clients_timeout_is_the_default(client: Client, service: Scripted):
    client.explain(png(), model="vit")
    assert 8 < service.deadlines[0] <= 10


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_bad_timeouts(client: Client, timeout: float):
    with pytest.raises(errors.InvalidParameterError, match="timeout"):
        client.explain(png(), timeout=timeout)
    with pytest.raises(errors.InvalidParameterError, match="timeout"):
        Client(timeout=timeout)


def test_a_full_queue_is_tried_again_after_what_the_server_says(client: Client, service: Scripted):
    service.script.extend([fails("QUEUE_FULL", retry_after=0.1)] * 2)
    start = time.monotonic()
    client.explain(png(), model="vit", timeout=2)
    assert 0.2 <= time.monotonic() - start < 2
    assert len(service.calls) == 3
    assert service.deadlines[2] < service.deadlines[0] - 0.1  # gRPC sends deadlines rounded


def test_a_full_queue_beyond_the_deadline_is_raised_at_once(client: Client, service: Scripted):
    service.script.append(fails("QUEUE_FULL", retry_after=3))
    start = time.monotonic()
    with pytest.raises(errors.QueueFullError) as caught:
        client.explain(png(), model="vit", timeout=2)
    assert time.monotonic() - start < 1
    assert caught.value.retry_after == 3
    assert len(service.calls) == 1


def test_out_of_memory_is_not_tried_again(client: Client, service: Scripted):
    service.script.append(fails("OUT_OF_MEMORY", retry_after=0.01))
    with pytest.raises(errors.OutOfMemoryError):
        client.explain(png(), model="vit")
    assert len(service.calls) == 1


@pytest.mark.parametrize(
    ("retry_after", "waits"),
    [
        (None, [0.15, 0.3, 0.6, 1.2, 2.4, 4.8, 9.6]),
        (0.2, [0.3] * 7),
    ],
)
def test_repetitions_are_bounded_and_jittered(retry_after: float | None, waits: list[float]):
    steps = call(lambda stubs: stubs.models.ListModels, LIST(), Deadline(60), jitter=lambda: 1.0)
    slept, refusal = [], errors.QueueFullError("full", retry_after=retry_after)
    assert isinstance(next(steps), Rpc)
    for _ in range(MAX_QUEUE_ATTEMPTS - 1):
        slept.append(steps.throw(refusal).seconds)
        assert isinstance(next(steps), Rpc)
    with pytest.raises(errors.QueueFullError):
        steps.throw(refusal)
    assert slept == pytest.approx(waits)


def test_a_large_request_is_sent_again_when_the_server_was_unavailable(
    client: Client, service: Scripted
):
    # gRPC's default retry buffer, 256 KiB, would give up on this after one attempt.
    large = png(600, 600, noise=True)
    assert len(large) > 2**20
    service.limits.max_request_bytes, service.limits.keeps_images = 2**22, False
    service.script.extend([lambda _: None, *[fails("NOT_READY")] * 2])
    assert client.explain(large, model="vit").heatmap.shape == (2, 3)
    assert [call.image.inline == large for call in service.requests(EXPLAIN)] == [True] * 3


def test_threads_share_a_client(client: Client, service: Scripted):
    sizes = range(10, 42)
    with ThreadPoolExecutor(8) as executor:
        made = list(executor.map(lambda side: client.explain(png(side, 50)), sizes))
    assert [explanation.geometry.image_height for explanation in made] == list(sizes)


def test_several_servers_share_the_calls_and_one_that_drains_gets_none(server: Running):
    other = Running()
    try:
        with Client(f"ipv4:{server.target},{other.target}", timeout=10) as client:
            client.wait_ready()
            while not other.service.calls or not server.service.calls:
                client.list_models()  # until both are connected
            before = len(server.service.calls), len(other.service.calls)
            for _ in range(10):
                client.list_models()
            after = len(server.service.calls), len(other.service.calls)
            assert [end - start for start, end in zip(before, after, strict=True)] == [5, 5]
            other.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
            time.sleep(0.3)
            for _ in range(10):
                client.list_models()
            assert len(other.service.calls) == after[1]
    finally:
        other.stop()


def test_wait_ready_waits_for_a_server_that_is_yet_to_come():
    probe = Running()
    port = probe.target
    probe.stop()
    with Client(port, timeout=10) as client:
        with pytest.raises(errors.DeadlineExceededError):
            client.wait_ready(0.2)
        started: list[Running] = []
        timer = threading.Timer(0.3, lambda: started.append(Running(address=port)))
        timer.start()
        client.wait_ready()
        timer.join()
        assert client.explain(png()).heatmap.shape == (2, 3)
    started[0].stop()


def test_wait_ready_waits_while_models_load(client: Client, service: Scripted):
    service.script.extend([fails("NOT_READY", retry_after=0.01)] * 6)
    client.wait_ready()
    service.script.extend([fails("NOT_READY", retry_after=0.01)] * 99)
    with pytest.raises(errors.NotReadyError):
        client.wait_ready(2)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_client_is_neither_copied_nor_pickled(kind: type, how: Callable[[object], object]):
    with pytest.raises(TypeError, match=f"^{kind.__name__} can be neither copied nor pickled"):
        how(kind("localhost:1"))


def test_a_closed_client(server: Running):
    client = Client(server.target)
    client.close()
    client.close()
    with pytest.raises(errors.PairlensError, match="closed"):
        client.list_models()


def test_closing_ends_calls_under_way(server: Running, service: Scripted):
    release = threading.Event()
    service.script.append(lambda _: release.wait(5) and None)
    client = Client(server.target, timeout=10)
    threading.Timer(0.3, client.close).start()
    with pytest.raises(errors.PairlensError, match="the client is closed") as caught:
        client.explain(png(), model="vit")
    release.set()
    assert caught.value.code == "CANCELLED"
