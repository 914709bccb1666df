"""Weights out of a file, without running anything that the file may hold.

`.safetensors` holds nothing but tensors. The other formats are pickles and are read by
torch's restricted unpickler only; there is no fall-back to the open one.
"""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from pairlens_server.errors import ConfigurationError

_logger = logging.getLogger(__name__)

_PICKLES = (".pth", ".pt", ".pth.tar", ".bin")
# Where trainers keep the weights, best first: MoCo and timm, DeiT, SLIP and detectors; then
# DINO and iBOT, whose teacher is the network that their papers evaluate.
_CONTAINERS = (
    "state_dict",
    "model",
    "model_state",
    "teacher",
    "student",
    "model_ema",
    "state_dict_ema",
)
_MAX_NESTING = 4  # a pickled dict may hold itself
_REFUSED_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


def read_checkpoint(path: Path, checkpoint_key: str | None = None) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint under the names that they have in it.

    Args:
        path: A `.safetensors`, `.pth`, `.pt`, `.pth.tar` or `.bin` file.
        checkpoint_key: Entry of the file that holds the weights; None has it recognised.

    Returns:
        Tensors on the CPU, at least one.

    Raises:
        ConfigurationError: The file is missing, broken, of another format, holds objects
            beyond tensors and plain values, or has no weights where they are looked for.
    """
    try:
        there = path.is_file()
    # In a folder that may not be entered, or of a name too long.
    except OSError as error:
        raise ConfigurationError(f"{path.name}: {error.strerror}") from error
    if not there:
        raise ConfigurationError(f"{path.name}: no such file")
    if path.name.endswith(".safetensors"):
        if checkpoint_key is not None:
            raise ConfigurationError(
                f"{path.name}: a safetensors file has no entries, so checkpoint_key does not apply"
            )
        return _nonempty(_read_safetensors(path), path)
    if path.name.endswith(_PICKLES):
        return _nonempty(_weights_in(_read_pickle(path), path, checkpoint_key), path)
    known = ", ".join((".safetensors", *_PICKLES))
    raise ConfigurationError(f"{path.name}: not a checkpoint format we read ({known})")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    # safetensors raises its own error, but also OSError and ValueError on broken headers.
    except Exception as error:
        raise ConfigurationError(
            f"{path.name}: broken safetensors file: {_reason(error)}"
        ) from error


def _read_pickle(path: Path) -> Any:
    # DINO, DeiT and MoCo keep their command line in `args`. A Namespace only stores what it is
    # given. numpy scalars stay refused: numpy.dtype takes a state that nobody checks.
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        refused = _REFUSED_GLOBAL.search(str(error))
        what = f" ({refused.group(1)})" if refused else ""
        raise ConfigurationError(
            f"{path.name}: broken, or holds objects that are not loaded{what}; "
            "save the state_dict alone, best as safetensors"
        ) from error
    # A torn archive surfaces as RuntimeError, EOFError, OSError, KeyError and others.
    except Exception as error:
        raise ConfigurationError(f"{path.name}: broken checkpoint: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # its text holds the path
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _weights_in(content: Any, path: Path, key: str | None) -> dict[str, Tensor]:
    if key is not None:
        if not isinstance(content, Mapping) or key not in content:
            raise ConfigurationError(
                f"{path.name}: no entry {key!r}; it has {_entries(content)} (checkpoint_key)"
            )
        content = content[key]
    for _ in range(_MAX_NESTING):
        if _is_state(content):
            break
        found = [name for name in _CONTAINERS if isinstance(content, Mapping) and name in content]
        if not found:
            raise ConfigurationError(
                f"{path.name}: no weights recognised among {_entries(content)}; "
                "name their entry with checkpoint_key"
            )
        if len(found) > 1:
            _logger.info("%s: took %r of %s", path.name, found[0], ", ".join(found))
        content = content[found[0]]
    else:
        raise ConfigurationError(f"{path.name}: its weights are nested too deeply")
    odd = [repr(str(name)) for name, value in content.items() if not _is_plain(value)]
    if odd:
        raise ConfigurationError(
            f"{path.name}: {odd[0]} is a sparse or quantized tensor, or one without values"
        )
    return {str(name): value.detach() for name, value in content.items()}


def _is_state(content: Any) -> bool:
    return isinstance(content, Mapping) and all(isinstance(v, Tensor) for v in content.values())


def _is_plain(value: Tensor) -> bool:
    return value.layout is torch.strided and not value.is_quantized and not value.is_meta


def _entries(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    names = [repr(str(name)) for name in content]
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more


def _nonempty(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    if not state:
        raise ConfigurationError(f"{path.name}: holds no tensors")
    return state
