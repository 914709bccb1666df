"""A call that names its files by hash is short, and holds little of them at a time."""

import asyncio
import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest

from pairlens_server.cache.policy import CachePolicy
from pairlens_server.errors import ImageMissingError, InvalidParameterError
from pairlens_server.recording.primitives import Embedding
from pairlens_server.service import call_pictures
from pairlens_server.service.call_cache import CallCache
from pairlens_server.service.call_pictures import CallPictures, Needs
from pairlens_server.service.score_commands import EmbedCommand
from pairlens_server.service.stopwatch import Stopwatch
from tests.service.conftest import CLS, png
from tests.service.test_digests import COMMANDS, DRAWN, FIRST, QUERY, SECOND, by_digest, upload
from tests.service.watching import assert_same, digest

FILES = [png(seed) for seed in range(6)]


@pytest.fixture
def narrow(monkeypatch):
    """As if the files were large: the first of a call fits, and hardly another."""
    monkeypatch.setattr(call_pictures, "WINDOW_BYTES", len(QUERY) + 1)


@pytest.mark.parametrize(
    ("name", "command"), COMMANDS, ids=lambda v: v if isinstance(v, str) else v.model
)
async def test_answers_are_the_same_however_little_is_held(alone, narrow, name, command):
    call = getattr(alone.use_cases, name)
    inline = await call(dataclasses.replace(command, cache=CachePolicy.BYPASS))
    await upload(alone, QUERY, FIRST, SECOND)
    told = by_digest(command)
    assert_same(await call(dataclasses.replace(told, cache=CachePolicy.BYPASS)), inline)
    assert_same(await call(told), inline)
    assert_same(await call(told), inline)


async def test_all_that_is_missing_is_told_although_little_is_held(alone, narrow):
    await upload(alone, FILES[0], FILES[3])
    with pytest.raises(ImageMissingError) as caught:
        await alone.use_cases.embed(EmbedCommand(CLS, tuple(map(digest, FILES))))
    assert [m.field for m in caught.value.missing] == [f"images[{n}]" for n in (1, 2, 4, 5)]


async def test_a_wrong_length_is_told_of_a_file_that_is_fetched_late(alone, narrow):
    await upload(alone, *FILES)
    images = [*map(digest, FILES)]
    images[4] = dataclasses.replace(images[4], size_bytes=len(FILES[4]) + 1)
    with pytest.raises(InvalidParameterError) as caught:
        await alone.use_cases.embed(EmbedCommand(CLS, tuple(images)))
    assert caught.value.field == "images[4].digest.size_bytes"


async def pictures_of(alone, sources, options=None):
    cache = CallCache(alone.cache, CachePolicy.BYPASS, Stopwatch())
    pictures = CallPictures(cache, ThreadPoolExecutor(1), alone.limits.images, Stopwatch())
    named = [(source, f"images[{n}]") for n, source in enumerate(sources)]
    return pictures, await pictures.take(named, options)


@pytest.mark.parametrize("options", [None, DRAWN])
async def test_a_file_is_let_go_once_it_was_decoded(alone, options):
    await upload(alone, *FILES)
    model = alone.models[CLS]
    pictures, taken = await pictures_of(alone, [*map(digest, FILES[:5]), FILES[5]], options)
    wanted = [(picture, Needs((Embedding(),))) for picture in taken]
    await pictures.prepare(wanted, model)
    assert [picture.data for picture in taken] == FILES
    first = [await pictures.pixels(picture, model) for picture in taken]
    # What came with the call is not to be had elsewhere.
    assert [picture.data for picture in taken] == [None] * 5 + FILES[5:]
    alone.files.clear()
    await pictures.prepare(wanted[:5], model)
    for picture, pixels in zip(taken, first, strict=True):
        assert await pictures.pixels(picture, model) is pixels
        assert (await pictures.drawable(picture, model) is None) == (options is None)


async def test_few_files_are_held_at_a_time(alone, narrow, monkeypatch):
    await upload(alone, *FILES)
    model = alone.models[CLS]
    pictures, taken = await pictures_of(alone, map(digest, FILES))
    await pictures.prepare([(picture, Needs((Embedding(),))) for picture in taken], model)
    assert [picture.data is not None for picture in taken] == [True] + [False] * 5
    held = []
    real = call_pictures.read

    def read(*arguments):
        held.append(sum(picture.data is not None for picture in taken))
        return real(*arguments)

    monkeypatch.setattr(call_pictures, "read", read)
    await asyncio.gather(*(pictures.measure(picture) for picture in taken))
    assert sum(picture.data is not None for picture in taken) <= 2
    await asyncio.gather(*(pictures.pixels(picture, model) for picture in reversed(taken)))
    assert len(held) == 6
    assert max(held) <= 3  # the first, and those of two jobs
    assert all(picture.data is None for picture in taken)


async def test_a_digest_that_understates_its_length_holds_nothing_in_the_end(alone):
    await upload(alone, *FILES)
    lies = [dataclasses.replace(digest(file), size_bytes=1) for file in FILES]
    pictures, taken = await pictures_of(alone, lies)
    with pytest.raises(InvalidParameterError):
        await pictures.prepare([(p, Needs((Embedding(),))) for p in taken], alone.models[CLS])
    assert all(picture.data is None for picture in taken)
