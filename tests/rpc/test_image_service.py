"""ImageService: digests and uploads, from the contract's messages and back."""

from __future__ import annotations

import hashlib

import pytest

from pairlens.v1 import common_pb2, image_service_pb2
from pairlens_server.errors import ImageTooLargeError, InvalidParameterError
from pairlens_server.images.sources import ImageDigest
from pairlens_server.rpc.convert_images import MAX_PICTURES, digest_message
from pairlens_server.rpc.image_servicer import ImageServicer

FILE = b"file"
HASH = hashlib.sha256(FILE)
DIGEST = ImageDigest(HASH.hexdigest(), 4)
MESSAGE = common_pb2.Digest(sha256=HASH.digest(), size_bytes=4)


class UseCases:
    """Remembers what it was asked, and answers what a test says."""

    def __init__(self, answer):
        self._answer = answer

    async def find_missing(self, digests):
        self.asked = digests
        return self._answer

    upload = find_missing


async def find(use_cases, *digests):
    request = image_service_pb2.FindMissingImagesRequest(digests=digests)
    return await ImageServicer(use_cases).FindMissingImages(request, None)


async def upload(use_cases, *images):
    request = image_service_pb2.UploadImagesRequest(images=images)
    return await ImageServicer(use_cases).UploadImages(request, None)


def test_a_digest_goes_there_and_back():
    assert digest_message(DIGEST) == MESSAGE


async def test_what_is_missing():
    largest = common_pb2.Digest(sha256=b"\xff" * 32, size_bytes=2**64 - 1)
    use_cases = UseCases([DIGEST])
    answer = await find(use_cases, MESSAGE, largest)
    assert list(use_cases.asked) == [DIGEST, ImageDigest("ff" * 32, 2**64 - 1)]
    assert list(answer.missing) == [MESSAGE]
    assert not (await find(UseCases([]), MESSAGE)).missing


async def test_files_with_and_without_a_digest():
    error = ImageTooLargeError("too large", field="images[1].data")
    use_cases = UseCases([DIGEST, error])
    answer = await upload(use_cases, {"data": FILE, "digest": MESSAGE}, {"data": b"other"}, {})
    assert list(use_cases.asked) == [(FILE, DIGEST), (b"other", None), (b"", None)]
    first, second = answer.results
    assert first.digest == MESSAGE
    assert second.WhichOneof("outcome") == "error"
    assert second.error.message == "too large"


@pytest.mark.parametrize(
    ("call", "items", "path"),
    [
        (find, [MESSAGE, {"sha256": bytes(31), "size_bytes": 1}], "digests[1].sha256"),
        (find, [{"sha256": bytes(33), "size_bytes": 1}], "digests[0].sha256"),
        (find, [{"size_bytes": 1}], "digests[0].sha256"),
        (find, [{"sha256": bytes(32)}], "digests[0].size_bytes"),
        (find, [MESSAGE] * (MAX_PICTURES + 1), "digests"),
        (upload, [{"data": FILE, "digest": {}}], "images[0].digest.sha256"),
        (upload, [{}, {"digest": {"sha256": bytes(32)}}], "images[1].digest.size_bytes"),
        (upload, [{}] * (MAX_PICTURES + 1), "images"),
    ],
)
async def test_refusals_name_the_field(call, items, path):
    use_cases = UseCases([])
    with pytest.raises(InvalidParameterError) as caught:
        await call(use_cases, *items)
    assert caught.value.field == path
    assert not hasattr(use_cases, "asked")
