"""Pictures by what they are known by, over bare stubs; `test_sending_images.py` has the SDK."""

from __future__ import annotations

import hashlib

import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pairlens.v1 import common_pb2, image_service_pb2, metrics_pb2
from tests.conftest import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS
from tests.contract.support import TIMEOUT_S, Failure, encoded, image, noise, refused, unseen
from tests.contract.uploads import (
    Calls,
    Embed,
    Explain,
    Pair,
    Score,
    Warm,
    by_digest,
    digest_of,
)

VIT, CLS, CNN = "tiny-vit", "tiny-vit-cls", "tiny-resnet"


@pytest.fixture(scope="module")
def calls(server) -> Calls:
    return Calls(server.channel)


def test_what_is_missing_until_it_is_uploaded(calls):
    files = [unseen() for _ in range(4)]
    digests = [digest_of(file) for file in files]
    assert calls.missing(*digests) == digests
    assert calls.upload(*files[::2]) == digests[::2]
    # In the order of the request, each once.
    assert calls.missing(*reversed(digests), *digests) == [digests[3], digests[1]]
    assert calls.upload(*files) == digests
    assert calls.missing(*digests) == []


@pytest.mark.parametrize("number", [0, 1001])
def test_numbers_of_digests(calls, number):
    digests = [common_pb2.Digest(sha256=bytes(32), size_bytes=1)] * number
    found = refused(calls.missing, *digests)
    assert (found.code, found.reason, found.field) == (
        "INVALID_ARGUMENT",
        "INVALID_PARAMETER",
        "digests",
    )


def test_numbers_of_uploads(calls, server):
    limits = server.get_model(VIT).limits
    assert (limits.keeps_images, limits.max_digests) == (True, 1000)
    assert refused(calls.upload).field == "images"
    file = unseen()
    most = limits.max_candidates + 1
    assert refused(calls.upload, *[file] * (most + 1)).field == "images"
    assert calls.upload(*[file] * most) == [digest_of(file)] * most


def test_bad_uploads_fail_alone(calls):
    good, other = unseen(), unseen()
    wide = encoded(noise(1, 1, 1).resize((MAX_IMAGE_PIXELS + 1, 1)), "PNG")
    results = calls.upload(
        good,
        b"no picture",
        image_service_pb2.ImageUpload(data=other, digest=digest_of(good)),
        bytes(MAX_IMAGE_BYTES + 1),
        wide,
        b"",
        image_service_pb2.ImageUpload(data=other, digest=digest_of(other)),
    )
    assert results[0] == digest_of(good)
    assert results[-1] == digest_of(other)
    failures = [(r.reason, r.field) for r in results if isinstance(r, Failure)]
    assert failures == [
        ("IMAGE_UNDECODABLE", "images[1].data"),
        ("INVALID_PARAMETER", "images[2].digest"),
        ("IMAGE_TOO_LARGE", "images[3].data"),
        ("IMAGE_TOO_LARGE", "images[4].data"),
        ("IMAGE_UNDECODABLE", "images[5].data"),
    ]
    no_digest = common_pb2.Digest(sha256=b"short", size_bytes=3)
    found = refused(calls.upload, image_service_pb2.ImageUpload(data=other, digest=no_digest))
    assert (found.reason, found.field) == ("INVALID_PARAMETER", "images[0].digest.sha256")


# What takes pictures, by a function that makes the field of each


def explain(a, b, c):
    return Explain(model=CLS, image=a, method={"rollout": {}}, rendering={"overlay": True})


def explain_similar(a, b, c):
    target = {"similarity": {"images": [b, c]}}
    return Explain(model=CNN, image=a, method={"grad_cam": {}}, target=target)


def pair(a, b, c):
    return Pair(model=VIT, query=a, candidates=[b, c], rendering={"upsampled": True})


def score(a, b, c):
    return Score(
        model=VIT,
        image=a,
        pair_method={"pooled_decomposition": {}},
        target={"similarity": {"images": [b]}},
        metrics=[metrics_pb2.Metric(deletion={"steps": 4})],
        sides=["SIDE_IMAGE", "SIDE_PARTNER"],
    )


def embed(a, b, c):
    return Embed(model=VIT, images=[a, b, c])


FIELDS = {
    explain: ("Explain", ["image"]),
    explain_similar: (
        "Explain",
        ["image", "target.similarity.images[0]", "target.similarity.images[1]"],
    ),
    pair: ("PairSimilarity", ["query", "candidates[0]", "candidates[1]"]),
    score: ("ScoreSaliency", ["image", "target.similarity.images[0]"]),
    embed: ("Embed", ["images[0]", "images[1]", "images[2]"]),
}


def content(answer) -> bytes:
    """All but times and counts."""
    answer.ClearField("timing")
    return answer.SerializeToString(deterministic=True)


@pytest.mark.parametrize("make", FIELDS)
def test_a_digest_is_as_good_as_the_file(calls, make):
    name, fields = FIELDS[make]
    files = [unseen() for _ in range(3)]
    rpc = getattr(calls, name)

    found = refused(rpc, make(*map(by_digest, files)))
    assert (found.code, found.reason) == ("FAILED_PRECONDITION", "IMAGE_MISSING")
    violations = found.detail(error_details_pb2.PreconditionFailure).violations
    assert [(v.type, v.subject, v.description) for v in violations] == [
        ("MISSING", f"images/{hashlib.sha256(file).hexdigest()}/{len(file)}", field)
        for file, field in zip(files, fields, strict=False)
    ]

    calls.upload(*files)
    first, *others = files
    mixed = rpc(make(image(first), *map(by_digest, others)))
    assert mixed.timing.cached_images == 0
    assert content(rpc(make(*map(by_digest, files)))) == content(mixed)
    assert content(rpc(make(*map(image, files)))) == content(mixed)


def test_what_is_known_of_a_picture_needs_no_file(calls):
    """A digest is enough where nothing of the picture itself is needed."""
    file = unseen()
    request = Explain(model=CLS, image=image(file), method={"rollout": {}})
    answer = calls.Explain(request)
    known = Explain(model=CLS, image=by_digest(file), method={"rollout": {}})
    assert content(calls.Explain(known)) == content(answer)
    assert calls.missing(digest_of(file)) == [digest_of(file)]
    for needs_more in ({"rendering": {"overlay": True}}, {"cache": common_pb2.CACHE_POLICY_BYPASS}):
        asked = Explain(model=CLS, image=by_digest(file), method={"rollout": {}}, **needs_more)
        assert refused(calls.Explain, asked).reason == "IMAGE_MISSING"


def test_warm_takes_digests(calls):
    files = [unseen() for _ in range(3)]
    request = Warm(model=CLS, images=map(by_digest, files), methods=[{"rollout": {}}])
    assert refused(calls.Warm, request).reason == "IMAGE_MISSING"
    calls.upload(*files)
    for cached in (False, True):
        results = calls.Warm(request).results
        assert [result.warmed.cached for result in results] == [cached] * 3
    answer = calls.Explain(Explain(model=CLS, image=by_digest(files[0]), method={"rollout": {}}))
    assert answer.timing.cached_images == 1
    assert answer.timing.compute.ToNanoseconds() == 0


def test_at_most_sixteen_missing_pictures_are_named(calls):
    files = [unseen() for _ in range(40)]
    found = refused(calls.Embed, Embed(model=VIT, images=map(by_digest, files)))
    violations = found.detail(error_details_pb2.PreconditionFailure).violations
    subjects = [f"images/{hashlib.sha256(f).hexdigest()}/{len(f)}" for f in files]
    assert [violation.subject for violation in violations] == subjects[:16]


def test_the_length_is_part_of_the_digest(calls):
    file = unseen()
    calls.upload(file)
    wrong = digest_of(file)
    wrong.size_bytes += 1
    for _ in range(2):  # from the file, then from what is known of it
        found = refused(calls.Explain, Explain(model=CLS, image={"digest": wrong}))
        assert (found.reason, found.field) == ("INVALID_PARAMETER", "image.digest.size_bytes")
        calls.Explain(Explain(model=CLS, image=by_digest(file)))


@pytest.mark.parametrize(
    ("digest", "field"),
    [
        ({"sha256": bytes(31), "size_bytes": 9}, "sha256"),
        ({"sha256": bytes(33), "size_bytes": 9}, "sha256"),
        ({"size_bytes": 9}, "sha256"),
        ({"sha256": bytes(32)}, "size_bytes"),
    ],
)
def test_what_is_no_digest(calls, digest, field):
    named = common_pb2.Image(digest=digest)
    found = refused(calls.Explain, Explain(model=CLS, image=named))
    assert (found.reason, found.field) == ("INVALID_PARAMETER", f"image.digest.{field}")
    found = refused(calls.PairSimilarity, Pair(model=VIT, query=named))
    assert found.reason == "INVALID_PARAMETER"
    found = refused(calls.missing, common_pb2.Digest(**digest))
    assert (found.reason, found.field) == ("INVALID_PARAMETER", f"digests[0].{field}")


def test_a_digest_of_more_than_a_picture_may_have(calls):
    large = common_pb2.Digest(sha256=bytes(32), size_bytes=MAX_IMAGE_BYTES + 1)
    found = refused(calls.Explain, Explain(model=CLS, image={"digest": large}))
    assert (found.reason, found.field) == ("IMAGE_TOO_LARGE", "image")


def test_the_services_are_listed_as_serving(server):
    stub = health_pb2_grpc.HealthStub(server.channel)
    for name in ("ExplanationService", "ModelService", "ImageService", "AdminService"):
        request = health_pb2.HealthCheckRequest(service=f"pairlens.v1.{name}")
        answer = stub.Check(request, timeout=TIMEOUT_S)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
