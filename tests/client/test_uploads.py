"""What travels: each picture once."""

import pytest

from pairlens import Client, SimilarTo, errors
from pairlens._uploads import MAX_SMALL_BYTES, MIN_UPLOAD_BYTES
from tests.client.scripted import Scripted, fails, png
from tests.client.uploading import (
    DETAILS,
    EXPLAIN,
    FIND,
    PAIR,
    SCORE,
    UPLOAD,
    kinds,
    large,
    sources,
)


def test_a_large_picture_is_uploaded_once(client: Client, service: Scripted):
    picture = large()
    assert len(picture) >= MIN_UPLOAD_BYTES
    made = client.explain(picture, model="vit")
    assert kinds(service) == ["find", "upload", "call"]
    assert made.geometry.image_width == 110
    first = service.bytes_received()
    assert len(picture) < first < len(picture) + 300
    for _ in range(5):
        client.explain(picture, model="vit")
    assert kinds(service)[3:] == ["call"] * 5
    assert service.bytes_received() - first < 5 * 100
    assert sources(service.calls[-1]) == ["digest"]
    assert len(service.requests(DETAILS)) == 1


def test_a_small_picture_is_uploaded_when_it_comes_again(client: Client, service: Scripted):
    for _ in range(3):
        client.explain(png(), model="vit")
    assert kinds(service) == ["call", "find", "upload", "call", "call"]
    calls = service.requests(EXPLAIN)
    assert [sources(call) for call in calls] == [["inline"], ["digest"], ["digest"]]
    assert sum(len(image.data) for image in service.requests(UPLOAD)[0].images) == len(png())


def test_a_picture_that_the_server_has_from_elsewhere_is_not_uploaded(
    client: Client, service: Scripted
):
    service.images.put(large())
    client.explain(large(), model="vit")
    assert kinds(service) == ["find", "call"]


def test_of_65_pictures_the_3_missing_ones_travel(client: Client, roomy: Scripted):
    query, *candidates = (large(number) for number in range(65))
    missing = {0, 17, 63}
    for index, candidate in enumerate(candidates):
        if index not in missing:
            roomy.images.put(candidate)
    roomy.images.put(query)
    results = client.pair_similarity(query, candidates, model="cnn")
    assert [match.candidate.geometry.image_width for match in results.matches] == [
        111 + index for index in range(64)
    ]
    assert kinds(roomy) == ["find", "upload", "call"]
    assert len(roomy.requests(FIND)[0].digests) == 65
    sent = [upload.data for upload in roomy.requests(UPLOAD)[0].images]
    assert sorted(map(len, sent)) == sorted(len(candidates[index]) for index in missing)
    # What a digest costs, twice each, and the three files.
    assert roomy.bytes_received() < sum(map(len, sent)) + 65 * 2 * 50 + 500


def test_the_same_picture_twice_in_a_call_is_one(client: Client, service: Scripted):
    client.pair_similarity(large(), [large(), large()], model="cnn")
    assert len(service.requests(FIND)[0].digests) == 1
    assert len(service.requests(UPLOAD)[0].images) == 1
    assert sources(service.requests(PAIR)[0]) == ["digest"] * 3


def test_pictures_of_a_target_travel_alike(client: Client, service: Scripted):
    for _ in range(2):
        client.explain(png(), model="cnn", method="grad_cam", target=SimilarTo([large(), png(9)]))
    first, second = service.requests(EXPLAIN)
    assert [image.WhichOneof("source") for image in first.target.similarity.images] == [
        "digest",
        "inline",
    ]
    assert second.ByteSize() < 300
    client.score_saliency(png(), model="cnn", method="grad_cam", target=SimilarTo(large()))
    (score,) = service.requests(SCORE)
    assert score.image.WhichOneof("source") == "digest"
    assert score.target.similarity.images[0].WhichOneof("source") == "digest"
    assert kinds(service) == ["find", "upload", "call", "find", "upload", "call", "call"]


def test_questions_and_uploads_stay_within_the_limits(client: Client, service: Scripted):
    service.limits.max_digests = 3
    service.limits.max_candidates = 4
    service.limits.max_request_bytes = 150_000
    pictures = [large(number) for number in range(8)]
    client.pair_similarity(pictures[0], pictures[1:], model="cnn")
    assert [len(request.digests) for request in service.requests(FIND)] == [3, 3, 2]
    uploads = service.requests(UPLOAD)
    assert sum(len(request.images) for request in uploads) == 8
    assert max(request.ByteSize() for request in uploads) <= 150_000
    assert max(len(request.images) for request in uploads) <= 5
    # The pictures are far over what one request may hold.
    assert sum(map(len, pictures)) > 2 * 150_000
    assert service.requests(PAIR)[0].ByteSize() < 1000


def test_many_small_pictures_do_not_fill_a_request(client: Client, roomy: Scripted):
    pictures = [png(100, 40 + number, noise=True) for number in range(60)]
    assert all(len(picture) < MIN_UPLOAD_BYTES for picture in pictures)
    total = sum(map(len, pictures))
    assert total > MAX_SMALL_BYTES
    client.pair_similarity(pictures[0], pictures[1:], model="cnn")
    assert roomy.requests(PAIR)[0].ByteSize() <= MAX_SMALL_BYTES + 10_000
    assert roomy.bytes_received() < total + 20_000


def test_a_picture_over_the_servers_limit_is_not_uploaded(client: Client, service: Scripted):
    service.limits.max_image_bytes = len(large()) - 1
    client.explain(large(), model="vit")
    assert kinds(service) == ["call"]
    assert sources(service.calls[-1]) == ["inline"]


def test_mistakes_are_said_before_anything_is_sent(client: Client, service: Scripted):
    with pytest.raises(errors.InvalidParameterError, match="unknown parameter"):
        client.explain(large(), model="vit", method="rollout", nonsense=1)
    with pytest.raises(errors.InvalidParameterError, match="cache is one of default, bypass"):
        client.explain(large(), model="vit", cache="none")
    assert not service.calls


def test_an_unknown_model_is_said_before_anything_is_uploaded(client: Client, service: Scripted):
    with pytest.raises(errors.ModelNotFoundError):
        client.explain(large(), model="bert")
    assert kinds(service) == []


def test_other_errors_of_an_upload_are_the_calls(client: Client, service: Scripted):
    client.get_model("vit")
    service.script.append(fails("INTERNAL", "a bug"))
    with pytest.raises(errors.InternalError, match="a bug"):
        client.explain(large(), model="vit")
    client.explain(large(), model="vit")  # nothing is left behind
    assert kinds(service) == ["find", "find", "upload", "call"]


def test_a_broken_answer_is_malformed(client: Client, service: Scripted, monkeypatch):
    honest = service.images.put
    monkeypatch.setattr(service.images, "put", lambda data: honest(data + b"!"))
    with pytest.raises(errors.MalformedResponseError, match="is kept as another"):
        client.explain(large(), model="vit")
