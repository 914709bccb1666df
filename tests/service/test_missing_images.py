"""A picture that is not there is missed when it must be looked at, with all others of its call."""

import dataclasses

import pytest

from pairlens_server.cache.policy import CachePolicy
from pairlens_server.errors import ImageMissingError
from pairlens_server.fidelity.copies import Side
from pairlens_server.fidelity.erasures import Deletion
from pairlens_server.methods.affinity import Affinity
from pairlens_server.methods.cam import GradCam
from pairlens_server.methods.perturbation import Occlusion
from pairlens_server.methods.rollout import Rollout
from pairlens_server.methods.similarity import PooledDecomposition
from pairlens_server.service.commands import (
    ExplainCommand,
    PairCommand,
    SimilarityTarget,
    WarmCommand,
)
from pairlens_server.service.score_commands import EmbedCommand, ScoreCommand
from tests.service.conftest import CLS, CNN, MEAN, png
from tests.service.test_digests import DRAWN, FIRST, QUERY, SECOND, upload
from tests.service.watching import assert_same, digest, explain, watch


async def refused(alone, command):
    """The pictures that a call lists as missing, before any model has run."""
    call = {
        ExplainCommand: alone.use_cases.explain,
        PairCommand: alone.use_cases.pair,
        ScoreCommand: alone.use_cases.score,
        EmbedCommand: alone.use_cases.embed,
        WarmCommand: alone.use_cases.warm,
    }[type(command)]
    with watch(*alone.models.values()) as seen, pytest.raises(ImageMissingError) as caught:
        await call(command)
    assert seen.pictures == 0
    assert caught.value.field == caught.value.missing[0].field
    return {(m.field, m.sha256, m.size_bytes) for m in caught.value.missing}


def listed(files):
    return {(field, digest(file).sha256, len(file)) for field, file in files.items()}


async def test_a_file_that_was_dropped_is_missed_only_when_it_is_looked_at(alone):
    await upload(alone, QUERY)
    cold = await explain(alone, CLS, Rollout(), picture=digest(QUERY))
    alone.files.clear()
    assert_same(await explain(alone, CLS, Rollout(), picture=digest(QUERY)), cold)
    by_hash = ExplainCommand(CLS, digest(QUERY), Rollout(1))
    assert await refused(alone, by_hash) == listed({"image": QUERY})
    drawn = ExplainCommand(CLS, digest(QUERY), Rollout(), rendering=DRAWN)
    assert await refused(alone, drawn) == listed({"image": QUERY})
    for policy in (CachePolicy.BYPASS, CachePolicy.REFRESH):
        looked_at = ExplainCommand(CLS, digest(QUERY), Rollout(), cache=policy)
        assert await refused(alone, looked_at) == listed({"image": QUERY})


TARGET = "target.similarity.images"


@pytest.mark.parametrize("model", [MEAN, CLS, CNN])
async def test_all_that_is_missing_is_listed_at_once(alone, model):
    files = {"query": QUERY, "candidates[1]": FIRST, "candidates[3]": SECOND}
    some = (png(5), digest(FIRST), png(6), digest(SECOND))
    for method in (None, Affinity(), Occlusion(), GradCam()):
        pair = PairCommand(model, digest(QUERY), some, method)
        assert await refused(alone, pair) == listed(files)
    explained = ExplainCommand(model, digest(QUERY), None, SimilarityTarget(some))
    wanted = {"image": QUERY, f"{TARGET}[1]": FIRST, f"{TARGET}[3]": SECOND}
    assert await refused(alone, explained) == listed(wanted)
    embedded = EmbedCommand(model, some)
    in_list = listed({"images[1]": FIRST, "images[3]": SECOND})
    assert await refused(alone, embedded) == in_list
    assert await refused(alone, WarmCommand(model, some)) == in_list
    assert await refused(alone, WarmCommand(model, some, (Occlusion(),))) == in_list


async def test_what_is_missing_is_listed_before_other_pictures_are_looked_at(alone):
    """Embeddings are known of all pictures, or of some; what depends on them is not."""
    embedded = EmbedCommand(CLS, (QUERY, FIRST, SECOND))
    await alone.use_cases.embed(embedded)
    pair = PairCommand(CLS, digest(QUERY), (digest(FIRST), digest(SECOND), png(3)), Occlusion())
    every = {"query": QUERY, "candidates[0]": FIRST, "candidates[1]": SECOND}
    assert await refused(alone, pair) == listed(every)
    explained = ExplainCommand(CLS, digest(QUERY), None, SimilarityTarget((png(3), digest(FIRST))))
    assert await refused(alone, explained) == listed({"image": QUERY})
    warmed = PairCommand(CLS, QUERY, (FIRST,), Occlusion())
    await alone.use_cases.pair(warmed)
    again = dataclasses.replace(pair, candidates=(digest(FIRST), digest(SECOND)))
    some = {"query": QUERY, "candidates[1]": SECOND}
    assert await refused(alone, again) == listed(some)
    both = ScoreCommand(
        CLS,
        digest(QUERY),
        (Deletion(),),
        pair_method=Occlusion(),
        target=SimilarityTarget((digest(FIRST),)),
        sides=(Side.BOTH,),
    )
    changed = {"image": QUERY, f"{TARGET}[0]": FIRST}
    assert await refused(alone, both) == listed(changed)
    partner = dataclasses.replace(both, sides=(Side.PARTNER,))
    assert await refused(alone, partner) == listed({f"{TARGET}[0]": FIRST})


async def test_warm_lists_what_is_missing_of_every_method(alone):
    """The predicted class is known of both pictures, and what one method needs of it."""
    await alone.use_cases.warm(WarmCommand(CNN, (QUERY, FIRST), (GradCam(),)))
    await alone.use_cases.warm(WarmCommand(CNN, (FIRST,), (Occlusion(),)))
    sources = (digest(FIRST), digest(QUERY), png(4))
    command = WarmCommand(CNN, sources, (GradCam(), Occlusion()))
    assert await refused(alone, command) == listed({"images[1]": QUERY})


async def test_what_needs_no_partner_needs_no_file_of_a_warm_picture(alone):
    """A gallery picture that is known by its hash alone meets pictures never seen before."""
    for model, method in ((MEAN, PooledDecomposition()), (CLS, Affinity())):
        await alone.use_cases.warm(WarmCommand(model, (QUERY, FIRST), (), (method,)))
        await explain(alone, model, method, SimilarityTarget((SECOND,)))
        target = SimilarityTarget((png(8),))
        by_hash = await explain(alone, model, method, target, picture=digest(QUERY))
        assert_same(by_hash, await explain(alone, model, method, target, picture=QUERY))
