"""The in-process tier: least recently used activations, bounded by bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor


class ActivationCache:
    """Holds tensors on the CPU up to a number of bytes; used by the event loop alone.

    Args:
        max_bytes: Sum of the tensors' sizes that is kept; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int):
        self._max_bytes = max_bytes
        self._entries: OrderedDict[str, Tensor] = OrderedDict()
        self._bytes = 0

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> Tensor | None:
        """The tensor under a key, now the most recently used, or None."""
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def put(self, values: Mapping[str, Tensor]) -> None:
        """Keep tensors, dropping the least recently used; one over the bound is not kept."""
        for key, value in values.items():
            self._drop(key)
            if value.nbytes > self._max_bytes:
                continue
            self._entries[key] = value
            self._bytes += value.nbytes
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: str) -> None:
        dropped = self._entries.pop(key, None)
        if dropped is not None:
            self._bytes -= dropped.nbytes
