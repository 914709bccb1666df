"""What the server says of itself: health, reflection, models."""

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from pairlens.v1 import model_service_pb2
from tests.conftest import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS, MAX_REQUEST_BYTES
from tests.contract.support import image, png
from tests.server_process import LABELS, MODELS

SERVICES = ("pairlens.v1.ExplanationService", "pairlens.v1.ModelService")


@pytest.mark.parametrize("name", ["", *SERVICES])
def test_health(server, name):
    health = health_pb2_grpc.HealthStub(server.channel)
    answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_health_of_nothing(server):
    health = health_pb2_grpc.HealthStub(server.channel)
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(health_pb2.HealthCheckRequest(service="nothing"), timeout=10)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_reflection(server):
    stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = stub.ServerReflectionInfo(iter([asked]), timeout=10)
    names = {service.name for service in answer.list_services_response.service}
    assert {*SERVICES, "grpc.health.v1.Health"} <= names


def test_models_come_in_the_order_of_the_file(server):
    assert [m.name for m in server.list_models()] == [m["name"] for m in MODELS]


def test_get_model_says_what_list_models_does(server):
    for info in server.list_models():
        assert server.get_model(info.name).model == info


@pytest.mark.parametrize(
    ("name", "family", "grid", "prefix", "pooling", "classes"),
    [
        ("tiny-vit", "vit", (4, 6), 0, "avg", 5),
        ("tiny-vit-cls", "vit", (4, 6), 1, "token", 5),
        ("tiny-deit", "vit", (4, 6), 2, "token", 5),
        ("tiny-registers", "vit", (4, 6), 3, "avg", 5),
        ("tiny-resnet", "resnet", (2, 3), 0, "avg", 8),
        ("tiny-bit", "resnetv2", (2, 2), 0, "avg", 5),
        ("tiny-headless", "vit", (4, 6), 0, "avg", 0),
    ],
)
def test_facts(server, name, family, grid, prefix, pooling, classes):
    info = server.get_model(name).model
    assert info.family == family
    assert (info.grid_rows, info.grid_columns) == grid
    assert info.prefix_tokens == prefix
    assert info.pooling == pooling
    assert info.classes == classes
    assert (info.blocks, info.heads) == ((3, 2) if family == "vit" else (0, 0))
    assert (info.device, info.dtype) == ("cpu", "float32")
    assert list(info.labels) == (list(LABELS) if name == "tiny-resnet" else [])


def test_fingerprints_differ(server):
    prints = [info.fingerprint for info in server.list_models()]
    assert all(prints)
    assert len(set(prints)) == len(prints)


LIKE = {"similarity": {"images": [image(png(2))]}}


def test_every_listed_default_runs_and_comes_back(server):
    for info in server.list_models():
        if info.name == "tiny-fine":
            continue  # 900 cells make the slow methods slow
        for method in info.methods:
            which = method.WhichOneof("defaults")
            region = method.name == "correspondence"  # has no default
            assert (bool(method.refusal) or region) == (which is None)
            if which == "explanation":
                by_class = method.takes_class and info.classes
                target = LIKE if method.takes_similarity and not by_class else None
                answer = server.explain(info.name, method=method.explanation, target=target)
                assert answer.method == method.explanation
                assert answer.HasField("target") == (method.takes_class or method.takes_similarity)
                assert answer.target.HasField("class_index") == bool(by_class)
                assert len(answer.target.similarities) == (target is not None)
            elif which == "pair":
                answer = server.pair(info.name, png(1), png(2), method=method.pair)
                assert answer.method == method.pair
            if which:
                assert answer.provenance.method == method.name
                assert answer.provenance.method_revision == method.revision


def test_what_runs_when_nothing_is_named(server):
    for info in server.list_models():
        if info.HasField("default_explanation_method"):
            assert server.explain(info.name).method == info.default_explanation_method
        answer = server.explain(info.name, target=LIKE)
        assert answer.method == info.default_similarity_method
        answer = server.pair(info.name, png(1), png(2))
        assert answer.method == info.default_pair_method


def test_limits_are_those_of_the_flags(server):
    assert server.get_model("tiny-vit").limits == model_service_pb2.Limits(
        max_request_bytes=MAX_REQUEST_BYTES,
        max_image_bytes=MAX_IMAGE_BYTES,
        max_image_pixels=MAX_IMAGE_PIXELS,
        max_candidates=64,
        max_rendered_pixels=32_000_000,
        max_match_values=32_000_000,
        max_target_embeddings=100_000,
        max_metrics=16,
        max_copies=10_000,
        max_digests=1000,
        max_queued_cost=512,
        max_concurrent_streams=256,
        max_bytes_under_way=2**30,
        keeps_images=True,
        image_formats=["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"],
    )
