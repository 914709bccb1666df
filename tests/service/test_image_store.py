"""Uploaded pictures: found by their hash, bounded by bytes, refused one by one."""

import dataclasses

import pytest

from pairlens_server.cache.memory import ENTRY_BYTES, MemoryTier
from pairlens_server.cache.tiers import Cache
from pairlens_server.errors import (
    ImageMissingError,
    ImagesNotKeptError,
    ImageTooLargeError,
    ImageUndecodableError,
    InvalidParameterError,
)
from pairlens_server.images.admission import ImageLimits
from pairlens_server.images.sources import ImageDigest
from pairlens_server.methods.rollout import Rollout
from tests.service.conftest import CLS, png
from tests.service.watching import digest, explain

A, B, C = png(0), png(1), png(2)
UNKNOWN = ImageDigest("f" * 64, 10)


async def test_missing_ones_come_in_order_and_once(bench):
    use_cases = bench.use_cases
    a, b, c = map(digest, (A, B, C))
    assert await use_cases.find_missing([c, a, c, b, a]) == [c, a, b]
    assert await use_cases.upload([(B, None)]) == [b]
    assert await use_cases.find_missing([c, a, b, c, b, a]) == [c, a]
    assert await use_cases.upload([(A, a), (C, c)]) == [a, c]
    assert await use_cases.find_missing([a, b, c]) == []
    assert await use_cases.find_missing([UNKNOWN]) == [UNKNOWN]


async def test_the_number_of_digests_and_files_is_bounded(bench):
    for count in (0, 1001):
        with pytest.raises(InvalidParameterError) as caught:
            await bench.use_cases.find_missing([UNKNOWN] * count)
        assert caught.value.field == "digests"
    assert await bench.use_cases.find_missing([UNKNOWN] * 1000) == [UNKNOWN]
    most = bench.limits.max_candidates + 1
    for count in (0, most + 1):
        with pytest.raises(InvalidParameterError) as caught:
            await bench.use_cases.upload([(A, None)] * count)
        assert caught.value.field == "images"
    assert await bench.use_cases.upload([(A, None)] * most) == [digest(A)] * most
    assert len(bench.files) == 1


async def test_a_file_that_is_refused_fails_alone(bench):
    wrong_hash = dataclasses.replace(digest(B), sha256=digest(A).sha256)
    wrong_length = dataclasses.replace(digest(B), size_bytes=len(B) + 1)
    tall = png(3, (900, 8))
    strict = bench.over(bench.cache, images=ImageLimits(max_bytes=len(tall) - 1, max_pixels=3000))
    found = await strict.upload(
        [
            (A, None),
            (b"", None),
            (b"not a picture", None),
            (B, wrong_hash),
            (B, wrong_length),
            (png(3, (80, 80)), None),
            (tall, None),
            (C, digest(C)),
        ]
    )
    assert (found[0], found[7]) == (digest(A), digest(C))
    expected = [
        (ImageUndecodableError, "images[1].data"),
        (ImageUndecodableError, "images[2].data"),
        (InvalidParameterError, "images[3].digest"),
        (InvalidParameterError, "images[4].digest"),
        (ImageTooLargeError, "images[5].data"),
        (ImageTooLargeError, "images[6].data"),
    ]
    assert [(type(error), error.field) for error in found[1:7]] == expected
    assert digest(B).sha256 in found[3].message
    # Nothing of what was refused is kept.
    assert len(bench.files) == 2
    assert await bench.use_cases.find_missing([digest(B)]) == [digest(B)]


async def test_a_file_over_the_store_is_refused_and_the_oldest_make_room(bench):
    room = 2 * (max(map(len, (A, B, C))) + ENTRY_BYTES) + 100
    cache = Cache(bench.memory, MemoryTier(room))
    use_cases = bench.over(cache)
    large = png(4, (300, 300))
    assert len(large) > room
    (refused,) = await use_cases.upload([(large, None)])
    assert isinstance(refused, ImageTooLargeError)
    assert refused.field == "images[0].data"
    assert str(room - ENTRY_BYTES) in refused.message
    a, b, c = map(digest, (A, B, C))
    await use_cases.upload([(A, None), (B, None)])
    # Asking for a picture keeps it on.
    assert await use_cases.find_missing([a]) == []
    await use_cases.upload([(C, None)])
    assert await use_cases.find_missing([a, b, c]) == [b]
    await use_cases.upload([(B, None)])
    assert await use_cases.find_missing([a, b, c]) == [a]


async def test_a_picture_that_is_used_is_kept_on(bench):
    room = 2 * (max(map(len, (A, B, C))) + ENTRY_BYTES) + 100
    bench.use_cases = bench.over(Cache(bench.memory, MemoryTier(room)))
    await bench.use_cases.upload([(A, None), (B, None)])
    await explain(bench, CLS, Rollout(), picture=digest(A))
    await bench.use_cases.upload([(C, None)])
    await explain(bench, CLS, Rollout(1), picture=digest(A))
    with pytest.raises(ImageMissingError):
        await explain(bench, CLS, Rollout(1), picture=digest(B))


async def test_pictures_sent_inline_are_not_kept(bench):
    await explain(bench, CLS, Rollout(), picture=A)
    assert len(bench.files) == 0
    assert await bench.use_cases.find_missing([digest(A)]) == [digest(A)]


async def test_a_server_that_keeps_no_images_says_so(bench):
    use_cases = bench.over(Cache(bench.memory, MemoryTier(0)))
    with pytest.raises(ImagesNotKeptError):
        await use_cases.find_missing([digest(A)])
    with pytest.raises(ImagesNotKeptError):
        await use_cases.upload([(A, None)])
    bench.use_cases = use_cases
    with pytest.raises(ImageMissingError):
        await explain(bench, CLS, Rollout(), picture=digest(A))
    # Results that it still has need no picture.
    inline = await explain(bench, CLS, Rollout(), picture=A)
    assert (await explain(bench, CLS, Rollout(), picture=digest(A))).timings.cached_images == 1
    assert inline.timings.cached_images == 0
