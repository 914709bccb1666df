"""Servers that lose pictures, or do not keep them."""

import time

import pytest

from pairlens import Client, errors
from pairlens._uploads import SCATTERED_REST_S
from tests.client.scripted import Running, Scripted
from tests.client.uploading import DETAILS, EXPLAIN, FIND, PAIR, UPLOAD, kinds, large, sources


def test_evicted_pictures_are_brought_again(client: Client, roomy: Scripted):
    pictures = [large(number) for number in range(5)]
    client.pair_similarity(pictures[0], pictures[1:], model="cnn")
    roomy.images.evict(pictures[1], pictures[3])
    roomy.calls.clear()
    results = client.pair_similarity(pictures[0], pictures[1:], model="cnn")
    assert len(results.matches) == 4
    assert kinds(roomy) == ["call", "find", "upload", "call"]
    assert len(roomy.requests(FIND)[0].digests) == 5  # 16 are named at most: all may be gone
    assert [len(upload.data) for upload in roomy.requests(UPLOAD)[0].images] == [
        len(pictures[1]),
        len(pictures[3]),
    ]


def test_more_pictures_are_gone_than_an_error_names(client: Client, roomy: Scripted):
    pictures = [large(number) for number in range(40)]
    client.pair_similarity(pictures[0], pictures[1:], model="cnn")
    roomy.images.evict()
    roomy.calls.clear()
    client.pair_similarity(pictures[0], pictures[1:], model="cnn")
    assert kinds(roomy) == ["call", "find", "upload", "call"]
    assert len(roomy.requests(UPLOAD)[0].images) == 40


def test_a_store_smaller_than_the_call_ends_in_files_along(client: Client, roomy: Scripted):
    pictures = [large(number) for number in range(4)]
    roomy.images.max_bytes = 2 * len(pictures[3])
    results = client.pair_similarity(pictures[0], pictures[1:], model="cnn")
    assert len(results.matches) == 3
    assert kinds(roomy) == ["find", "upload", "call", "find", "upload", "call", "call"]
    assert sources(roomy.calls[-1]) == ["inline"] * 4
    client.pair_similarity(pictures[0], pictures[1:], model="cnn")  # and so for a while
    assert kinds(roomy)[7:] == ["call"]


def test_a_store_smaller_than_a_call_that_does_not_fit_into_a_request(
    client: Client, roomy: Scripted
):
    pictures = [large(number) for number in range(4)]
    roomy.images.max_bytes = 2 * len(pictures[3])
    roomy.limits.max_request_bytes = 100_000
    with pytest.raises(errors.RequestTooLargeError, match="gone again: the servers behind"):
        client.pair_similarity(pictures[0], pictures[1:], model="cnn")
    # Another time it may be there: it would not fit otherwise.
    roomy.images.max_bytes = 2**30
    assert len(client.pair_similarity(pictures[0], pictures[1:], model="cnn").matches) == 3


def test_replicas_without_a_common_store_get_files_along(server: Running):
    other = Running()
    try:
        with Client(f"ipv4:{server.target},{other.target}", timeout=10) as client:
            now = [time.monotonic()]
            client._calls._uploads._clock = lambda: now[0]
            client.wait_ready()
            while not other.service.calls or not server.service.calls:
                client.list_models()  # until both are connected
            client.get_model("vit")
            for service in (server.service, other.service):
                service.calls.clear()
            for number in range(4):
                made = client.explain(large(number), model="vit")
                assert made.geometry.image_width == 110 + number
            every = kinds(server.service) + kinds(other.service)
            # The first was looked for, uploaded to one and missed by the other, twice; it and
            # the others came along.
            assert every.count("find") == 2
            assert 1 <= every.count("upload") <= 2
            explained = server.service.requests(EXPLAIN) + other.service.requests(EXPLAIN)
            assert [sources(call) for call in explained].count(["inline"]) == 4
            assert every.count("call") == 6
            now[0] += SCATTERED_REST_S + 1
            client.explain(large(9), model="vit")
            every = kinds(server.service) + kinds(other.service)
            assert every.count("find") > 2
    finally:
        other.stop()


def test_replicas_with_a_common_store_share_uploads(server: Running):
    other = Running()
    other.service.images = server.service.images
    try:
        with Client(f"ipv4:{server.target},{other.target}", timeout=10) as client:
            client.wait_ready()
            while not other.service.calls or not server.service.calls:
                client.list_models()
            for _ in range(6):
                client.explain(large(), model="vit")
        calls = [*server.service.calls, *other.service.calls]
        assert len([call for call in calls if isinstance(call, UPLOAD)]) == 1
        digests = [call.image.WhichOneof("source") for call in calls if isinstance(call, EXPLAIN)]
        assert digests == ["digest"] * 6
    finally:
        other.stop()


def test_an_old_server_gets_files_along():
    old = Running(old=True)
    try:
        with Client(old.target, timeout=10) as client:
            for _ in range(3):
                client.explain(large(), model="vit")
        assert kinds(old.service) == ["call"] * 3
        assert len(old.service.requests(DETAILS)) == 1
    finally:
        old.stop()


@pytest.mark.parametrize("limits_say_so", [True, False])
def test_a_server_that_keeps_no_images_gets_files_along(
    client: Client, service: Scripted, limits_say_so: bool
):
    service.images.kept = False
    service.limits.keeps_images = not limits_say_so
    for _ in range(3):
        client.explain(large(), model="vit")
    asked = [] if limits_say_so else ["find"]
    assert kinds(service) == [*asked, "call", "call", "call"]
    assert [sources(call) for call in service.requests(EXPLAIN)] == [["inline"]] * 3


def test_a_server_that_stops_keeping_images(client: Client, service: Scripted):
    client.explain(large(), model="vit")
    service.images.evict()
    service.images.kept = False
    client.explain(large(), model="vit")
    assert kinds(service)[3:] == ["call", "find", "call"]
    assert sources(service.calls[-1]) == ["inline"]


def test_a_server_that_takes_uploads_after_all(client: Client, service: Scripted):
    now = [time.monotonic()]
    uploads = client._calls._uploads
    uploads._clock = uploads._remote._clock = lambda: now[0]
    service.limits.keeps_images = False
    client.explain(large(), model="vit")
    service.limits.keeps_images = True
    now[0] += 599
    client.explain(large(), model="vit")
    assert kinds(service) == ["call", "call"]
    now[0] += 2
    client.explain(large(), model="vit")
    assert kinds(service)[2:] == ["find", "upload", "call"]


def test_a_picture_that_is_not_kept_is_offered_once(client: Client, service: Scripted):
    sha256 = service.images.put(large(1))
    service.images.evict()
    service.images.refused.add(sha256)
    for _ in range(3):
        client.pair_similarity(large(), [large(1), b"broken"], model="cnn")
    assert kinds(service) == ["find", "upload", "call", "find", "upload", "call", "call"]
    assert [sources(call) for call in service.requests(PAIR)] == [
        ["digest", "inline", "inline"],
        ["digest", "inline", "digest"],
        ["digest", "inline", "digest"],
    ]
