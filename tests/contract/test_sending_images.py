"""The SDK sends a picture once, whatever the server keeps."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import grpc
import numpy as np
import pytest

from pairlens import Client, ImageMissingError, SimilarTo, StoredImage
from tests.conftest import MAX_REQUEST_BYTES
from tests.contract.support import array, image, noise_png, refused, unseen
from tests.contract.uploads import Calls, Embed, by_digest, digest_of
from tests.redis_server import RedisProxy
from tests.server_process import ServerProcess, server_process, write_models

VIT, CLS, CNN = "tiny-vit", "tiny-vit-cls", "tiny-resnet"

SMALL_STORE_BYTES = 300_000


@dataclass
class Watched:
    """A client whose bytes are counted.

    Attributes:
        client: Of the SDK.
        wire: What it speaks through.
    """

    client: Client
    wire: RedisProxy

    @contextmanager
    def sending(self, at_least: int, at_most: int) -> Iterator[None]:
        """Check how many bytes leave the client in the block."""
        before = self.wire.sent
        yield
        assert at_least <= self.wire.sent - before <= at_most


@contextmanager
def watched(target: str) -> Iterator[Watched]:
    with ExitStack() as stack:
        wire = stack.enter_context(RedisProxy(int(target.rpartition(":")[2])))
        client = stack.enter_context(Client(f"127.0.0.1:{wire.port}"))
        client.list_models()
        client.get_model(VIT)
        yield Watched(client, wire)


TALK = 6000
"""Bytes of requests beside their pictures, and of the protocol: some hundred each."""


def large(seed: int, side: int = 220) -> bytes:
    """A picture that is uploaded when it is first sent."""
    data = noise_png(seed, side, side)
    assert len(data) > 64 * 1024
    return data


def test_a_large_picture_travels_once(server_target):
    data = large(1)
    with watched(server_target) as seen:
        with seen.sending(len(data), len(data) + TALK):
            first = seen.client.explain(data, model=CLS, method="rollout")
        with seen.sending(1, TALK):
            again = seen.client.explain(data, model=CLS, method="rollout")
            other = seen.client.explain(data, model=CNN, method="grad_cam")
            pair = seen.client.pair_similarity(data, [data], model=VIT)
    assert (first.timing.cached_images, again.timing.cached_images) == (0, 1)
    np.testing.assert_array_equal(first.heatmap, again.heatmap)
    assert other.timing.cached_images == 0
    assert pair.matches[0].similarity == pytest.approx(1, abs=1e-5)
    # Somebody else finds it there.
    with watched(server_target) as seen, seen.sending(1, TALK):
        assert seen.client.explain(data, model=CLS).timing.images == 1


def test_a_small_picture_travels_as_a_digest_from_the_third_time(server_target):
    data = noise_png(2, 90, 90)
    assert 20_000 < len(data) < 32 * 1024
    with watched(server_target) as seen:
        for _ in range(2):
            with seen.sending(len(data), len(data) + TALK):
                seen.client.explain(data, model=CLS)
        with seen.sending(1, TALK):
            for _ in range(3):
                seen.client.explain(data, model=CLS)


def test_pictures_of_one_call_are_asked_about_at_once(server_target):
    files = [large(seed) for seed in range(10, 20)]
    total = sum(map(len, files))
    with watched(server_target) as seen:
        seen.client.explain(files[0], model=CLS)
        seen.client.explain(files[1], model=CLS)
        rest = total - len(files[0]) - len(files[1])
        with seen.sending(rest, rest + TALK):
            embedded = seen.client.embed(files, model=VIT)
        assert len(embedded) == len(files)
        with seen.sending(1, TALK):
            seen.client.pair_similarity(files[0], files[1:], model=VIT)
            seen.client.explain(files[3], model=CNN, target=SimilarTo(files[4:6]))


def test_a_call_larger_than_a_request_goes_by_digest(server_target):
    """All files together are over the server's limit of a request, each alone is not."""
    files = [large(seed, 700) for seed in range(30, 38)]
    assert sum(map(len, files)) > MAX_REQUEST_BYTES
    with Client(server_target) as client:
        results = client.pair_similarity(files[0], files[1:], model=VIT)
        assert len(results.matches) == 7


def test_a_gallery_known_by_hash(server_target):
    data = large(40)
    stored = StoredImage(hashlib.sha256(data).hexdigest(), len(data), "forty")
    query = large(41)
    with Client(server_target) as client:
        with pytest.raises(ImageMissingError) as caught:
            client.pair_similarity(query, [stored], model=VIT)
        (missing,) = caught.value.missing
        assert (missing.sha256, missing.size_bytes) == (stored.sha256, stored.size_bytes)
        by_file = client.pair_similarity(query, [data], model=VIT).matches[0]
        by_hash = client.pair_similarity(query, [stored], model=VIT).matches[0]
        assert by_hash.similarity == by_file.similarity
        np.testing.assert_array_equal(by_hash.candidate.heatmap, by_file.candidate.heatmap)


# Servers that keep little, or nothing


@dataclass(frozen=True)
class Odd:
    """Servers with one model.

    Attributes:
        small: Keeps a few pictures.
        none: Keeps none.
    """

    small: ServerProcess
    none: ServerProcess


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Odd]:
    folder = tmp_path_factory.mktemp("odd")
    models = write_models(folder, [VIT])
    with ExitStack() as stack:
        servers = [
            stack.enter_context(
                server_process(models, folder / f"{size}.txt", "--image-cache-bytes", str(size))
            )
            for size in (SMALL_STORE_BYTES, 0)
        ]
        for server in servers:
            server.listening()
        for server in servers:
            server.serving()
        yield Odd(*servers)
        for server in servers:
            assert "internal error" not in server.read_log(), server.read_log()


def test_a_server_that_keeps_no_images(odd):
    with grpc.insecure_channel(odd.none.target) as channel:
        calls = Calls(channel)
        for call in (lambda: calls.missing(digest_of(b"x")), lambda: calls.upload(unseen())):
            found = refused(call)
            assert (found.code, found.reason) == ("FAILED_PRECONDITION", "IMAGES_NOT_KEPT")
        asked = Embed(model=VIT, images=[by_digest(unseen())])
        assert refused(calls.Embed, asked).reason == "IMAGE_MISSING"


def test_the_sdk_sends_files_to_a_server_that_keeps_none(odd):
    data = large(50)
    with watched(odd.none.target) as seen:
        assert not seen.client.get_model(VIT).limits.keeps_images
        for _ in range(3):
            with seen.sending(len(data), len(data) + TALK):
                seen.client.explain(data, model=VIT)


def test_a_store_drops_what_was_not_used_for_longest(odd):
    files = [large(seed) for seed in range(60, 64)]
    assert sum(map(len, files[:2])) < SMALL_STORE_BYTES < sum(map(len, files))
    with grpc.insecure_channel(odd.small.target) as channel:
        calls = Calls(channel)
        digests = [digest_of(file) for file in files]
        for file in files:
            calls.upload(file)
            calls.missing(digests[0])  # a question keeps what it is about
        missing = calls.missing(*digests)
        assert digests[0] not in missing
        assert digests[3] not in missing
        assert digests[1] in missing
        too_large = large(70, 400)
        assert len(too_large) > SMALL_STORE_BYTES
        (found,) = calls.upload(too_large)
        assert (found.reason, found.field) == ("IMAGE_TOO_LARGE", "images[0].data")


def test_the_sdk_recovers_when_a_picture_was_dropped(odd):
    files = [large(seed) for seed in range(80, 84)]
    embeddings = {}
    with watched(odd.small.target) as seen:
        for data in (*files, *files):
            embeddings[data] = seen.client.embed(data, model=VIT, cache="bypass").vectors
        # The first was dropped for the others, which the client does not know.
        with seen.sending(len(files[0]), len(files[0]) + 2 * TALK):
            again = seen.client.embed(files[0], model=VIT, cache="bypass")
        np.testing.assert_array_equal(again.vectors, embeddings[files[0]])


def test_a_call_that_the_store_does_not_hold(odd):
    """Digests cannot work: the last picture drops the first. The files travel with the call."""
    files = [large(seed) for seed in range(90, 98)]
    assert sum(map(len, files)) > 2 * SMALL_STORE_BYTES
    with Client(odd.small.target) as client:
        results = client.pair_similarity(files[0], files[1:], model=VIT, cache="bypass")
        assert len(results.matches) == 7
        alone = client.embed(large(70, 400), model=VIT)
        assert np.isfinite(alone.vectors).all()


def test_the_same_embedding_however_a_picture_came(odd):
    data = large(99)
    found = []
    for server in (odd.small, odd.none):
        with grpc.insecure_channel(server.target) as channel:
            calls = Calls(channel)
            request = Embed(model=VIT, images=[image(data)])
            found.append(array(calls.Embed(request).results[0].embedding))
    np.testing.assert_array_equal(*found)
