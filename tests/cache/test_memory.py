import torch

from pairlens_server.cache.memory import ActivationCache


def kib(value: float) -> torch.Tensor:
    return torch.full((256,), float(value))


def test_a_value_comes_back():
    cache = ActivationCache(10_000)
    cache.put({"a": kib(1)})
    assert torch.equal(cache.get("a"), kib(1))
    assert cache.get("b") is None


def test_the_least_recently_used_goes_first_and_bytes_stay_bounded():
    cache = ActivationCache(3 * 1024)
    cache.put({"a": kib(1), "b": kib(2), "c": kib(3)})
    assert cache.get("a") is not None
    cache.put({"d": kib(4)})
    assert cache.get("b") is None
    assert [cache.get(k) is not None for k in "acd"] == [True, True, True]
    assert cache.nbytes == 3 * 1024


def test_overwriting_counts_once():
    cache = ActivationCache(4 * 1024)
    cache.put({"a": kib(1)})
    cache.put({"a": kib(2)})
    assert cache.nbytes == 1024
    assert len(cache) == 1
    assert torch.equal(cache.get("a"), kib(2))


def test_a_value_over_the_bound_is_not_kept_and_evicts_nothing():
    cache = ActivationCache(2 * 1024)
    cache.put({"a": kib(1)})
    cache.put({"big": torch.zeros(4096)})
    assert cache.get("big") is None
    assert cache.get("a") is not None


def test_zero_bytes_keep_nothing():
    cache = ActivationCache(0)
    cache.put({"a": kib(1)})
    assert cache.get("a") is None
    assert cache.nbytes == 0
