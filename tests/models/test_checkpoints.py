"""What a checkpoint file may hold; hostile and broken files do not load."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pairlens_server.errors import ConfigurationError
from pairlens_server.models.checkpoints import read_checkpoint

from .conftest import source

Write = Callable[[str, Any], Path]


class Bomb:
    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.target}'",)


@pytest.mark.parametrize("legacy", [False, True])
def test_hostile_pickle_is_refused_and_does_not_run(tmp_path: Path, legacy: bool) -> None:
    target, path = tmp_path / "owned", tmp_path / "w.pth"
    content = {"state_dict": {"w": torch.ones(1)}, "args": Bomb(target)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ConfigurationError, match=r"w\.pth: .*not loaded.*system"):
        read_checkpoint(path)
    assert not target.exists()
    torch.load(path, weights_only=False)
    assert target.exists()  # else the bomb was a dud


def _tar(bomb: bytes) -> bytes:
    """As torch wrote before 0.1.10."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("storages", "tensors", "pickle", "sys_info"):
            entry = tarfile.TarInfo(name)
            entry.size = len(bomb)
            archive.addfile(entry, io.BytesIO(bomb))
    return file.getvalue()


def _legacy_header(bomb: bytes) -> bytes:
    numbers = (torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION)
    return b"".join(pickle.dumps(number, 2) for number in numbers) + bomb


@pytest.mark.parametrize("make", [_tar, _legacy_header, bytes])
@pytest.mark.filterwarnings("ignore")
def test_no_other_form_of_a_pickle_runs(tmp_path: Path, make: Callable[[bytes], bytes]) -> None:
    target, path = tmp_path / "owned", tmp_path / "w.pth"
    path.write_bytes(make(pickle.dumps(Bomb(target), 2)))
    with pytest.raises(ConfigurationError, match=r"^w\.pth: broken"):
        read_checkpoint(path)
    assert not target.exists()
    # Where it runs, it is broken all the same.
    with suppress(Exception):
        torch.load(path, weights_only=False)
    assert target.exists()


@pytest.mark.parametrize(
    "change", [Tensor.to_sparse, lambda value: value.to("meta")], ids=["sparse", "meta"]
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_none_of_a_network(
    write: Write, change: Callable[[Tensor], Tensor]
) -> None:
    path = write("w.pth", {"a": torch.ones(2), "b": change(torch.ones(2))})
    with pytest.raises(ConfigurationError, match=r"^w\.pth: 'b' is a sparse or quantized tensor"):
        read_checkpoint(path)


def test_namespace_holding_a_bomb_is_refused(tmp_path: Path) -> None:
    target, path = tmp_path / "owned", tmp_path / "w.pth"
    torch.save({"model": {}, "args": argparse.Namespace(x=Bomb(target))}, path)
    with pytest.raises(ConfigurationError):
        read_checkpoint(path)
    assert not target.exists()


def test_numpy_scalars_are_refused(write: Write) -> None:
    path = write("w.pth", {"model": {"w": torch.ones(1)}, "metric": np.float64(1)})
    with pytest.raises(ConfigurationError, match="numpy"):
        read_checkpoint(path)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("keep", [0, 7, 0.5, 0.99])
def test_truncated_file(write: Write, name: str, keep: float) -> None:
    path = write(name, source("vit").state_dict())
    content = path.read_bytes()
    path.write_bytes(content[: int(keep if keep > 1 else keep * len(content))])
    with pytest.raises(ConfigurationError, match=f"^{name}: broken"):
        read_checkpoint(path)


def test_other_files(tmp_path: Path, write: Write) -> None:
    with pytest.raises(ConfigurationError, match=r"^absent\.pth: no such file"):
        read_checkpoint(tmp_path / "absent.pth")
    (tmp_path / "w.npz").write_bytes(b"x")
    with pytest.raises(ConfigurationError, match=r"^w\.npz: not a checkpoint format"):
        read_checkpoint(tmp_path / "w.npz")
    with pytest.raises(ConfigurationError, match="safetensors file has no entries"):
        read_checkpoint(write("w.safetensors", {"w": torch.ones(1)}), "teacher")


def test_a_file_that_may_not_be_looked_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="File name too long"):
        read_checkpoint(tmp_path / f"{'a' * 300}.pth")


@pytest.mark.parametrize(
    ("content", "key", "message"),
    [
        ({}, None, "holds no tensors"),
        ({"state_dict": {}}, None, "holds no tensors"),
        ([torch.ones(1)], None, "no weights recognised among a list"),
        (torch.ones(1), None, "no weights recognised among a Tensor"),
        ({"net": {"w": torch.ones(1)}}, None, "among 'net'; name their entry"),
        ({"state_dict": {"w": "text"}}, None, "no weights recognised among 'w'"),
        ({"model": {"w": torch.ones(1)}}, "teacher", "no entry 'teacher'; it has 'model'"),
        ({"a": {"model": {"model": {"model": {"model": {}}}}}}, "a", "nested too deeply"),
    ],
)
def test_no_weights(write: Write, content: Any, key: str | None, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read_checkpoint(write("w.pth", content), key)


def test_checkpoint_key_reaches_any_entry(write: Write) -> None:
    path = write("w.pth", {"net": {"state_dict": {"w": torch.ones(1)}}, "model": {}})
    assert list(read_checkpoint(path, "net")) == ["w"]
