"""Records as lines of a journal."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from pairlens.evaluation.records import DrawnMap, Record, Series


def record_to_json(record: Record) -> dict[str, Any]:
    """The record as what `json` can write; numbers of curves and maps keep every bit."""
    document: dict[str, Any] = {"row": record.row, "case": record.case, "group": record.group}
    if record.values:
        document["values"] = {name: _finite(value) for name, value in record.values.items()}
    if record.curves:
        document["curves"] = {
            name: [_packed(curve.fractions), _packed(curve.scores)]
            for name, curve in record.curves.items()
        }
    if record.maps:
        document["maps"] = [_map_json(drawn) for drawn in record.maps]
    return document | {
        name: value
        for name, value in (("error", record.error), ("notes", dict(record.notes)))
        if value
    }


def record_from_json(line: Mapping[str, Any]) -> Record:
    """What `record_to_json` was given.

    Raises:
        KeyError, TypeError, ValueError: It is none.
    """
    return Record(
        row=line["row"],
        case=line["case"],
        group=line["group"],
        values=line.get("values", {}),
        curves={
            name: Series(_unpacked(fractions), _unpacked(scores))
            for name, (fractions, scores) in line.get("curves", {}).items()
        },
        maps=tuple(_map(document) for document in line.get("maps", ())),
        error=line.get("error", ""),
        notes=line.get("notes", {}),
    )


def _finite(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def _packed(values: tuple[float, ...]) -> str:
    return base64.b64encode(np.array(values, "<f8").tobytes()).decode()


@lru_cache(maxsize=1024)  # the fractions of all curves are the same
def _unpacked(text: str) -> tuple[float, ...]:
    return tuple(np.frombuffer(base64.b64decode(text), "<f8").tolist())


def _map_json(drawn: DrawnMap) -> dict[str, Any]:
    document = {
        "picture": drawn.picture,
        "role": drawn.role,
        "region": [float(edge) for edge in drawn.region],
        "shape": list(drawn.heatmap.shape),
        "values": base64.b64encode(drawn.heatmap.astype("<f4").tobytes()).decode(),
    }
    return document | ({"made": True} if drawn.made else {})


def _map(document: Mapping[str, Any]) -> DrawnMap:
    left, top, right, bottom = document["region"]
    values = np.frombuffer(base64.b64decode(document["values"]), "<f4")
    return DrawnMap(
        document["picture"],
        document["role"],
        values.reshape(document["shape"]).astype(np.float32),
        (left, top, right, bottom),
        document.get("made", False),
    )
