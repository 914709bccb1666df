"""Seeing functions and modules of a pass at once."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

if TYPE_CHECKING:
    from typing_extensions import Self


class HookedMode(TorchFunctionMode):
    """A function mode with hooks on modules, none of which outlives it, failed or not."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()

    def hooks(self) -> Iterable[RemovableHandle]:
        """Register the hooks; each handle is kept as soon as it is given out."""
        return ()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for handle in self.hooks():
                stack.callback(handle.remove)
            super().__enter__()  # type: ignore[no-untyped-call]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()
        super().__exit__(*error)  # type: ignore[no-untyped-call]
