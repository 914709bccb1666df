"""Uploads of many threads, and within a deadline."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pairlens import Client, errors
from tests.client.scripted import ImageStore, Scripted, fails
from tests.client.uploading import (
    UPLOAD,
    kinds,
    large,
)


@pytest.mark.parametrize("step", [0, 1, 2])
def test_the_deadline_is_of_everything_together(client: Client, service: Scripted, step: int):
    client.get_model("vit")
    release = threading.Event()

    def hang(_: object) -> None:
        release.wait(5)

    service.script.extend([lambda _: time.sleep(0.1)] * step + [hang])
    begun = time.monotonic()
    with pytest.raises(errors.DeadlineExceededError, match=r"within 0\.6 s"):
        client.explain(large(), model="vit", timeout=0.6)
    assert 0.5 < time.monotonic() - begun < 1.5
    release.set()
    left = service.deadlines[1 : 2 + step]  # of find, upload, call
    assert left == sorted(left, reverse=True)
    assert left[-1] <= 0.62 - 0.09 * step  # gRPC rounds up


def test_32_threads_bring_each_picture_once(client: Client, roomy: Scripted):
    pictures = [large(number) for number in range(8)]
    barrier = threading.Barrier(32)

    def explain(number: int) -> list[int]:
        barrier.wait()
        turn = pictures[number % 8 :] + pictures[: number % 8]
        results = client.pair_similarity(turn[0], turn[1:], model="cnn")
        return [match.candidate.geometry.image_width for match in results.matches]

    with ThreadPoolExecutor(32) as executor:
        widths = list(executor.map(explain, range(32)))
    for number, found in enumerate(widths):
        assert found == [110 + (number + index) % 8 for index in range(1, 8)]
    uploaded = [len(upload.data) for call in roomy.requests(UPLOAD) for upload in call.images]
    assert sorted(uploaded) == sorted(map(len, pictures))
    assert kinds(roomy).count("call") == 32


def test_threads_survive_a_store_that_loses_everything(client: Client, roomy: Scripted):
    pictures = [large(number) for number in range(6)]
    stop = threading.Event()

    def lose() -> None:
        while not stop.wait(0.01):
            roomy.images.evict()

    def explain(number: int) -> int:
        return client.explain(pictures[number % 6], model="vit").geometry.image_width

    loser = threading.Thread(target=lose)
    loser.start()
    try:
        with ThreadPoolExecutor(16) as executor:
            widths = list(executor.map(explain, range(200)))
    finally:
        stop.set()
        loser.join()
    assert widths == [110 + number % 6 for number in range(200)]


def test_a_thread_whose_upload_fails_leaves_it_to_the_others(client: Client, roomy: Scripted):
    client.get_model("vit")
    asked = threading.Event()

    def fail_slowly(context: object) -> None:
        asked.set()
        time.sleep(0.2)
        fails("INTERNAL", "a bug")(context)

    roomy.script.append(fail_slowly)
    with ThreadPoolExecutor(2) as executor:
        first = executor.submit(client.explain, large(), model="vit")
        assert asked.wait(5)
        second = executor.submit(client.explain, large(), model="vit")
        with pytest.raises(errors.InternalError):
            first.result()
        assert second.result().geometry.image_width == 110
    assert kinds(roomy) == ["find", "find", "upload", "call"]


def test_a_thread_waits_for_anothers_upload_no_longer_than_its_deadline(
    client: Client, roomy: Scripted
):
    client.get_model("vit")
    asked, release = threading.Event(), threading.Event()

    def hang(_: object) -> None:
        asked.set()
        release.wait(5)

    roomy.script.append(hang)
    with ThreadPoolExecutor(1) as executor:
        first = executor.submit(client.explain, large(), model="vit")
        assert asked.wait(5)
        with pytest.raises(errors.DeadlineExceededError, match=r"within 0\.2 s"):
            client.explain(large(), model="vit", timeout=0.2)
        release.set()
        assert first.result().geometry.image_width == 110


def test_stores_are_told_apart_by_content(client: Client, service: Scripted):
    store = ImageStore()
    assert store.put(large()) != store.put(large(1))
    assert len(store) == 2
