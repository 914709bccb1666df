"""What a model did, and whether two answers are the same."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import nn

from pairlens_server.images.sources import ImageDigest
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.service import commands
from tests.service.conftest import png

BOOKS = ("timings", "model")
"""Fields of an outcome that are not its answer."""


class Seen:
    """Pictures that models have seen since the beginning of a block."""

    def __init__(self) -> None:
        self.pictures = 0


@contextmanager
def watch(*models: LoadedModel) -> Iterator[Seen]:
    """Count pictures in all forward passes: what goes through the first convolution."""
    seen = Seen()

    def count(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.pictures += len(inputs[0])

    firsts = [next(m for m in x.network.modules() if isinstance(m, nn.Conv2d)) for x in models]
    handles = [first.register_forward_pre_hook(count) for first in firsts]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def digest(file: bytes) -> ImageDigest:
    """What a file is known by."""
    return ImageDigest(hashlib.sha256(file).hexdigest(), len(file))


def assert_same(one: Any, other: Any, path: str = "") -> None:
    """Two answers are equal, bit for bit; books apart."""
    assert type(one) is type(other), path
    if dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            if field.name not in BOOKS:
                name = f"{path}.{field.name}"
                assert_same(getattr(one, field.name), getattr(other, field.name), name)
    elif isinstance(one, tuple):
        assert len(one) == len(other), path
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{path}[{index}]")
    elif isinstance(one, np.ndarray):
        assert (one.dtype, one.shape) == (other.dtype, other.shape), path
        assert one.tobytes() == other.tobytes(), path
    else:
        assert one == other or (one != one and other != other), f"{path}: {one} and {other}"


async def explain(bench, model, *arguments, picture=None, **options) -> commands.ExplainOutcome:
    """Explain a picture; `arguments` are method and target."""
    source = png(0) if picture is None else picture
    return await bench.use_cases.explain(
        commands.ExplainCommand(model, source, *arguments, **options)
    )
