import hashlib
import threading
import tracemalloc

import pytest

from pairlens._known_images import MAX_KNOWN, Claims, KnownImages, Standing


def sha256(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def test_the_longest_unused_are_forgotten_first():
    known = KnownImages(most=3)
    known.note([sha256(0), sha256(1), sha256(2)], Standing.HELD)
    assert known.get(sha256(0)) is Standing.HELD  # used
    known.note([sha256(3)], Standing.HELD)
    assert known.held(map(sha256, range(4))) == {sha256(0), sha256(2), sha256(3)}
    assert known.get(sha256(1)) is None
    known.forget([sha256(2), sha256(9)])
    assert known.held(map(sha256, range(4))) == {sha256(0), sha256(3)}


def test_that_a_picture_was_sent_takes_nothing_back():
    known = KnownImages()
    known.note([sha256(0)], Standing.SENT)
    assert known.get(sha256(0)) is Standing.SENT
    known.note([sha256(0)], Standing.HELD)
    known.note([sha256(0)], Standing.SENT)
    assert known.get(sha256(0)) is Standing.HELD


def test_memory_is_bounded():
    known = KnownImages()
    known.note(map(sha256, range(1000)), Standing.HELD)
    tracemalloc.start()
    try:
        known.note(map(sha256, range(1000, MAX_KNOWN)), Standing.HELD)
        full, _ = tracemalloc.get_traced_memory()
        known.note(map(sha256, range(MAX_KNOWN, MAX_KNOWN + 20_000)), Standing.HELD)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(known) == MAX_KNOWN
    assert full < 400 * MAX_KNOWN
    assert after < full + 200 * 1000  # the first thousand were made before


def test_a_claim_is_one_calls_and_ends_with_its_block():
    claims = Claims()
    with claims.taken(["a", "b"]) as (mine, others):
        assert (mine, others) == ({"a", "b"}, [])
        with claims.taken(["b", "c"]) as (second, waits):
            assert second == {"c"}
            (other,) = waits
            assert not other.done()
    assert other.done()
    with claims.taken(["a", "b", "c"]) as (mine, others):
        assert (mine, others) == ({"a", "b", "c"}, [])


def test_a_claim_ends_with_an_error():
    claims = Claims()
    with pytest.raises(KeyError), claims.taken(["a"]):
        raise KeyError
    with claims.taken(["a"]) as (mine, _):
        assert mine == {"a"}


def test_threads_claim_each_picture_once():
    claims, taken, lock = Claims(), [], threading.Lock()
    barrier = threading.Barrier(16)

    def work() -> None:
        barrier.wait()
        with claims.taken(["a", "b", "c"]) as (mine, _):
            with lock:
                taken.extend(mine)
            barrier.wait()

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == ["a", "b", "c"]
