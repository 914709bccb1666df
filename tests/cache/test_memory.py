import gc
from pathlib import Path

import pytest
import torch

from pairlens_server.cache.keys import image_key, model_prefix, picture_key
from pairlens_server.cache.memory import ENTRY_BYTES, MemoryTier, entry_bytes
from pairlens_server.cache.packing import Packed, Precision, pack
from pairlens_server.cache.stats import CacheKind

KIB = 1024 + ENTRY_BYTES


def kib(value: float) -> Packed:
    return Packed(torch.full((256,), float(value)))


def key(name: str) -> str:
    return f"{model_prefix('ff')}{name}"


def test_a_value_comes_back():
    tier = MemoryTier(10_000)
    tier.put({key("a"): kib(1), image_key("a"): b"file"})
    found = tier.get(key("a"))
    assert isinstance(found, Packed)
    assert torch.equal(found.unpack(), kib(1).unpack())
    assert tier.get(image_key("a")) == b"file"
    assert tier.get(key("b")) is None


def test_the_least_recently_used_goes_first_and_bytes_stay_bounded():
    tier = MemoryTier(3 * KIB)
    tier.put({key(n): kib(1) for n in "abc"})
    assert tier.get(key("a")) is not None
    tier.put({key("d"): kib(4)})
    assert [key(n) in tier for n in "abcd"] == [True, False, True, True]
    assert tier.nbytes == 3 * KIB
    assert len(tier) == 3


def test_asking_whether_a_value_is_there_does_not_use_it_but_touching_does():
    tier = MemoryTier(2 * KIB)
    tier.put({key("a"): kib(1), key("b"): kib(2)})
    assert key("a") in tier
    tier.put({key("c"): kib(3)})
    assert [key(n) in tier for n in "abc"] == [False, True, True]
    assert tier.touch(key("b")) is not None
    tier.put({key("d"): kib(4)})
    assert [key(n) in tier for n in "bcd"] == [True, False, True]
    assert tier.stats()[CacheKind.ACTIVATION].hits == 0


def test_overwriting_counts_once():
    tier = MemoryTier(10 * KIB)
    tier.put({key("a"): kib(1)})
    tier.put({key("a"): kib(2)})
    assert tier.nbytes == KIB
    assert len(tier) == 1
    assert torch.equal(tier.get(key("a")).unpack(), kib(2).unpack())


def test_a_value_over_the_bound_is_not_kept_and_evicts_nothing():
    tier = MemoryTier(2 * KIB)
    tier.put({key("a"): kib(1)})
    tier.put({key("big"): Packed(torch.zeros(4096))})
    assert key("big") not in tier
    assert key("a") in tier
    assert tier.stats()[CacheKind.ACTIVATION].dropped == 1


def test_a_value_too_large_takes_the_place_of_none_but_the_old_one_goes():
    tier = MemoryTier(2 * KIB)
    tier.put({key("a"): kib(1)})
    tier.put({key("a"): Packed(torch.zeros(4096))})
    assert key("a") not in tier
    assert tier.nbytes == 0


def test_the_largest_value_is_kept_and_a_byte_more_is_not():
    tier = MemoryTier(5000)
    tier.put({image_key("a"): bytes(tier.largest_value)})
    assert tier.nbytes == 5000
    tier.put({image_key("b"): bytes(tier.largest_value + 1)})
    assert image_key("b") not in tier


@pytest.mark.parametrize("max_bytes", [0, ENTRY_BYTES - 1])
def test_no_room_keeps_nothing(max_bytes: int):
    tier = MemoryTier(max_bytes)
    tier.put({key("a"): kib(1), image_key("a"): b""})
    assert tier.get(key("a")) is None
    assert (len(tier), tier.nbytes, tier.largest_value) == (0, 0, 0)


def test_what_begins_with_a_prefix_is_cleared():
    tier = MemoryTier(10**6)
    tier.put({f"{model_prefix('ab')}{n}": kib(n) for n in range(3)})
    tier.put({f"{model_prefix('abc')}0": kib(1), image_key("ab"): b"1"})
    assert tier.clear(model_prefix("ab")) == 3
    assert tier.clear(model_prefix("ab")) == 0
    assert len(tier) == 2
    assert tier.nbytes == KIB + ENTRY_BYTES + 1
    assert tier.clear() == 2
    assert tier.nbytes == 0


def test_each_kind_is_counted():
    tier = MemoryTier(2 * KIB)
    tier.put({key("a"): kib(1), picture_key("a"): b"12"})
    assert tier.get(key("a"))
    assert tier.get(picture_key("a"))
    assert tier.get(picture_key("a"))
    assert tier.get(key("b")) is None
    tier.put({key("b"): kib(2)})  # drops the least recently used: activation a
    activations, images = (tier.stats()[kind] for kind in CacheKind)
    assert (activations.hits, activations.misses, activations.stored) == (1, 1, 2)
    assert (activations.evicted, activations.entries, activations.bytes) == (1, 1, KIB)
    assert (images.hits, images.misses, images.stored, images.evicted) == (2, 0, 1, 0)
    assert (images.entries, images.bytes, images.max_bytes) == (1, ENTRY_BYTES + 2, 2 * KIB)


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_the_bound_is_honest_for_tiny_values():
    tier = MemoryTier(20_000 * (ENTRY_BYTES + 16))
    before = resident_bytes()
    for n in range(40_000):
        size = torch.tensor([n, n])
        tier.put({f"{model_prefix('f' * 64)}{n:064}": pack(size, Precision.HALF)})
    assert len(tier) == 20_000
    assert resident_bytes() - before < 1.1 * tier.max_bytes
    assert entry_bytes(pack(torch.tensor([1, 2]), Precision.HALF)) == ENTRY_BYTES + 16
