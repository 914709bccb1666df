"""A folder with a models file and checkpoints, to be changed while a server serves them."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save_file

from pairlens_server.models.config import ModelConfig
from pairlens_server.models.loading import load_model
from tests.server_process import MODELS

_FIELDS: dict[str, Any] = {
    "architecture": "vit_tiny_patch16_224",
    "architecture_options": {"embed_dim": 16, "depth": 3, "num_heads": 2, "patch_size": 8},
    "preprocessing": {"size": [32, 48], "resize": "stretch"},
    "classes": 5,
    "device": "cpu",
}


def entry(name: str, **fields: Any) -> dict[str, Any]:
    """An entry of the models file, of a small ViT with a checkpoint of the same name."""
    return {"name": name, "checkpoint": f"{name}.safetensors", **_FIELDS, **fields}


def random_entry(name: str) -> dict[str, Any]:
    """One of the models of `tests.server_process`, which has no files."""
    (model,) = (model for model in MODELS if model["name"] == name)
    return model


class HostilePickle:
    """Runs a command when it is unpickled by whoever runs what is in a pickle."""

    def __init__(self, command: str):
        self._command = command

    def __reduce__(self) -> Any:
        return os.system, (self._command,)


class Folder:
    """What a server loads its models from.

    Args:
        path: An empty folder.
    """

    def __init__(self, path: Path):
        self.path = path
        self.file = path / "models.yaml"

    def declare(self, *entries: dict[str, Any]) -> None:
        """Write the models file, as one that takes the old one's place."""
        new = self.path / "new.yaml"
        new.write_text(yaml.safe_dump({"models": list(entries)}), encoding="utf-8")
        new.replace(self.file)

    def weights(self, name: str, seed: int) -> None:
        """Write a checkpoint for `entry(name)`, as one that takes the old one's place."""
        config = ModelConfig(name=name, random_weights=True, seed=seed, **_FIELDS)
        new = self.path / f"new-{name}.safetensors"
        save_file(load_model(config).network.state_dict(), new)
        new.replace(self.path / f"{name}.safetensors")

    def hostile(self, name: str) -> Path:
        """Write a checkpoint that would make a file if it were trusted; returns that file."""
        proof = self.path / "it-ran"
        weights = pickle.dumps({"state_dict": HostilePickle(f"touch {proof}")}, protocol=2)
        (self.path / name).write_bytes(weights)
        return proof
