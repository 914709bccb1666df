import weakref

import pytest
import torch
from PIL import Image

from pairlens_server.engine.entry import Chunk
from pairlens_server.engine.worker import DeviceWorker, _within
from pairlens_server.errors import OutOfMemoryError
from pairlens_server.images.admission import Picture
from pairlens_server.images.preprocess import input_pixels
from pairlens_server.methods.attention import RawAttention
from pairlens_server.methods.rollout import Rollout, RolloutRow
from pairlens_server.methods.similarity import PooledDecomposition
from pairlens_server.recording.attention import HeadFusion
from pairlens_server.recording.baselines import Baseline, Fill
from pairlens_server.recording.primitives import (
    AttentionMatrix,
    Embedding,
    GradientWeightedAttention,
    Logits,
    ReadoutAttention,
    TransformerAttributionRow,
)
from pairlens_server.recording.probes import OcclusionScores
from pairlens_server.recording.recorder import Recorder
from pairlens_server.recording.targets import ClassLogit
from tests.support import pixels, vit


def passes_of(model):
    """Sizes of the batches that a model sees from now on."""
    sizes = []
    model.network.patch_embed.register_forward_pre_hook(
        lambda _module, inputs: sizes.append(len(inputs[0]))
    )
    return sizes


def rollout_row(start, end, first_block_left):
    return RolloutRow(start, end, first_block_left, HeadFusion.MEAN, 0.0)


def test_a_mixed_batch_gives_each_picture_what_it_would_get_alone():
    model = vit()
    worker = DeviceWorker([model])
    pair = PooledDecomposition().resolve(worker.facts(model))
    wishes = [
        (rollout_row(0, 2, False), Logits()),
        (rollout_row(1, 2, True), ReadoutAttention(0)),
        pair.pair_needs(),
        (rollout_row(0, 2, False), *pair.pair_needs()),
        (GradientWeightedAttention(1, ClassLogit(2)), Logits()),
    ]
    jobs = list(zip(pixels(model, 5), wishes, strict=True))
    together = worker.run(model, jobs)
    for job, result in zip(jobs, together, strict=True):
        (alone,) = worker.run(model, [job])
        assert set(result) == set(job[1])
        for activation, value in result.items():
            torch.testing.assert_close(value, alone[activation], atol=1e-5, rtol=1e-5)


def test_attention_rollout_pair_tokens_and_embeddings_of_any_pictures_are_one_forward_pass():
    model = vit(depth=3)
    worker = DeviceWorker([model])
    facts = worker.facts(model)
    pair = PooledDecomposition().resolve(facts)
    wishes = [
        RawAttention().resolve(facts).needs(facts, None),
        Rollout().resolve(facts).needs(facts, None),
        pair.pair_needs(),
        (Embedding(),),
        (ReadoutAttention(0), Embedding(), Logits()),
    ]
    sides = [(10, 10), (64, 48), (33, 200), (7, 5), (300, 300)]
    seen = [
        input_pixels(Picture(Image.new("RGB", (w, h), "teal"), "", h, w), model.preprocessing)
        for h, w in sides
    ]
    sizes = passes_of(model)
    jobs = [(picture, tuple(wish)) for picture, wish in zip(seen, wishes, strict=True)]
    results = worker.run(model, jobs)
    assert sizes == [5]
    assert [set(result) for result in results] == [set(wish) for wish in wishes]
    assert all(worker.cost(model, tuple(wish)) == 1 for wish in wishes)


def test_pictures_of_a_batch_have_targets_of_their_own():
    # A server that takes the first request's target for all gives these one class.
    model = vit()
    worker = DeviceWorker([model])
    jobs = [
        (picture, (GradientWeightedAttention(1, ClassLogit(number % 5)),))
        for number, picture in enumerate(pixels(model, 4))
    ]
    for job, together in zip(jobs, worker.run(model, jobs), strict=True):
        (alone,) = worker.run(model, [job])
        (activation,) = job[1]
        torch.testing.assert_close(together[activation], alone[activation], atol=1e-5, rtol=1e-4)


def test_a_batch_that_was_prepared_gives_the_same():
    model = vit()
    worker = DeviceWorker([model])
    images = pixels(model, 5)
    jobs = [(picture, (Embedding(), AttentionMatrix(0))) for picture in images]
    expected = worker.run(model, jobs)
    found = worker.run(model, jobs, worker.stage(model, list(images)))
    staged = worker.stage(model, list(images))
    staged.rows = (1, 3, 4)
    some = worker.run(model, [jobs[row] for row in staged.rows], staged)
    wanted = [*expected, *(expected[row] for row in staged.rows)]
    for one, other in zip([*found, *some], wanted, strict=True):
        for activation, value in one.items():
            torch.testing.assert_close(value, other[activation], atol=1e-5, rtol=1e-5)
    assert staged.take() is None


def test_pictures_that_cannot_be_stacked_are_prepared_by_nobody_and_fail_alone():
    model = vit()
    worker = DeviceWorker([model])
    images = [*pixels(model, 2), torch.zeros(3, 5, 5)]
    assert worker.stage(model, images) is None
    results = worker.run(model, [(picture, (Embedding(),)) for picture in images])
    assert [isinstance(result, Exception) for result in results] == [False, False, True]


def test_a_prepared_batch_that_does_not_fit_is_let_go_before_smaller_ones_run():
    model = vit()
    held = []

    def look(batch):
        assert all(reference() is None for reference in held), "larger batches are still held"
        if len(batch) > 1:
            held.append(weakref.ref(batch))
            raise torch.OutOfMemoryError("CUDA out of memory")

    worker = before_each_pass(model, look)
    images = list(pixels(model, 4))
    staged = worker.stage(model, images)
    results = worker.run(model, [(picture, (Logits(),)) for picture in images], staged)
    assert [type(r) for r in results] == [dict] * 4
    assert len(held) == 3


def test_results_own_their_memory():
    model = vit()
    results = DeviceWorker([model]).run(model, [(p, (Embedding(),)) for p in pixels(model, 8)])
    for result in results:
        value = result[Embedding()]
        assert value.untyped_storage().nbytes() == value.nbytes


def before_each_pass(model, look):
    """Call a function with the batch of every pass, as soon as the worker is made."""
    worker = DeviceWorker([model])
    model.network.patch_embed.register_forward_pre_hook(lambda _module, inputs: look(*inputs))
    return worker


def failing_batch(error, marked):
    """Results of five pictures of which the marked ones fail, and of the same without fail."""
    model = vit()
    images = pixels(model, 5)
    images[marked, 0, 0, 0] = 99
    jobs = [(p, (Embedding(),)) for p in images]
    expected = DeviceWorker([model]).run(model, jobs)

    def look(batch):
        if (batch[:, 0, 0, 0] == 99).any():
            raise error

    return before_each_pass(model, look).run(model, jobs), expected


def test_a_failing_picture_fails_alone():
    error = ValueError("this picture")
    results, expected = failing_batch(error, [2])
    assert results[2] is error
    for i in (0, 1, 3, 4):
        torch.testing.assert_close(
            results[i][Embedding()], expected[i][Embedding()], atol=1e-5, rtol=1e-5
        )


def test_out_of_memory_alone_is_told_as_such():
    results, _ = failing_batch(torch.OutOfMemoryError("CUDA out of memory"), [0, 3])
    assert [isinstance(r, OutOfMemoryError) for r in results] == [True, False, False, True, False]


def test_a_batch_too_large_for_the_device_runs_in_smaller_ones():
    model = vit()
    sizes = []

    def look(batch):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    worker = before_each_pass(model, look)
    results = worker.run(model, [(p, (Logits(),)) for p in pixels(model, 5)])
    assert all(isinstance(r, dict) for r in results)
    assert sizes[0] == 5
    assert sorted(s for s in sizes if s <= 2) == [1, 2, 2]


def test_the_failed_batch_is_let_go_before_smaller_ones_run():
    model = vit()
    held = []

    def look(batch):
        if len(batch) > 1:
            held.append(weakref.ref(batch))
            raise torch.OutOfMemoryError("CUDA out of memory")
        assert all(reference() is None for reference in held), "larger batches are still held"

    worker = before_each_pass(model, look)
    results = worker.run(model, [(p, (Logits(),)) for p in pixels(model, 4)])
    assert [type(r) for r in results] == [dict] * 4
    assert len(held) == 3


def test_a_broken_device_is_not_taken_for_a_bad_picture():
    with pytest.raises(RuntimeError, match="device-side assert"):
        failing_batch(RuntimeError("CUDA error: device-side assert triggered"), [1])


def occlusion(model):
    return OcclusionScores(ClassLogit(1), model.layout, 1, Baseline(Fill.MEAN, (0.0, 0.0, 0.0), 0))


def test_a_chunk_gives_the_numbers_of_its_copies():
    model = vit()
    probe, picture = occlusion(model), pixels(model, 1)[0]
    whole = probe.run(Recorder(model), picture, 0, probe.steps)
    (part,) = DeviceWorker([model]).run_chunk(model, picture, Chunk(probe, 3, 9))
    torch.testing.assert_close(part, whole[3:9], atol=1e-5, rtol=1e-5)


def test_a_chunk_too_large_for_the_device_runs_in_halves():
    model = vit()
    probe, picture = occlusion(model), pixels(model, 1)[0]
    whole = probe.run(Recorder(model), picture, 0, probe.steps)
    sizes, held = [], []

    def look(batch):
        sizes.append(len(batch))
        assert all(reference() is None for reference in held), "larger chunks are still held"
        if len(batch) > 3:
            held.append(weakref.ref(batch))
            raise torch.OutOfMemoryError("CUDA out of memory")

    parts = before_each_pass(model, look).run_chunk(model, picture, Chunk(probe, 0, 10))
    assert sizes == [10, 5, 2, 3, 5, 2, 3]
    assert [len(part) for part in parts] == [2, 3, 2, 3]
    torch.testing.assert_close(probe.combine(parts), whole[:10], atol=1e-5, rtol=1e-5)


def test_a_copy_that_does_not_fit_alone_is_out_of_memory():
    model = vit()

    def look(_batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    worker = before_each_pass(model, look)
    outcome = worker.run_chunk(model, pixels(model, 1)[0], Chunk(occlusion(model), 0, 4))
    assert isinstance(outcome, OutOfMemoryError)
    assert outcome.retry_after_s


def test_a_chunk_that_fails_otherwise_is_not_run_again():
    model = vit()
    sizes, error = [], ValueError("this probe")

    def look(batch):
        sizes.append(len(batch))
        raise error

    worker = before_each_pass(model, look)
    outcome = worker.run_chunk(model, pixels(model, 1)[0], Chunk(occlusion(model), 0, 4))
    assert outcome is error
    assert sizes == [4]


def test_a_device_that_breaks_in_a_chunk_is_told_as_such():
    model = vit()

    def look(_batch):
        raise RuntimeError("CUDA error: device-side assert triggered")

    worker = before_each_pass(model, look)
    with pytest.raises(RuntimeError, match="device-side assert"):
        worker.run_chunk(model, pixels(model, 1)[0], Chunk(occlusion(model), 0, 4))


@pytest.mark.parametrize(
    ("needed", "runs"),
    [
        ([], [(0, 0)]),
        ([0, 0, 0], [(0, 3)]),
        ([4, 4, 4], [(0, 2), (2, 3)]),
        ([4, 0, 4, 1], [(0, 3), (3, 4)]),
        ([20, 1, 20], [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_batches_are_cut_by_what_they_hold(needed, runs):
    assert _within(needed, 8) == runs


def test_heavy_pictures_run_in_parts_with_equal_results(monkeypatch):
    model = vit()
    worker = DeviceWorker([model])
    wish = (AttentionMatrix(0), TransformerAttributionRow(0, ClassLogit(1), False), Logits())
    jobs = [(picture, wish) for picture in pixels(model, 5)]
    together = worker.run(model, jobs)
    heavy = sum(activation.scratch_bytes(worker.facts(model)) for activation in wish)
    batches = []
    model.network.patch_embed.register_forward_pre_hook(
        lambda _module, inputs: batches.append(len(inputs[0]))
    )
    monkeypatch.setattr("pairlens_server.engine.worker.SCRATCH_BYTES", 2 * heavy)
    in_parts = worker.run(model, jobs)
    assert max(batches) == 2
    for one, other in zip(together, in_parts, strict=True):
        for activation in wish:
            torch.testing.assert_close(one[activation], other[activation], atol=1e-5, rtol=1e-4)
