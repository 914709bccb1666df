import dataclasses
import weakref

import pytest
import torch

from pairlens_server.engine.worker import DeviceWorker
from pairlens_server.errors import OutOfMemoryError
from pairlens_server.methods.rollout import RolloutRow
from pairlens_server.methods.similarity import PooledDecomposition
from pairlens_server.recording.activations import Embedding, Logits, ReadoutAttention
from tests.support import pixels, vit


def test_a_mixed_batch_gives_each_picture_what_it_would_get_alone():
    model = vit()
    worker = DeviceWorker([model])
    pair = PooledDecomposition().resolve(worker.facts(model))
    wishes = [
        (RolloutRow(0, 2, False), Logits()),
        (RolloutRow(1, 2, True), ReadoutAttention(0)),
        pair.needs(),
        (RolloutRow(0, 2, False), *pair.needs()),
    ]
    jobs = list(zip(pixels(model, 4), wishes, strict=True))
    together = worker.run(model, jobs)
    for job, result in zip(jobs, together, strict=True):
        (alone,) = worker.run(model, [job])
        assert set(result) == set(job[1])
        for activation, value in result.items():
            torch.testing.assert_close(value, alone[activation], atol=1e-5, rtol=1e-5)


def test_results_own_their_memory():
    model = vit()
    results = DeviceWorker([model]).run(model, [(p, (Embedding(),)) for p in pixels(model, 8)])
    for result in results:
        value = result[Embedding()]
        assert value.untyped_storage().nbytes() == value.nbytes


class Failing(torch.nn.Module):
    """A network that fails on any batch that holds a picture marked by its first pixel."""

    def __init__(self, network, error):
        super().__init__()
        self.network = network
        self.error = error

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.network, name)

    def forward_features(self, batch):
        if (batch[:, 0, 0, 0] == 99).any():
            raise self.error
        return self.network.forward_features(batch)


def failing_batch(error, marked):
    model = vit()
    broken = dataclasses.replace(model, network=Failing(model.network, error))
    images = pixels(model, 5)
    images[marked, 0, 0, 0] = 99
    results = DeviceWorker([broken]).run(broken, [(p, (Embedding(),)) for p in images])
    expected = DeviceWorker([model]).run(model, [(p, (Embedding(),)) for p in images])
    return results, expected


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

    class Small(Failing):
        def forward_features(self, batch):
            sizes.append(len(batch))
            if len(batch) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return self.network.forward_features(batch)

    small = dataclasses.replace(model, network=Small(model.network, None))
    results = DeviceWorker([small]).run(small, [(p, (Logits(),)) for p in pixels(model, 5)])
    assert all(isinstance(r, dict) for r in results)
    assert sizes[0] == 5
    assert sorted(s for s in sizes if s <= 2) == [1, 2, 2]


def test_the_failed_batch_is_let_go_before_smaller_ones_run():
    model = vit()
    held = []

    class Small(Failing):
        def forward_features(self, batch):
            if len(batch) > 1:
                held.append(weakref.ref(batch))
                raise torch.OutOfMemoryError("CUDA out of memory")
            assert all(reference() is None for reference in held), "larger batches are still held"
            return self.network.forward_features(batch)

    small = dataclasses.replace(model, network=Small(model.network, None))
    results = DeviceWorker([small]).run(small, [(p, (Logits(),)) for p in pixels(model, 4)])
    assert [type(r) for r in results] == [dict] * 4
    assert len(held) == 3


def test_a_broken_device_is_not_taken_for_a_bad_picture():
    with pytest.raises(RuntimeError, match="device-side assert"):
        failing_batch(RuntimeError("CUDA error: device-side assert triggered"), [1])
