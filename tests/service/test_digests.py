"""Pictures by their hash: the same answers, no needless look at the file, errors that say all."""

import dataclasses

import numpy as np
import pytest

from pairlens.rendering import Box
from pairlens_server.cache.policy import CachePolicy
from pairlens_server.errors import (
    ImageTooLargeError,
    ImageUndecodableError,
    InvalidParameterError,
    PairlensError,
)
from pairlens_server.fidelity.copies import Side
from pairlens_server.fidelity.erasures import Deletion
from pairlens_server.fidelity.localisation import RegionOfInterest
from pairlens_server.fidelity.pointing import PointingGame
from pairlens_server.images.admission import ImageLimits
from pairlens_server.images.render import RenderOptions
from pairlens_server.images.sources import ImageDigest
from pairlens_server.methods.affinity import Affinity
from pairlens_server.methods.cam import GradCam
from pairlens_server.methods.correspondence import Correspondence
from pairlens_server.methods.perturbation import Occlusion
from pairlens_server.methods.rollout import Rollout
from pairlens_server.methods.similarity import PooledDecomposition
from pairlens_server.service.commands import (
    ExplainCommand,
    PairCommand,
    SimilarityTarget,
    WarmCommand,
)
from pairlens_server.service.score_commands import EmbedCommand, GivenHeatmap, ScoreCommand
from tests.service.conftest import CLS, CNN, MEAN, png
from tests.service.watching import assert_same, digest, explain, watch

DRAWN = RenderOptions(upsampled=True, overlay=True)
QUERY, FIRST, SECOND = png(0), png(1), png(2)
BYPASS = CachePolicy.BYPASS


async def upload(alone, *files):
    assert await alone.use_cases.upload([(file, None) for file in files]) == [*map(digest, files)]


SCORES = {
    "class": ScoreCommand(MEAN, QUERY, (Deletion(),), method=GradCam()),
    "pair": ScoreCommand(
        MEAN,
        QUERY,
        (Deletion(), PointingGame()),
        pair_method=PooledDecomposition(),
        target=SimilarityTarget((FIRST,)),
        sides=(Side.IMAGE, Side.PARTNER, Side.BOTH),
        region=RegionOfInterest((Box(left=2, top=2, right=20, bottom=30),), None),
    ),
}


def by_digest(command):
    """A command with a digest in the place of each file."""

    def told(value):
        if isinstance(value, bytes):
            return digest(value)
        if isinstance(value, tuple):
            return tuple(map(told, value))
        if isinstance(value, SimilarityTarget):
            return dataclasses.replace(value, images=told(value.images))
        return value

    names = ("image", "images", "query", "candidates", "target")
    changes = {n: told(getattr(command, n)) for n in names if hasattr(command, n)}
    return dataclasses.replace(command, **changes)


PAIR = PairCommand(MEAN, QUERY, (FIRST, QUERY, FIRST), rendering=DRAWN)
COMMANDS = [
    ("explain", ExplainCommand(CNN, QUERY, GradCam(), rendering=DRAWN)),
    (
        "explain",
        ExplainCommand(MEAN, QUERY, None, SimilarityTarget((FIRST, SECOND)), rendering=DRAWN),
    ),
    ("pair", PAIR),
    ("pair", dataclasses.replace(PAIR, model=CLS, method=Occlusion())),
    ("embed", EmbedCommand(CLS, (QUERY, FIRST, QUERY))),
    ("score", SCORES["class"]),
    ("score", SCORES["pair"]),
]


@pytest.mark.parametrize(
    ("name", "command"), COMMANDS, ids=lambda v: v if isinstance(v, str) else v.model
)
async def test_a_digest_is_as_good_as_the_file(alone, name, command):
    call = getattr(alone.use_cases, name)
    inline = await call(dataclasses.replace(command, cache=BYPASS))
    await upload(alone, QUERY, FIRST, SECOND)
    assert_same(await call(dataclasses.replace(by_digest(command), cache=BYPASS)), inline)
    assert_same(await call(by_digest(command)), inline)
    assert_same(await call(by_digest(command)), inline)
    assert_same(await call(command), inline)


async def test_warm_takes_digests(alone):
    await upload(alone, QUERY, FIRST)
    command = WarmCommand(MEAN, (digest(QUERY), FIRST))
    assert (await alone.use_cases.warm(command)).results == (False, False)
    command = WarmCommand(MEAN, (QUERY, digest(FIRST)))
    assert (await alone.use_cases.warm(command)).results == (True, True)


class NoPool:
    """A pool that decodes nothing."""

    def submit(self, *_):
        raise AssertionError("a picture was looked at")


WARM = [
    ("explain", ExplainCommand(MEAN, QUERY, Rollout())),
    ("explain", ExplainCommand(CNN, QUERY, GradCam())),
    ("explain", ExplainCommand(CLS, QUERY, Occlusion())),
    ("explain", ExplainCommand(CLS, QUERY, None, SimilarityTarget((FIRST, SECOND)))),
    ("explain", ExplainCommand(CLS, QUERY, None, rendering=RenderOptions())),
    ("pair", PairCommand(MEAN, QUERY, (FIRST, SECOND, FIRST))),
    ("pair", PairCommand(CLS, QUERY, (FIRST, SECOND))),
    ("pair", PairCommand(CLS, QUERY, (FIRST,), Affinity(), rendering=RenderOptions())),
    (
        "pair",
        PairCommand(
            CNN, QUERY, (FIRST,), Correspondence(query_region=Box(left=0, top=0, right=9, bottom=9))
        ),
    ),
    ("embed", EmbedCommand(CLS, (QUERY, FIRST))),
    ("warm", WarmCommand(CLS, (QUERY, FIRST), (Occlusion(), Rollout()), (Occlusion(),))),
    (
        "score",
        ScoreCommand(
            CNN,
            QUERY,
            (PointingGame(),),
            method=GradCam(),
            region=RegionOfInterest((Box(left=0, top=0, right=9, bottom=9),), None),
        ),
    ),
]


@pytest.mark.parametrize(
    ("name", "command"), WARM, ids=lambda v: v if isinstance(v, str) else v.model
)
async def test_a_warm_call_needs_no_file(alone, name, command):
    blind = alone.over(alone.cache, NoPool())
    cold = await getattr(alone.use_cases, name)(command)
    with watch(*alone.models.values()) as seen:
        warm = await getattr(blind, name)(by_digest(command))
    assert seen.pictures == 0
    if name == "warm":
        assert warm.results == (True, True)
    else:
        assert_same(warm, cold)
    assert warm.timings.decode_s == warm.timings.compute_s == warm.timings.queue_s == 0
    assert warm.timings.cached_images == warm.timings.images == cold.timings.images


async def test_a_digest_must_have_the_length_of_its_file(alone):
    await upload(alone, QUERY)
    wrong = dataclasses.replace(digest(QUERY), size_bytes=len(QUERY) + 1)
    for picture in (wrong, wrong):
        # The second time, the size of the picture is known, and nothing else is asked.
        with pytest.raises(InvalidParameterError) as caught:
            await explain(alone, CLS, Rollout(), picture=picture)
        assert caught.value.field == "image.digest.size_bytes"
        await explain(alone, CLS, Rollout(), picture=QUERY)
    command = PairCommand(MEAN, QUERY, (FIRST, wrong))
    with pytest.raises(InvalidParameterError) as caught:
        await alone.use_cases.pair(command)
    assert caught.value.field == "candidates[1].digest.size_bytes"


async def test_limits_hold_for_pictures_whose_size_is_known(alone):
    big = png(9, (80, 90))
    await alone.use_cases.pair(PairCommand(MEAN, big, (QUERY,)))
    strict = alone.over(alone.cache, images=ImageLimits(max_pixels=7000))
    for picture in (big, digest(big)):
        with pytest.raises(ImageTooLargeError) as caught:
            await strict.pair(PairCommand(MEAN, picture, (QUERY,)))
        assert caught.value.field == "query"
        found = await strict.pair(PairCommand(MEAN, QUERY, (FIRST, picture)))
        assert isinstance(found.results[1], ImageTooLargeError)
        assert found.results[1].field == "candidates[1]"
        assert not isinstance(found.results[0], PairlensError)
    short = alone.over(alone.cache, images=ImageLimits(max_bytes=len(big) - 1))
    with pytest.raises(ImageTooLargeError, match=f"has {len(big)} bytes"):
        await short.pair(PairCommand(MEAN, digest(big), (QUERY,)))


async def test_a_picture_is_decoded_once_in_a_call_and_not_at_all_when_warm(alone):
    calls = []

    class Counting:
        def submit(self, function, *arguments):
            calls.append(function.__name__)
            return alone.pool.submit(function, *arguments)

    counted = alone.over(alone.cache, Counting())
    region = RegionOfInterest((Box(left=0, top=0, right=9, bottom=9),), None)
    heatmap = GivenHeatmap(np.ones((4, 6), np.float32))
    command = ScoreCommand(CLS, QUERY, (Deletion(), PointingGame()), heatmap, region=region)
    await counted.score(command)
    assert calls.count("read") == 1
    await counted.pair(PairCommand(CLS, FIRST, (SECOND, SECOND), Occlusion()))
    # The query and, neither knowing of the other, both of the equal candidates.
    assert calls.count("read") == 1 + 3
    calls.clear()
    await counted.pair(PairCommand(CLS, FIRST, (SECOND, SECOND), Occlusion()))
    assert calls == []
    drawn = PairCommand(CLS, FIRST, (SECOND,), Occlusion(), rendering=DRAWN)
    await counted.pair(drawn)
    assert sorted(calls) == ["draw", "draw", "read", "read"]


@pytest.mark.parametrize("policy", CachePolicy)
async def test_a_broken_file_by_digest_fails_alone_where_the_inline_one_does(alone, policy):
    broken = QUERY[:200]
    await upload(alone, broken, FIRST)
    for source in (broken, digest(broken)):
        command = PairCommand(MEAN, FIRST, (source, SECOND, source), cache=policy)
        results = (await alone.use_cases.pair(command)).results
        for index in (0, 2):
            assert isinstance(results[index], ImageUndecodableError)
            assert results[index].field == f"candidates[{index}]"
        assert not isinstance(results[1], PairlensError)


async def test_an_unknown_digest_is_of_no_length_over_the_limit(alone):
    huge = ImageDigest("0" * 64, ImageLimits().max_bytes + 1)
    with pytest.raises(ImageTooLargeError) as caught:
        await explain(alone, CLS, picture=huge)
    assert caught.value.field == "image"
