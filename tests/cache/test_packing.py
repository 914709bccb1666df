import math

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pairlens_server.cache.packing import EXPONENTS, SMALL, Packed, Precision, pack

LARGEST = 2.0**127


def large(*values: float) -> torch.Tensor:
    """float32 of just enough values to be halved, those given first, then zeros."""
    return torch.tensor([*values] + [0.0] * (SMALL + 1 - len(values)))


def test_a_hand_checked_tensor():
    packed = pack(large(3.0, -0.75, 2.0**-20), Precision.HALF)
    # 3 = 0.75 · 2^2, so that the scale is 2^(2 - 15).
    assert packed.exponent == -13
    assert packed.data.dtype is torch.float16
    assert packed.data[:4].tolist() == [3 * 2**13, -0.75 * 2**13, 2.0**-7, 0.0]
    assert packed.nbytes == 2 * (SMALL + 1)
    assert torch.equal(packed.unpack(), large(3.0, -0.75, 2.0**-20))


@settings(max_examples=200, deadline=None)
@given(
    arrays.arrays(
        np.float32,
        16,
        elements=st.floats(-LARGEST, LARGEST, width=32, exclude_min=True, exclude_max=True),
    ),
    st.floats(0.0, 1.0),
)
def test_the_error_is_bounded_as_documented(values: np.ndarray, spread: float):
    # Drawn values span all of float32; spread brings some of them close to the largest too.
    values[8:] = (values[8:] * np.float32(2.0**-60) ** np.float32(spread)).astype(np.float32)
    tensor = large(*values.tolist())
    packed = pack(tensor, Precision.HALF)
    assert packed.data.dtype is torch.float16
    assert packed.exponent in EXPONENTS or not packed.data.any()
    exact, found = tensor.double(), packed.unpack().double()
    assert packed.unpack().dtype is torch.float32
    assert bool(torch.isfinite(found).all())
    bound = exact.abs() * 2**-11 + exact.abs().max() * 2**-39 + 2.0**-150
    assert bool(((exact - found).abs() <= bound).all())


@pytest.mark.parametrize("value", [0.0, 1.0, -7.0, 2.0**-149, -(2.0**126.999), 65520.0, 1e-30])
def test_constant_tensors_of_any_scale_keep_11_bits(value: float):
    tensor = torch.full((SMALL + 1,), value)
    found = pack(tensor, Precision.HALF).unpack()
    assert torch.allclose(found, tensor, rtol=2**-11, atol=0)


def test_random_numbers_of_any_scale_keep_their_relative_error():
    tensor = torch.randn(100, 100, generator=torch.Generator().manual_seed(1))
    for scale in (1e-35, 1e-8, 1.0, 1e6, 1e30):
        found = pack(tensor * scale, Precision.HALF).unpack()
        assert float(((found - tensor * scale) / (tensor * scale)).abs().max()) <= 2**-11


@pytest.mark.parametrize(
    "tensor",
    [torch.randn(SMALL), torch.randn(()), torch.empty(0), torch.arange(9000)],
    ids=["small", "scalar", "empty", "int64"],
)
def test_small_tensors_and_integers_stay_as_they_are(tensor: torch.Tensor):
    packed = pack(tensor, Precision.HALF)
    assert packed.data.dtype is tensor.dtype
    assert packed.exponent == 0
    assert torch.equal(packed.unpack(), tensor)


@pytest.mark.parametrize(
    ("precision", "exact"), [(Precision.FLOAT32, False), (Precision.HALF, True)]
)
def test_float32_is_kept_where_asked_for(precision: Precision, exact: bool):
    tensor = torch.randn(100, 100)
    assert torch.equal(pack(tensor, precision, exact=exact).unpack(), tensor)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan, 2.0**127, -(2.0**127.999)])
def test_what_half_precision_cannot_hold_stays_float32(bad: float):
    packed = pack(large(1.0, bad), Precision.HALF)
    assert packed.data.dtype is torch.float32
    assert torch.equal(packed.unpack().nan_to_num(5.0), large(1.0, bad).nan_to_num(5.0))


@pytest.mark.parametrize("precision", list(Precision))
def test_a_slice_of_a_batch_does_not_keep_the_batch(precision: Precision):
    for batch in (torch.randn(64, 5000), torch.randn(64, 3), torch.randn(5000, 64).T):
        packed = pack(batch[3], precision)
        assert packed.data.untyped_storage().nbytes() == packed.nbytes
        assert packed.data.is_contiguous()
        assert torch.allclose(packed.unpack(), batch[3], rtol=2**-11, atol=1e-9)


def test_a_tensor_with_a_graph_is_kept_without():
    packed = pack(torch.randn(100, 100, requires_grad=True), Precision.HALF)
    assert not packed.unpack().requires_grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int32, torch.bool])
def test_other_dtypes_are_refused(dtype: torch.dtype):
    with pytest.raises(TypeError, match="float32 or int64"):
        pack(torch.ones(3, dtype=dtype), Precision.HALF)


def test_unpacking_never_changes_what_is_kept():
    packed = Packed(torch.full((10,), 2.0, dtype=torch.float16), -1)
    packed.unpack().zero_()
    assert torch.equal(packed.unpack(), torch.ones(10))
