"""Reading the models file again, over a real engine."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pairlens_server.engine.engine import Engine, EngineSettings
from pairlens_server.engine.worker import DeviceWorker, Job, Recorded
from pairlens_server.errors import (
    ConfigurationError,
    ConfigurationInvalidError,
    DeviceError,
    DrainingError,
    ModelNotFoundError,
    OutOfMemoryError,
)
from pairlens_server.models.config import ModelConfig, load_model_configs
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.models.loading import load_model
from pairlens_server.models.random_twins import load_models
from pairlens_server.models.registry import ModelRegistry
from pairlens_server.recording.primitives import Embedding
from pairlens_server.service import served_entry
from pairlens_server.service.model_changes import ChangeKind, ModelChange
from pairlens_server.service.model_reload import ModelReload
from tests.reloading import Folder, entry, random_entry

WAIT_S = 20


class Device(DeviceWorker):
    """A device that is too small, or breaks, for models of a name; or waits before it adds one."""

    full_for = ""
    fails_for = ""
    breaks_for = ""
    hold: threading.Event | None = None
    added = 0
    networks: tuple[weakref.ref[nn.Module], ...] = ()

    def add(self, models: Sequence[LoadedModel]) -> None:
        type(self).added += 1
        type(self).networks += tuple(weakref.ref(model.network) for model in models)
        if self.hold is not None:
            assert self.hold.wait(WAIT_S)
        if any(model.name == self.fails_for for model in models):
            raise KeyError("an unforeseen network")
        super().add(models)

    def run(self, model: LoadedModel, jobs: Sequence[Job], staged: Any = None) -> Any:
        if model.name == self.breaks_for:
            raise RuntimeError("CUDA error: device-side assert triggered")
        if model.name == self.full_for:
            return [OutOfMemoryError("one picture alone does not fit on the device")] * len(jobs)
        found: list[Recorded | Exception] = super().run(model, jobs, staged)
        return found


class Bench:
    def __init__(self, path: Path):
        self.folder = Folder(path)
        self.device = type("OfThisTest", (Device,), {})
        self.engine = Engine(EngineSettings(), make_backend=self.device)
        self.registry = ModelRegistry()
        self.names: list[Sequence[str]] = []
        self.told: list[ModelChange] = []
        self.models = ModelReload(
            self.folder.file,
            self.registry,
            self.engine,
            patience_s=0.2,
            served=self.names.append,
            changed=self.told.append,
        )

    async def start(self, *entries: dict[str, Any]) -> None:
        for seed, declared in enumerate(entries):
            if "checkpoint" in declared:
                self.folder.weights(declared["name"], seed)
        self.folder.declare(*entries)
        await self.models.start(load_model_configs(self.folder.file))

    async def reload(self, *entries: dict[str, Any]) -> dict[str, str]:
        """Declare models if any are given, and reload; what became of each."""
        if entries:
            self.folder.declare(*entries)
        return kinds(await asyncio.wait_for(self.models.reload(), WAIT_S))

    def fingerprints(self) -> dict[str, str]:
        return {model.name: model.fingerprint for model in self.registry.all()}

    async def embedding(self, model: LoadedModel) -> torch.Tensor:
        picture = torch.ones(3, model.preprocessing.height, model.preprocessing.width)
        return (await self.engine.record(model, picture, (Embedding(),))).values[Embedding()]

    async def gone(self, network: weakref.ref[nn.Module]) -> None:
        """Wait until a model is unloaded."""
        for _ in range(1000):
            # A loop, since the task that unloads it runs between these looks.
            await asyncio.sleep(0.01)
            if network() is None:
                return
        raise AssertionError("it is still there")


def kinds(changes: Sequence[ModelChange]) -> dict[str, str]:
    return {change.model: change.kind.value for change in changes}


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    yield made
    if made.device.hold is not None:
        made.device.hold.set()
    await made.models.stop()
    await made.engine.stop()


A, B, RANDOM = entry("a"), entry("b"), random_entry("tiny-vit")


async def test_models_come_change_and_go(bench: Bench) -> None:
    await bench.start(A, B)
    assert bench.names == [["a", "b"]]
    before = bench.fingerprints()
    assert await bench.reload() == {"a": "unchanged", "b": "unchanged"}
    bench.folder.weights("b", 7)
    assert await bench.reload(RANDOM, B) == {
        "tiny-vit": "added",
        "b": "replaced",
        "a": "removed",
    }
    after = bench.fingerprints()
    assert list(after) == ["tiny-vit", "b"]
    assert after["b"] != before["b"]
    assert bench.names[-1] == ["tiny-vit", "b"]
    assert kinds(bench.told) == {"tiny-vit": "added", "b": "replaced", "a": "removed"}
    for model in bench.registry.all():
        assert len(await bench.embedding(model)) == model.embedding_size
    with pytest.raises(ModelNotFoundError):
        bench.registry.get("a")


async def test_another_setting_replaces_a_model(bench: Bench) -> None:
    await bench.start(A, B)
    changed = entry("a", preprocessing={"size": [48, 32], "resize": "stretch"})
    assert await bench.reload(changed, B) == {"a": "replaced", "b": "unchanged"}
    assert bench.registry.get("a").preprocessing.height == 48


async def test_the_order_of_the_file_alone_is_taken_over(bench: Bench) -> None:
    await bench.start(A, B)
    network = bench.registry.get("a").network
    assert await bench.reload(B, A) == {"b": "unchanged", "a": "unchanged"}
    assert bench.registry.names() == ("b", "a")
    assert bench.registry.get("a").network is network


async def test_the_same_weights_again_replace_nothing(bench: Bench) -> None:
    await bench.start(A)
    network = bench.registry.get("a").network
    bench.folder.weights("a", 0)
    assert await bench.reload() == {"a": "unchanged"}
    assert bench.registry.get("a").network is network
    # And the files are known now.
    loads = bench.device.added
    assert await bench.reload() == {"a": "unchanged"}
    assert bench.device.added == loads
    await bench.embedding(bench.registry.get("a"))


async def test_new_labels_replace_a_model(bench: Bench) -> None:
    labels = bench.folder.path / "labels.txt"
    labels.write_text("1\n2\n3\n4\n5\n")
    await bench.start(entry("a", labels="labels.txt"))
    labels.write_text("1\n2\n3\n4\nfive\n")
    assert await bench.reload() == {"a": "replaced"}
    assert bench.registry.get("a").labels[-1] == "five"


async def test_a_call_under_way_ends_with_the_model_that_it_began_with(bench: Bench) -> None:
    await bench.start(A)
    with bench.registry.call():
        old = bench.registry.get("a")
        expected = await bench.embedding(old)
        bench.folder.weights("a", 7)
        assert await asyncio.create_task(bench.reload()) == {"a": "replaced"}
        assert bench.registry.get("a") is old
        # Longer than the server waits before it says so.
        await asyncio.sleep(0.5)
        assert torch.equal(await bench.embedding(old), expected)
    new = bench.registry.get("a")
    assert new is not old
    assert not torch.allclose(await bench.embedding(new), expected)
    for _ in range(1000):
        await asyncio.sleep(0.01)
        try:
            bench.engine.facts(old)
        except ModelNotFoundError:
            break
    with pytest.raises(ModelNotFoundError):
        await bench.embedding(old)


@pytest.mark.parametrize("change", ["replaced", "removed", "failed"])
async def test_memory_of_a_model_that_goes_is_given_back(bench: Bench, change: str) -> None:
    await bench.start(A, B)
    await bench.embedding(bench.registry.get("a"))
    # Of any test before.
    gc.collect()
    if change == "replaced":
        bench.folder.weights("a", 7)
        await bench.reload()
    elif change == "removed":
        await bench.reload(B)
    else:
        # The new model is the one that goes.
        bench.device.full_for = "c"
        bench.folder.weights("c", 3)
        assert (await bench.reload(A, B, entry("c")))["c"] == "failed"
    a, b, *new = bench.device.networks
    await bench.gone(new[0] if change == "failed" else a)
    assert b() is not None


MISTAKES = {
    "missing": ({"checkpoint": "gone.safetensors"}, "model 'a': gone.safetensors: no such file"),
    "wrong keys": ({"checkpoint": "other.safetensors"}, "other.safetensors does not fit"),
    "hostile": ({"checkpoint": "hostile.pth"}, "holds objects that are not loaded"),
    "torn": ({"checkpoint": "torn.safetensors"}, "broken safetensors file"),
    "unknown": ({"architecture": "vit_of_nobody"}, "timm has no architecture"),
    "beyond the grid": ({"preprocessing": {"size": 4}}, "model 'a'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_what_cannot_be_loaded_changes_nothing_and_says_why(
    bench: Bench, mistake: str
) -> None:
    fields, message = MISTAKES[mistake]
    await bench.start(A, B)
    proof = bench.folder.hostile("hostile.pth")
    whole = (bench.folder.path / "a.safetensors").read_bytes()
    (bench.folder.path / "torn.safetensors").write_bytes(whole[:-100])
    other = entry("other", architecture="resnet10t", random_weights=True, seed=1, checkpoint=None)
    other["architecture_options"] = {"channels": [8, 16, 16, 32]}
    network = load_model(ModelConfig(**other)).network
    save_file(network.state_dict(), bench.folder.path / "other.safetensors")
    before, expected = bench.fingerprints(), await bench.embedding(bench.registry.get("a"))
    bench.folder.weights("b", 7)
    # The other one goes on.
    assert await bench.reload(entry("a", **fields), B) == {"a": "failed", "b": "replaced"}
    (failed,) = (change for change in bench.told if change.model == "a")
    assert failed.fingerprint == before["a"] == bench.fingerprints()["a"]
    assert isinstance(failed.error, ConfigurationInvalidError)
    assert message in failed.error.message
    assert torch.equal(await bench.embedding(bench.registry.get("a")), expected)
    assert not proof.exists()
    assert str(bench.folder.path) not in failed.error.message
    # What was wrong is tried again, and may be mended.
    assert (await bench.reload(A, B)) == {"a": "unchanged", "b": "unchanged"}


async def test_a_model_that_does_not_fit_on_the_device(bench: Bench) -> None:
    await bench.start(A)
    bench.device.full_for = "b"
    bench.folder.weights("b", 1)
    assert await bench.reload(A, B) == {"a": "unchanged", "b": "failed"}
    (failed,) = bench.told
    assert isinstance(failed.error, OutOfMemoryError)
    assert failed.error.message == "model 'b' does not fit into memory beside what is served"
    assert failed.fingerprint == ""
    assert bench.registry.names() == ("a",)


async def test_what_nobody_foresaw_is_logged_and_not_told(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    await bench.start(A)
    bench.device.fails_for = "b"
    bench.folder.weights("b", 1)
    assert (await bench.reload(A, B))["b"] == "failed"
    (failed,) = bench.told
    assert failed.error is not None
    assert "the server's log says why" in failed.error.message
    assert "an unforeseen network" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: [", "models.yaml: no YAML"),
        ("models: []", "lists no model"),
        ("models: [{name: a}]", "model 'a', field architecture"),
        (None, "models.yaml: No such file"),
    ],
)
async def test_a_wrong_file_changes_nothing(bench: Bench, text: str | None, message: str) -> None:
    await bench.start(A)
    network = bench.registry.get("a").network
    if text is None:
        bench.folder.file.unlink()
    else:
        bench.folder.file.write_text(text)
    with pytest.raises(ConfigurationInvalidError, match=message):
        await bench.models.reload()
    assert bench.registry.get("a").network is network
    # Counted all the same: after a signal, that is how anybody learns of it.
    (failed,) = bench.told
    assert (failed.model, failed.kind) == ("", ChangeKind.FAILED)
    assert await bench.reload(A) == {"a": "unchanged"}


async def test_a_file_that_changes_while_it_is_read_is_not_served(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.start(A)
    bench.folder.weights("a", 7)
    file = bench.folder.path / "a.safetensors"

    def load(configs: Sequence[ModelConfig]) -> tuple[LoadedModel, ...]:
        models = load_models(configs)
        # As by who copies a checkpoint to where it is served from.
        file.write_bytes(file.read_bytes())
        return models

    with monkeypatch.context() as patch:
        patch.setattr(served_entry, "load_models", load)
        assert await bench.reload() == {"a": "failed"}
    (failed,) = bench.told
    assert "its files changed while they were read" in str(failed.error)
    assert await bench.reload() == {"a": "replaced"}


async def test_twins_follow_their_model(bench: Bench) -> None:
    await bench.start(A)
    twin = entry("a", random_twin=True)
    assert await bench.reload(twin) == {"a": "replaced", "a-random": "added"}
    assert bench.registry.get("a").random_twin == "a-random"
    bench.folder.weights("a", 7)
    assert await bench.reload() == {"a": "replaced", "a-random": "replaced"}
    bench.folder.weights("a", 8)
    bench.device.full_for = "a-random"
    assert await bench.reload() == {"a": "failed", "a-random": "failed"}
    bench.device.full_for = ""
    assert await bench.reload(A) == {"a": "replaced", "a-random": "removed"}
    assert bench.registry.get("a").random_twin == ""


async def test_a_model_may_take_the_name_of_a_twin_that_goes(bench: Bench) -> None:
    await bench.start(entry("a", random_twin=True))
    named_so = entry("a-random")
    bench.folder.weights("a-random", 5)
    assert await bench.reload(named_so, A) == {"a-random": "replaced", "a": "replaced"}
    assert bench.registry.get("a-random").random_twin == ""
    assert bench.registry.names() == ("a-random", "a")


async def test_a_name_that_a_twin_has_to_keep_is_not_taken(bench: Bench) -> None:
    await bench.start(entry("a", random_twin=True))
    bench.folder.weights("a-random", 5)
    broken = entry("a", checkpoint="gone.safetensors")
    before = bench.fingerprints()
    assert await bench.reload(broken, entry("a-random")) == {"a": "failed", "a-random": "failed"}
    assert bench.fingerprints() == before
    told = {change.model: change.error for change in bench.told}
    assert "still served as the random twin of a" in str(told["a-random"])


async def test_a_model_may_take_the_name_of_the_twin_of_one_that_goes(bench: Bench) -> None:
    await bench.start(entry("a", random_twin=True))
    bench.folder.weights("a-random", 5)
    assert await bench.reload(entry("a-random")) == {"a-random": "replaced", "a": "removed"}
    assert bench.registry.names() == ("a-random",)


async def test_a_server_is_not_left_without_any_model(bench: Bench) -> None:
    await bench.start(A)
    gone = entry("b", checkpoint="gone.safetensors")
    assert await bench.reload(gone) == {"b": "failed", "a": "failed"}
    assert bench.registry.names() == ("a",)
    bench.folder.weights("b", 1)
    assert await bench.reload(B) == {"b": "added", "a": "removed"}


async def test_reloads_wait_for_each_other_and_those_that_wait_are_one(bench: Bench) -> None:
    await bench.start(A)
    bench.folder.weights("b", 1)
    bench.folder.weights("c", 2)
    bench.folder.declare(A, B)
    bench.device.hold = threading.Event()
    first = asyncio.create_task(bench.models.reload())
    while bench.device.added < 2:
        await asyncio.sleep(0.01)
    bench.folder.declare(A, B, entry("c"))
    later = [asyncio.create_task(bench.models.reload()) for _ in range(5)]
    await asyncio.sleep(0.1)
    assert not any(task.done() for task in (first, *later))
    assert bench.registry.names() == ("a",)
    bench.device.hold.set()
    assert kinds(await first) == {"a": "unchanged", "b": "added"}
    answers = await asyncio.gather(*later)
    assert kinds(answers[0]) == {"a": "unchanged", "b": "unchanged", "c": "added"}
    assert all(answer is answers[0] for answer in answers)


async def test_a_reload_goes_on_when_its_caller_gives_up(bench: Bench) -> None:
    await bench.start(A)
    bench.folder.weights("b", 1)
    bench.folder.declare(A, B)
    bench.device.hold = threading.Event()
    reload = asyncio.create_task(bench.models.reload())
    while bench.device.added < 2:
        await asyncio.sleep(0.01)
    reload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reload
    bench.device.hold.set()
    assert await bench.reload() == {"a": "unchanged", "b": "unchanged"}


async def test_a_server_that_stops_gives_reloads_up(bench: Bench) -> None:
    await bench.start(A)
    bench.folder.weights("b", 1)
    bench.folder.declare(A, B)
    bench.device.hold = threading.Event()
    reload = asyncio.create_task(bench.models.reload())
    while bench.device.added < 2:
        await asyncio.sleep(0.01)
    await asyncio.wait_for(bench.models.stop(), WAIT_S)
    with pytest.raises(DrainingError):
        await reload
    with pytest.raises(DrainingError):
        await bench.models.reload()
    assert bench.registry.names() == ("a",)


@pytest.mark.parametrize(
    ("fault", "message"), [("full_for", "one picture alone"), ("breaks_for", "device is broken")]
)
async def test_a_device_at_the_start_is_no_mistake_of_the_file(
    bench: Bench, fault: str, message: str
) -> None:
    setattr(bench.device, fault, "b")
    with pytest.raises(DeviceError, match=f"model 'b' cannot run: .*{message}"):
        await bench.start(A, B)


async def test_a_first_model_that_cannot_be_loaded_is_told(bench: Bench) -> None:
    with pytest.raises(ConfigurationError, match="model 'b': gone"):
        await bench.start(A, entry("b", checkpoint="gone.safetensors"))
