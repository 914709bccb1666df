"""Frozen values as what `json` can write."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from enum import Enum

import numpy as np

from pairlens._images import EncodedImage, StoredImage
from pairlens.errors import PairlensError
from pairlens.models import Choice
from pairlens.placed import MaskedMap, PlacedMap
from pairlens.results import Panel


def to_json(value: object) -> object:
    """The value as what `json` can write.

    Frozen values become objects, pictures their names, arrays nested lists, errors objects
    with `code`, `reason`, `field`, `message` and `request_id`. JSON knows no NaN and no infinity:
    they become null.
    """
    if isinstance(value, Choice):
        return {"name": value.name, "parameters": to_json(value.parameters)}
    if isinstance(value, PlacedMap):
        return map_json(value)
    if isinstance(value, (EncodedImage, StoredImage)):
        return value.name
    if isinstance(value, PairlensError):
        names = ("code", "reason", "field", "message", "request_id")
        return {name: getattr(value, name) for name in names}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, np.ndarray):
        return to_json(value.tolist())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return value


def map_json(placed: PlacedMap) -> dict[str, object]:
    """A map's values and where they lie, without its picture."""
    names = ["min", "max", "constant", "geometry"]
    if isinstance(placed, MaskedMap):
        names.append("mask")
    if isinstance(placed, Panel):
        names += ["block", "head", "unit"]
    document: dict[str, object] = {"values": to_json(placed.heatmap)}
    return document | {name: to_json(getattr(placed, name)) for name in names}
