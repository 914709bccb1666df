"""What `explain_many` and `pair_many` of both clients answer."""

import contextvars
import gc
import os
import weakref
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from PIL import Image

from pairlens import (
    AsyncClient,
    Client,
    EncodedImage,
    ItemFailure,
    ItemResult,
    PairFailure,
    StoredImage,
    errors,
)
from tests.client.many import WIDTHS, Kind, pictures, width
from tests.client.scripted import Running, Scripted, fails, png
from tests.client.uploading import EXPLAIN, PAIR


@pytest.mark.parametrize("ordered", [False, True])
def test_every_picture_is_answered_once(kind: Kind, service: Scripted, ordered: bool):
    items = kind.items("explain_many", pictures(), concurrency=5, ordered=ordered, model="vit")
    if not ordered:
        items.sort(key=lambda item: item.index)
    assert [item.index for item in items] == list(range(40))
    assert [width(item) for item in items] == list(WIDTHS)
    assert len(service.requests(EXPLAIN)) == 40


def test_arguments_are_those_of_explain(kind: Kind, service: Scripted):
    how = {"method": "grad_cam", "target": "goldfish", "rule": "libra", "cache": "refresh"}
    (item,) = kind.items("explain_many", [png()], **how)
    with Client(kind.target) as client:
        single = client.explain(png(), **how)
    first, second = service.requests(EXPLAIN)
    first.image.Clear()
    second.image.Clear()  # inline the first time, a hash the second
    assert first == second
    assert (item.result.target, item.result.method) == (single.target, single.method)


def test_names(kind: Kind, tmp_path: Path, pictures):
    given = [
        tmp_path / "cat.png",
        str(tmp_path / "photos" / "cat.png"),
        png(),
        Image.open(tmp_path / "dog.png"),
        EncodedImage(png(), "eve"),
        StoredImage("0" * 64, 7, "far"),
        tmp_path / "none.png",
        None,
        next(entry for entry in os.scandir(os.fsencode(tmp_path)) if entry.name == b"cat.png"),
    ]
    items = kind.items("explain_many", given, ordered=True)
    assert isinstance(items[-1], ItemResult)
    assert [item.name for item in items] == [
        *map(str, given[:2]),
        "",
        str(tmp_path / "dog.png"),
        "eve",
        "far",
        str(tmp_path / "none.png"),
        "",
        str(tmp_path / "cat.png"),
    ]


def test_failures_stand_in_their_place(kind: Kind, tmp_path: Path):
    given = [png(), b"broken", tmp_path / "none.png", b"", None, "a\0b", 1.5, png(9)]
    items = kind.items("explain_many", given, ordered=True, model="vit")
    assert [type(item) for item in items] == [ItemResult, *[ItemFailure] * 6, ItemResult]
    assert [item.index for item in items] == list(range(8))
    assert [type(item.error) for item in items[1:7]] == [
        errors.ImageUndecodableError,
        errors.ImageFileError,
        errors.InvalidParameterError,
        errors.InvalidParameterError,
        errors.ImageFileError,
        errors.InvalidParameterError,
    ]
    assert "none.png" in items[2].error.message
    assert "image is a path, the bytes of" in items[4].error.message


def test_failures_hold_no_pictures(kind: Kind):
    pictures: list[weakref.ref[EncodedImage]] = []

    def inputs() -> Iterator[EncodedImage]:
        for number in range(6):
            picture = EncodedImage(b"broken" * number)  # the first fails here, the others there
            pictures.append(weakref.ref(picture))
            yield picture

    items = kind.items("explain_many", inputs(), concurrency=2, model="vit")
    assert [type(item) for item in items] == [ItemFailure] * 6
    gc.collect()
    assert [picture() for picture in pictures] == [None] * 6


def test_a_server_that_fails_fails_items_alone(kind: Kind, service: Scripted):
    service.script.extend([fails("INTERNAL", "a bug", request_id="r-7"), *[lambda _: None] * 3])
    items = kind.items("explain_many", pictures()[:4], concurrency=1, model="vit")
    assert [type(item) for item in items] == [ItemFailure, *[ItemResult] * 3]
    assert (items[0].error.reason, items[0].error.request_id) == ("INTERNAL", "r-7")


def test_a_full_queue_is_tried_again(kind: Kind, service: Scripted):
    service.script.extend([fails("QUEUE_FULL", retry_after=0.05)] * 6)
    items = kind.items("explain_many", pictures()[:6], concurrency=3, model="vit")
    assert [type(item) for item in items] == [ItemResult] * 6
    assert len(service.requests(EXPLAIN)) == 12


def test_pairs(kind: Kind, service: Scripted, tmp_path: Path, pictures):
    cat, dog = tmp_path / "cat.png", tmp_path / "dog.png"
    given = [(cat, dog), (cat, [dog]), [cat, [dog, b"broken"]], (cat, []), (cat,), "ab", (cat, 1)]
    items = kind.items("pair_many", given, ordered=True, concurrency=2, match_matrix=True)
    assert [item.name for item in items] == [
        f"{cat}, {dog}",
        f"{cat}, {dog}",
        f"{cat}, 2 candidates",
        f"{cat}, 0 candidates",
        "",
        "",
        str(cat),
    ]
    assert [len(item.result) for item in items[:3]] == [1, 1, 2]
    assert isinstance(items[2].result[1], PairFailure)
    assert items[0].result[0].match_matrix.shape == (6, 6)
    failures = [item.error for item in items[3:]]
    assert [type(error) for error in failures] == [errors.InvalidParameterError] * 4
    assert "at least one candidate" in failures[0].message
    assert "a pair is (query, candidate)" in failures[1].message
    assert len(service.requests(PAIR)) == 3


def test_what_the_inputs_raise_ends_the_iteration(kind: Kind, service: Scripted):
    def inputs() -> Iterator[bytes]:
        yield png()
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        kind.items("explain_many", inputs(), model="vit")


def test_no_inputs(kind: Kind, service: Scripted):
    assert kind.items("explain_many", []) == []
    assert kind.items("pair_many", iter(())) == []
    assert not service.calls


@pytest.mark.parametrize(
    ("inputs", "arguments", "message"),
    [
        ("cat.png", {}, "images is an iterable of images, not one str"),
        (b"bytes", {}, "not one bytes"),
        (Path("cat.png"), {}, "not one .*Path"),
        (7, {}, "not one int"),
        ([], {"concurrency": 0}, "concurrency is from 1 to 1024, not 0"),
        ([], {"concurrency": 1.5}, "concurrency is from 1 to 1024"),
        ([], {"timeout": -1}, "timeout is a positive number"),
        ([], {"cache": "never"}, "cache is one of"),
        ([], {"method": "rollin"}, "unknown method 'rollin'"),
        ([], {"method": "rollout", "head": 1}, "unknown parameter 'head'"),
        ([], {"target": -1}, "target is a class index"),
    ],
)
def test_mistakes_are_said_at_once(kind: Kind, service: Scripted, inputs, arguments, message):
    client = Client(kind.target) if not kind.asynchronous else AsyncClient(kind.target)
    with pytest.raises(errors.InvalidParameterError, match=message):
        client.explain_many(inputs, **arguments)
    assert not service.calls


def test_mistakes_of_pairs(kind: Kind):
    with pytest.raises(errors.InvalidParameterError, match="unknown parameter 'head'"):
        kind.items("pair_many", [], method="affinity", head=1)
    with pytest.raises(errors.InvalidParameterError, match="pairs is an iterable of pairs"):
        kind.items("pair_many", "cat.png")


def test_asynchronous_inputs_are_for_tasks(server: Running):
    async def inputs() -> AsyncIterator[bytes]:
        yield png()

    refused = pytest.raises(errors.InvalidParameterError, match="are for AsyncClient")
    with Client(server.target) as client, refused:
        client.explain_many(inputs())


def test_the_callers_context_goes_along(server: Running):
    caller: contextvars.ContextVar[str] = contextvars.ContextVar("caller", default="nobody-at-all")
    caller.set("the-caller")
    kinds = [Kind(which, server.target, token=caller.get) for which in (False, True)]
    for kind in kinds:
        kind.items("explain_many", pictures()[:5], concurrency=2, model="vit")
    sent = {metadata["authorization"] for metadata in server.service.metadata}
    assert sent == {"Bearer the-caller"}
