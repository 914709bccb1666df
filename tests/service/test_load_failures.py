"""Whose fault it is that a model could not be loaded; `test_model_reload.py` has what is told."""

from __future__ import annotations

import pytest

from pairlens_server.errors import ConfigurationError, NotReadyError, OutOfMemoryError
from pairlens_server.service.load_failures import is_of_the_device


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] can't allocate memory"), True),
        (MemoryError(), True),
        (OutOfMemoryError("one picture alone does not fit on the device"), True),
        (NotReadyError("the device is broken"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (FileNotFoundError("a.safetensors"), False),
        (None, False),
    ],
)
def test_the_device_and_its_memory_may_do_better_another_time(
    cause: Exception | None, expected: bool
) -> None:
    error = ConfigurationError("model 'a' cannot run")
    error.__cause__ = cause
    assert is_of_the_device(error) is expected
    if cause is not None:
        assert is_of_the_device(cause) is expected
