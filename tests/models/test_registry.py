"""Models by name, classes by label."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from dataclasses import replace

import pytest

from pairlens_server.errors import (
    ConfigurationError,
    InvalidParameterError,
    ModelNotFoundError,
)
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.models.loading import load_model
from pairlens_server.models.registry import ModelRegistry, resolve_label

from .conftest import config

LABELS = ("tench, Tinca tinca", "crane", "cock", "crane, lifting device", "crane", "maillot, crane")


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(config("vit", random_weights=True, seed=0, classes=len(LABELS)))


def test_models_keep_their_order(model: LoadedModel) -> None:
    models = [replace(model, name=name) for name in ("b", "a", "c")]
    registry = ModelRegistry(models)
    assert registry.names() == ("b", "a", "c")
    assert registry.all() == tuple(models)
    assert registry.get("a") is models[1]


def test_names_are_unique(model: LoadedModel) -> None:
    with pytest.raises(ConfigurationError, match="named m"):
        ModelRegistry([model, model])


async def ended(task: asyncio.Task[None]) -> bool:
    for _ in range(5):
        await asyncio.sleep(0)
    return task.done()


async def test_a_call_sees_the_models_of_its_beginning_to_its_end(model: LoadedModel) -> None:
    old, new, other = (replace(model, name=name) for name in ("a", "a", "b"))
    registry = ModelRegistry([old])
    with registry.call():
        registry.serve([new, other])
        assert registry.get("a") is old
        # So do the tasks and threads of the call.
        assert await asyncio.create_task(_names(registry)) == ("a",)
        assert await asyncio.to_thread(registry.all) == (old,)
    assert registry.get("a") is new
    assert registry.names() == ("a", "b")


async def _names(registry: ModelRegistry) -> tuple[str, ...]:
    return registry.names()


async def test_a_model_is_unused_once_the_calls_that_see_it_have_ended(model: LoadedModel) -> None:
    first, second, third = (replace(model, name="a") for _ in range(3))
    registry = ModelRegistry([first])
    with contextlib.ExitStack() as early:
        early.enter_context(registry.call())
        registry.serve([second])
        with contextlib.ExitStack() as late:
            late.enter_context(registry.call())
            registry.serve([third])
            # Of which there are calls, too, and which is waited for by nobody.
            with registry.call():
                waits = [asyncio.create_task(registry.unused([m])) for m in (first, second)]
                assert not await ended(waits[0])
                assert not await ended(waits[1])
                late.close()
                assert await ended(waits[1])
                assert not await ended(waits[0])
                early.close()
                assert await ended(waits[0])
    await registry.unused([first, second])


async def test_nothing_keeps_a_model_that_is_no_longer_served(model: LoadedModel) -> None:
    old = replace(model, name="a")
    gone = weakref.ref(old)
    registry = ModelRegistry([old])
    left_behind = asyncio.Event()
    with registry.call():
        # Such as a writer that goes on for all calls.
        task = asyncio.create_task(left_behind.wait())
        registry.serve([model])
    del old
    gc.collect()
    assert gone() is None
    left_behind.set()
    await task


async def test_a_task_that_outlives_its_call_sees_what_is_served(model: LoadedModel) -> None:
    old, new = (replace(model, name="a") for _ in range(2))
    registry, go_on = ModelRegistry([old]), asyncio.Event()

    async def look() -> LoadedModel:
        await go_on.wait()
        return registry.get("a")

    with registry.call():
        task = asyncio.create_task(look())
        await asyncio.sleep(0)
    registry.serve([new])
    go_on.set()
    assert await task is new


def test_unknown_model_names_near_ones(model: LoadedModel) -> None:
    registry = ModelRegistry([replace(model, name=n) for n in ("resnet50", "dino-vit")])
    with pytest.raises(ModelNotFoundError, match=r"near: resnet50$"):
        registry.get("resnet5")
    with pytest.raises(ModelNotFoundError, match=r"served: resnet50, dino-vit$") as caught:
        registry.get("z" * 10_000)
    assert len(caught.value.message) < 200
    assert caught.value.field == "model"
    with pytest.raises(ModelNotFoundError, match=r"served: none$"):
        ModelRegistry([]).get("a")


def test_unknown_model_lists_ten_of_many(model: LoadedModel) -> None:
    names = [f"{'m' * 50}-{number}" for number in range(80)]
    registry = ModelRegistry([replace(model, name=name) for name in names])
    with pytest.raises(ModelNotFoundError) as caught:
        registry.get("z" * 20_000)
    message = caught.value.message
    assert message.endswith(f"served: {', '.join(names[:10])}, … and 70 more")
    assert len(message) < 1000
    ten = ModelRegistry([replace(model, name=name) for name in names[:10]])
    with pytest.raises(ModelNotFoundError, match=r"-9$"):
        ten.get("z")


@pytest.mark.parametrize(
    ("label", "index"),
    [
        ("tench, Tinca tinca", 0),
        ("tench", 0),
        ("Tinca tinca", 0),
        (" cock ", 2),
        ("crane, lifting device", 3),
        ("lifting device", 3),
    ],
)
def test_label_or_one_of_its_parts(model: LoadedModel, label: str, index: int) -> None:
    assert resolve_label(replace(model, labels=LABELS), label) == index


def test_whole_label_goes_before_a_part(model: LoadedModel) -> None:
    assert resolve_label(replace(model, labels=("crane, bird", "crane")), "crane") == 1


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("crane", "2 classes .1: crane; 4: crane."),
        ("Tench", "no class of m is labelled 'Tench'; near: tench"),
        ("", "no class of m is labelled ''"),
        ("zzzzzz", "no class of m is labelled 'zzzzzz'$"),
    ],
)
def test_no_single_class(model: LoadedModel, label: str, message: str) -> None:
    with pytest.raises(InvalidParameterError, match=message) as caught:
        resolve_label(replace(model, labels=LABELS), label)
    assert caught.value.field == "target.label"


def test_ambiguous_part_lists_the_classes(model: LoadedModel) -> None:
    with pytest.raises(InvalidParameterError, match="0: a, x; 1: b, x"):
        resolve_label(replace(model, labels=("a, x", "b, x")), "x")


def test_model_without_labels(model: LoadedModel) -> None:
    with pytest.raises(InvalidParameterError, match="has no labels"):
        resolve_label(model, "tench")
