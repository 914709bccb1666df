"""What an evaluation measures, and what it found: plain values, without a server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pairlens.rendering import FloatArray


@dataclass(frozen=True)
class Measure:
    """One number that is computed of a case, and how to read it.

    Attributes:
        name: Identifier, a column of tables ("deletion", "side.both.srg").
        label: For people ("Deletion AUC").
        description: One sentence: what the number is, with its unit.
        higher_is_better: None where neither end is better.
        chance: What a map without knowledge gets, or None.
    """

    name: str
    label: str
    description: str
    higher_is_better: bool | None = None
    chance: float | None = None


@dataclass(frozen=True)
class Series:
    """A curve of a case: `scores` over ascending `fractions`, of equal length."""

    fractions: tuple[float, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class DrawnMap:
    """A map to draw in a report.

    Attributes:
        picture: Path of the picture, relative to the data set's root, or where it was made for
            the run to the run's directory.
        role: What the picture is in the case ("query", "partner", "").
        heatmap: float32 [rows, columns].
        region: (left, top, right, bottom) of the grid in original pixels.
        made: Whether the run made the picture (a mosaic).
    """

    picture: str
    role: str
    heatmap: FloatArray
    region: tuple[float, float, float, float]
    made: bool = False


@dataclass(frozen=True, eq=False)
class Record:
    """What one row (a method, or a control) came to on one case: a line of the journal.

    Attributes:
        row: Name of the row.
        case: Key of the case, unique in an evaluation.
        group: Class of the case, by which confidence intervals are stratified.
        values: By measure; None where a measure is undefined for the case.
        curves: By name, of every case with the same fractions.
        maps: What was scored.
        error: Why there are no values, or "". A record with an error is tried again on resuming.
        notes: Reasons for undefined measures, by measure.
    """

    row: str
    case: str
    group: str
    values: Mapping[str, float | None] = field(default_factory=dict)
    curves: Mapping[str, Series] = field(default_factory=dict)
    maps: tuple[DrawnMap, ...] = ()
    error: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        name: As written by the caller, with parameters ("rollout", "grad_cam(libra=true)").
        control: Whether it is a control and no method.
        refusal: Why the model cannot give it, or "": such a row has no records.
        description: What it is, for a reader of the report; "" for methods.
    """

    name: str
    control: bool = False
    refusal: str = ""
    description: str = ""


@dataclass(frozen=True)
class SkippedFile:
    """A file of the data set that no case could use, and why."""

    path: str
    reason: str
