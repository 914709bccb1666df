"""What a score costs, and that others get their turn while one runs."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from tests.contract.scores import Scores, given, like, metric, random_map, request
from tests.contract.support import TIMEOUT_S, png, unseen

VIT = "tiny-vit"
BLACK, CELLS = "SUBSTRATE_BLACK", "ERASURE_UNIT_CELLS"
LEAST = "ERASURE_ORDER_LEAST_RELEVANT_FIRST"
DELETION = metric("deletion", steps=8)
OF_PAIR = {"target": like(png(2)), "partner_heatmap": given(random_map(1))}
EVERY_SIDE = ["SIDE_IMAGE", "SIDE_PARTNER", "SIDE_BOTH"]


@pytest.fixture(scope="module")
def scores(server) -> Scores:
    return Scores(server.channel)


@pytest.mark.parametrize(
    ("metrics", "passes"),
    [
        ([metric("average_drop")], 2),
        ([metric("average_drop"), metric("average_increase")], 2),
        ([metric("average_drop"), metric("average_drop", substrate="SUBSTRATE_BLUR")], 3),
        ([metric("average_drop"), metric("average_drop", profile="PROFILE_REFERENCE")], 2),
        ([DELETION], 9),
        ([DELETION, DELETION], 9),
        # Other ends of the same order: the clean and the filled picture are shared, ...
        ([DELETION, metric("insertion", steps=8, substrate="SUBSTRATE_MEAN")], 16),
        # ... and here all of them.
        ([DELETION, metric("insertion", steps=8, substrate="SUBSTRATE_MEAN", order=LEAST)], 9),
        ([DELETION, metric("deletion", steps=8, substrate=BLACK)], 17),
        ([DELETION, metric("deletion", steps=4)], 9),
        ([DELETION, metric("deletion", fractions=[0.125, 0.5, 0.6])], 10),
        ([DELETION, metric("deletion", steps=8, unit=CELLS)], 16),
        ([DELETION, metric("deletion", steps=8, seed=5)], 9),
        ([DELETION, metric("deletion", steps=8, scored_class="SCORED_CLASS_PREDICTED")], 9),
        # Equal values go in another order.
        ([DELETION, metric("deletion", steps=8, profile="PROFILE_REFERENCE")], 16),
        ([metric("deletion", steps=1, substrate=BLACK), metric("average_drop")], 3),
        (
            [
                metric("deletion", steps=8, substrate="SUBSTRATE_NOISE", seed=seed)
                for seed in (0, 1)
            ],
            17,
        ),
    ],
)
def test_metrics_share_copies(scores, metrics, passes):
    answer = scores.score(VIT, metrics, target={"class_index": 1})
    assert answer.forward_passes == passes
    if metrics[-1].deletion.scored_class:
        return
    # With the other clean pictures.
    summed = scores.score(VIT, metrics, target=like(png(2), png(3), png(4)))
    assert summed.forward_passes == passes + 3


@pytest.mark.parametrize(
    ("sides", "passes"),
    [
        (["SIDE_IMAGE"], 2 + 8),
        (["SIDE_PARTNER"], 2 + 8),
        (["SIDE_BOTH"], 2 + 2 * 8),
        (EVERY_SIDE, 2 + 2 * 8),
    ],
)
def test_sides_share_copies(scores, sides, passes):
    fields = OF_PAIR if sides != ["SIDE_IMAGE"] else {"target": OF_PAIR["target"]}
    assert scores.score(VIT, [DELETION], sides=sides, **fields).forward_passes == passes


def test_where_a_map_lies_needs_no_copies(scores):
    games = [metric("pointing_game"), metric("energy_pointing_game")]
    region = {"boxes": [{"right": 20, "bottom": 20}]}
    data = unseen()
    cold = scores.score(VIT, games, data, region=region)
    assert cold.forward_passes == 1
    warm = scores.score(VIT, games, data, region=region)
    assert (warm.timing.cached_images, warm.timing.compute.ToNanoseconds()) == (1, 0)
    assert warm.results == cold.results
    pair = scores.score(VIT, games, data, region=region, sides=EVERY_SIDE, **OF_PAIR)
    assert pair.forward_passes == 2


def test_a_call_says_where_its_time_went(scores):
    data = unseen()
    timing = scores.score(VIT, [metric("deletion", steps=200)], data).timing
    total, compute = timing.total.ToNanoseconds(), timing.compute.ToNanoseconds()
    assert 0 < compute < total
    assert (timing.cached_images, timing.images) == (0, 1)
    by_method = scores.score(VIT, [DELETION], data, method={"rollout": {}}).timing
    assert by_method.total.ToNanoseconds() > by_method.method.ToNanoseconds() > 0


LONG = [
    metric("deletion", steps=1536, substrate=f"SUBSTRATE_{name}")
    for name in ("MEAN", "BLACK", "BLUR", "NOISE")
]
"""Six thousand copies, some hundred chunks."""


def begun(scores: Scores, server, count: int = 1) -> list[grpc.Future]:
    """Long scores that have the device; short calls have been answered after they began."""
    calls = [
        scores.stub.ScoreSaliency.future(request(VIT, LONG, unseen()), timeout=TIMEOUT_S)
        for _ in range(count)
    ]
    for _ in range(3):
        server.explain(VIT, unseen())
    assert not any(call.done() for call in calls)
    return calls


def test_short_calls_are_answered_while_a_long_one_runs(server, scores):
    (call,) = begun(scores, server)
    for _ in range(5):
        assert server.explain(VIT, unseen()).timing.cached_images == 0
        assert scores.score(VIT, [DELETION], unseen()).forward_passes == 9
        assert server.pair(VIT, unseen(), unseen()).results[0].HasField("match")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: server.explain(VIT, unseen()), range(8)))
    assert not call.done(), "the short calls waited for the long one"
    assert call.result().forward_passes == 1 + 4 * 1536


def test_calls_that_are_given_up_leave_the_device_to_others(server, scores):
    """By how long a call's chunks waited for those of others, against how long they ran."""

    def shared() -> float:
        timing = scores.score(VIT, LONG[:1], unseen()).timing
        return timing.queue.ToNanoseconds() / timing.compute.ToNanoseconds()

    calls = begun(scores, server, 10)
    assert shared() > 2  # about ten
    assert not any(call.done() for call in calls)
    for call in calls:
        call.cancel()
    assert shared() < 1
    # A deadline that passes does the same.
    for _ in range(5):
        with pytest.raises(grpc.RpcError) as caught:
            scores.stub.ScoreSaliency(request(VIT, LONG * 2, unseen()), timeout=0.1)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert shared() < 1
