"""Models files with a model whose checkpoint would run something if it were unpickled."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from tests.server_process import MODELS


def tiny(name: str, **fields: Any) -> dict[str, Any]:
    (model,) = (model for model in MODELS if model["name"] == "tiny-vit-cls")
    return {**model, "name": name, **fields}


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.target}'",)


def hostile(folder: Path, suffix: str) -> tuple[Path, Path]:
    """A checkpoint that touches a file when it is unpickled, and that file."""
    target, path = folder / f"owned{suffix}", folder / f"hostile{suffix}"
    state = {"w": torch.ones(1), "args": Bomb(target)}
    torch.save(state, path, _use_new_zipfile_serialization=suffix != ".pt")
    return path, target
