"""Concurrent calls that want the same do the work once, and nobody's mishap is another's."""

import asyncio
import dataclasses
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import torch

from pairlens_server.cache.policy import CachePolicy
from pairlens_server.cache.stats import CacheKind
from pairlens_server.errors import (
    DeadlineUnreachableError,
    ImageMissingError,
    ImageUndecodableError,
    NotFiniteError,
)
from pairlens_server.images.render import RenderOptions
from pairlens_server.methods.attention import RawAttention
from pairlens_server.methods.cam import GradCam
from pairlens_server.methods.perturbation import Occlusion
from pairlens_server.methods.relevance import AttentionRelevance
from pairlens_server.methods.rollout import Rollout
from pairlens_server.service.commands import (
    ClassTarget,
    ExplainCommand,
    PairCommand,
    SimilarityTarget,
)
from pairlens_server.service.score_commands import EmbedCommand
from tests.service.conftest import CLS, MEAN, Bench, png
from tests.service.watching import assert_same, digest, watch
from tests.support import vit


class Gate(ThreadPoolExecutor):
    """A pool whose jobs wait until the gate is opened; `waiting` says that one has come."""

    def __init__(self):
        super().__init__(2)
        self.waiting, self._open = threading.Event(), threading.Event()

    def submit(self, function, *arguments) -> Future:
        def job():
            self.waiting.set()
            assert self._open.wait(20)
            return function(*arguments)

        return super().submit(job)

    def open(self):
        self._open.set()

    async def has_somebody(self):
        await asyncio.to_thread(self.waiting.wait, 20)


@pytest.fixture
def gate():
    made = Gate()
    yield made
    made.open()
    made.shutdown()


def under_way(use_cases):
    return len(use_cases._explain._recorder._flights)


PICTURE = png(0)
COPIES_OF_OCCLUSION = 1 + 4 * 6
EQUAL = [
    (ExplainCommand(CLS, PICTURE, Rollout()), 1),
    (ExplainCommand(MEAN, PICTURE, GradCam("blocks.1")), 1),
    (ExplainCommand(CLS, PICTURE, Occlusion()), 1 + COPIES_OF_OCCLUSION),
    (ExplainCommand(MEAN, PICTURE, AttentionRelevance(), SimilarityTarget((png(1),))), 2),
]


@pytest.mark.parametrize(("command", "pictures"), EQUAL, ids=lambda v: getattr(v, "model", v))
async def test_equal_calls_run_one_pass(alone, command, pictures):
    with watch(*alone.models.values()) as seen:
        answers = await asyncio.gather(*[alone.use_cases.explain(command) for _ in range(8)])
    assert seen.pictures == pictures
    for answer in answers:
        assert_same(answer, answers[0])
    kept = alone.memory.stats()[CacheKind.ACTIVATION]
    assert kept.stored == kept.entries
    assert under_way(alone.use_cases) == 0
    again = await alone.use_cases.explain(dataclasses.replace(command, cache=CachePolicy.BYPASS))
    assert_same(again, answers[0])


async def test_calls_of_several_kinds_share_what_they_have_in_common(alone):
    """FeatureMap, logits and embedding are each computed by whoever comes first."""
    layer = "blocks.1"
    explains = [
        ExplainCommand(MEAN, PICTURE, GradCam(layer), ClassTarget(0)),
        ExplainCommand(MEAN, PICTURE, GradCam(layer), ClassTarget(1)),
        ExplainCommand(MEAN, PICTURE, GradCam(layer)),
        ExplainCommand(MEAN, PICTURE, GradCam(layer), ClassTarget(0)),
        ExplainCommand(MEAN, PICTURE, AttentionRelevance(), ClassTarget(1)),
        ExplainCommand(MEAN, PICTURE, RawAttention(block=1)),
    ]
    pairs = [PairCommand(MEAN, PICTURE, (PICTURE, png(1)))] * 2
    embed = EmbedCommand(MEAN, (png(1), PICTURE, png(1)))
    use_cases = alone.use_cases
    with watch(*alone.models.values()) as seen:
        found = await asyncio.gather(
            *[use_cases.explain(command) for command in explains],
            *[use_cases.pair(command) for command in pairs],
            use_cases.embed(embed),
        )
    # Five distinct explanations, the parts of two pictures; embeddings came along.
    assert seen.pictures <= 5 + 2
    kept = alone.memory.stats()[CacheKind.ACTIVATION]
    assert kept.stored == kept.entries
    bypass = {"cache": CachePolicy.BYPASS}
    for command, answer in zip(explains, found, strict=False):
        assert_same(await use_cases.explain(dataclasses.replace(command, **bypass)), answer)
    for answer in found[6:8]:
        assert_same(await use_cases.pair(dataclasses.replace(pairs[0], **bypass)), answer)
    assert_same(await use_cases.embed(dataclasses.replace(embed, **bypass)), found[-1])
    assert under_way(use_cases) == 0


@pytest.mark.parametrize("policy", [CachePolicy.BYPASS, CachePolicy.REFRESH])
async def test_other_policies_share_nothing(alone, policy):
    command = ExplainCommand(CLS, PICTURE, Rollout(), cache=policy)
    with watch(*alone.models.values()) as seen:
        answers = await asyncio.gather(*[alone.use_cases.explain(command) for _ in range(3)])
    assert seen.pictures == 3
    assert all(answer.timings.compute_s > 0 for answer in answers)


@pytest.mark.parametrize("method", [Rollout(), Occlusion(), GradCam("blocks.1")])
async def test_a_cancelled_leader_does_not_fail_its_followers(alone, gate, method):
    use_cases = alone.over(alone.cache, gate)
    command = ExplainCommand(CLS, PICTURE, method)
    with watch(*alone.models.values()) as seen:
        calls = [asyncio.create_task(use_cases.explain(command)) for _ in range(4)]
        await gate.has_somebody()
        calls[0].cancel()
        await asyncio.sleep(0)
        calls[2].cancel()
        gate.open()
        found = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(f) is asyncio.CancelledError for f in found] == [True, False, True, False]
    copies = COPIES_OF_OCCLUSION if isinstance(method, Occlusion) else 0
    assert seen.pictures == 1 + copies
    assert_same(found[1], found[3])
    assert (await use_cases.explain(command)).timings.cached_images == 1
    assert under_way(use_cases) == 0


async def test_when_all_have_gone_nothing_goes_on(alone, gate):
    use_cases = alone.over(alone.cache, gate)
    command = ExplainCommand(CLS, PICTURE, Rollout())
    with watch(*alone.models.values()) as seen:
        calls = [asyncio.create_task(use_cases.explain(command)) for _ in range(3)]
        await gate.has_somebody()
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert under_way(use_cases) == 0
        gate.open()
        # A later call is none of theirs.
        assert (await use_cases.explain(command)).timings.cached_images == 0
    assert seen.pictures == 1


async def test_a_leader_without_the_file_does_not_fail_who_has_it(alone):
    explain = alone.use_cases.explain
    with_file = ExplainCommand(CLS, PICTURE, Rollout())
    without = dataclasses.replace(with_file, image=digest(PICTURE))
    target = dataclasses.replace(
        with_file, image=png(1), method=AttentionRelevance(), target=SimilarityTarget((PICTURE,))
    )
    found = await asyncio.gather(
        *[explain(command) for command in (without, with_file, without, target, with_file)],
        return_exceptions=True,
    )
    assert isinstance(found[0], ImageMissingError)
    assert [m.field for m in found[0].missing] == ["image"]
    # Who has no file either but comes later is served by who has one.
    assert_same(found[1], found[2])
    assert_same(found[1], found[4])
    assert_same(await explain(target), found[3])


async def test_a_leader_whose_deadline_passes_does_not_fail_who_has_time(alone):
    explain = alone.use_cases.explain
    patient = ExplainCommand(CLS, PICTURE, Occlusion())
    late = dataclasses.replace(patient, deadline_s=asyncio.get_running_loop().time() - 1)
    found = await asyncio.gather(
        *[explain(command) for command in (late, patient, late, patient)], return_exceptions=True
    )
    assert isinstance(found[0], DeadlineUnreachableError)
    # Who comes second has what the first one was given.
    assert_same(found[1], found[3])
    assert found[1].heatmap.any()
    assert under_way(alone.use_cases) == 0


async def test_a_broken_picture_is_told_to_each_by_its_own_field(alone):
    broken = PICTURE[:200]
    use_cases = alone.use_cases
    found = await asyncio.gather(
        use_cases.explain(ExplainCommand(MEAN, broken, Rollout())),
        use_cases.explain(ExplainCommand(MEAN, PICTURE, None, SimilarityTarget((broken,)))),
        use_cases.pair(PairCommand(MEAN, PICTURE, (broken, png(1), broken))),
        use_cases.pair(PairCommand(MEAN, broken, (PICTURE,))),
        use_cases.embed(EmbedCommand(MEAN, (PICTURE, broken))),
        return_exceptions=True,
    )
    first, second, candidates, query, embedded = found
    errors = {
        "image": first,
        "target.similarity.images[0]": second,
        "candidates[0]": candidates.results[0],
        "candidates[2]": candidates.results[2],
        "query": query,
        "images[1]": embedded.results[1],
    }
    for field, error in errors.items():
        assert isinstance(error, ImageUndecodableError), field
        assert error.field == field
        assert error.message.startswith(f"{field}: ")


async def test_numbers_that_overflow_are_told_to_each_by_its_own_field():
    model = vit(dtype=torch.float16)
    model.network.patch_embed.proj.weight.data *= 1e5
    bench = Bench(dataclasses.replace(model, name="overflowing"), max_batch=4)
    await bench.start()
    try:
        use_cases = bench.use_cases
        found = await asyncio.gather(
            use_cases.embed(EmbedCommand("overflowing", (PICTURE,))),
            use_cases.embed(EmbedCommand("overflowing", (png(1), PICTURE))),
            use_cases.pair(PairCommand("overflowing", PICTURE, (PICTURE,))),
            return_exceptions=True,
        )
        errors = {
            "images[0]": found[0].results[0],
            "images[1]": found[1].results[1],
            "query": found[2],
        }
        for field, error in errors.items():
            assert isinstance(error, NotFiniteError)
            assert error.field == field
        assert len(bench.memory) == bench.memory.stats()[CacheKind.IMAGE].entries == 2
    finally:
        await bench.stop()


async def test_drawing_is_each_callers_own(alone):
    """Equal calls share activations, not what is drawn."""
    drawn = ExplainCommand(CLS, PICTURE, Rollout(), rendering=RenderOptions(overlay=True))
    plain = dataclasses.replace(drawn, rendering=None)
    found = await asyncio.gather(*[alone.use_cases.explain(c) for c in (plain, drawn, plain)])
    assert [answer.rendered is not None for answer in found] == [False, True, False]
    assert_same(await alone.use_cases.explain(drawn), found[1])
