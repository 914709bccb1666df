"""What an evaluation found: records, and the table, curves and cases made of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pairlens.errors import InvalidParameterError
from pairlens.evaluation import _tables
from pairlens.evaluation import journal as journals
from pairlens.evaluation.protocol import JSON, CurveInfo
from pairlens.evaluation.records import DrawnMap, Measure, Record, Row, SkippedFile
from pairlens.evaluation.statistics import (
    Bootstrap,
    Interval,
    MeanCurve,
    Values,
    bands,
    bootstrap_means,
    paired_difference,
)
from pairlens.pictures import to_rgb

__all__ = ["Bootstrap", "Evaluation", "Interval", "MeanCurve", "Values"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A finished or a partial evaluation.

    Attributes:
        protocol: Name of the protocol ("images", "pairs", "mosaics", "pair mosaics").
        title: One line for the head of a report.
        configuration: Everything that changes the numbers.
        hash: First 16 hex digits of its SHA-256, without the list of cases.
        rows: As asked for, controls last, refused rows included.
        measures: Columns.
        curves: Curves that records hold.
        headline: Name of the measure that ranks rows and cases.
        records: Finished, in the order of rows, then of the cases' keys.
        failures: Records with an error, in the same order.
        skipped: Files that no case could use.
        planned: Cases of a complete run, those of skipped files not counted.
        root: Folder of the pictures.
        bootstrap: How intervals are made.
        directory: Of the run, where pictures that it made are.
    """

    protocol: str
    title: str
    configuration: Mapping[str, JSON]
    hash: str
    rows: tuple[Row, ...]
    measures: tuple[Measure, ...]
    curves: tuple[CurveInfo, ...]
    headline: str
    records: tuple[Record, ...] = field(repr=False)
    failures: tuple[Record, ...] = field(repr=False)
    skipped: tuple[SkippedFile, ...]
    planned: int
    root: Path
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    directory: Path = Path()

    @classmethod
    def load(cls, directory: Path | str) -> Evaluation:
        """Read a directory that `run_protocol` wrote to, whether it came to its end or not.

        Raises:
            InvalidParameterError: There is no evaluation, or its journal is broken.
        """
        path = Path(directory) / journals.NAME
        contents = journals.read_journal(path)
        if contents.header is None:
            raise InvalidParameterError(f"there is no evaluation in {directory}", field="directory")
        about, configuration = contents.header.about, contents.header.configuration
        rows = tuple(
            replace(row, refusal=contents.refusals.get(row.name, row.refusal))
            for row in (Row(**row) for row in about["rows"])
        )
        kept = {row.name: place for place, row in enumerate(rows) if not row.refusal}
        skipped_cases = contents.skipped_of(about.get("cases"))
        records = sorted(
            (
                record
                for record in contents.records_of(about.get("cases"))
                if record.row in kept and record.case not in skipped_cases
            ),
            key=lambda record: (kept[record.row], record.case),
        )
        skipped = {SkippedFile(**file) for file in about["skipped"]}
        return cls(
            protocol=str(configuration["protocol"]),
            title=about["title"],
            configuration=configuration,
            hash=contents.header.hash,
            rows=rows,
            measures=tuple(Measure(**measure) for measure in about["measures"]),
            curves=tuple(CurveInfo(**curve) for curve in about["curves"]),
            headline=about["headline"],
            records=tuple(record for record in records if not record.error),
            failures=tuple(record for record in records if record.error),
            skipped=tuple(
                sorted(skipped | set(skipped_cases.values()), key=lambda file: file.path)
            ),
            planned=int(str(configuration["cases"])) - len(skipped_cases),
            root=Path(about["root"]),
            bootstrap=Bootstrap(**about["bootstrap"]),
            directory=Path(directory),
        )

    @property
    def complete(self) -> bool:
        """Whether every row that is not refused has every case."""
        return all(
            len(self.records_of(row.name)) == self.planned for row in self.rows if not row.refusal
        )

    def measure(self, name: str) -> Measure:
        """A measure by name; KeyError without it."""
        return {measure.name: measure for measure in self.measures}[name]

    def row(self, name: str) -> Row:
        """A row by name; KeyError without it."""
        return {row.name: row for row in self.rows}[name]

    def records_of(self, row: str) -> tuple[Record, ...]:
        """The finished records of a row, in the order of the cases' keys."""
        return tuple(self._by_row.get(row, ()))

    def values(self, row: str, measure: str) -> Values:
        """All values of a measure, undefined ones as NaN, in the order of the cases' keys.

        Raises:
            KeyError: No such row or measure.
        """
        self.row(row), self.measure(measure)
        records = self.records_of(row)
        return Values(
            tuple(record.case for record in records),
            tuple(record.group for record in records),
            np.array([_number(record.values.get(measure)) for record in records], np.float64),
        )

    def interval(self, row: str, measure: str) -> Interval:
        """Mean of a measure over a row's cases; undefined ones are left out."""
        return self._intervals[row, measure]

    def difference(self, row: str, other: str, measure: str | None = None) -> Interval:
        """Mean of the row's values less the other's over their common cases.

        Args:
            row: Name of a row.
            other: Of another.
            measure: Name; None for the headline.
        """
        first, second = (self.values(name, measure or self.headline) for name in (row, other))
        return paired_difference(
            (first.cases, first.values), (second.cases, second.values), first.groups, self.bootstrap
        )

    def ranked(self) -> tuple[Row, ...]:
        """Rows by the mean of the headline, the best first; refused rows and empty ones last."""
        sign = self._sign

        def key(row: Row) -> tuple[bool, bool, float]:
            mean = self.interval(row.name, self.headline).mean
            return bool(row.refusal), mean is None, sign * (mean or 0.0)

        return tuple(sorted(self.rows, key=key))

    def mean_curve(self, row: str, name: str) -> MeanCurve | None:
        """Mean of a curve over the row's cases; None without any."""
        held = [record for record in self.records_of(row) if name in record.curves]
        if not held:
            return None
        fractions = np.array(held[0].curves[name].fractions, np.float64)
        scores = np.array(
            [
                np.interp(fractions, record.curves[name].fractions, record.curves[name].scores)
                for record in held
            ]
        )
        low, high = bands(scores, [record.group for record in held], self.bootstrap)
        return MeanCurve(fractions, scores.mean(axis=0), low, high, len(held))

    def best(self, row: str, count: int = 3) -> tuple[Record, ...]:
        """The row's cases with the best headline, the best first; undefined ones left out."""
        return self._in_order(row)[:count]

    def worst(self, row: str, count: int = 3) -> tuple[Record, ...]:
        """The row's cases with the worst headline, the worst first."""
        return self._in_order(row)[::-1][:count]

    def median(self, row: str, count: int = 3) -> tuple[Record, ...]:
        """The row's cases in the middle of that order, from better to worse."""
        ordered = self._in_order(row)
        start = max(0, (len(ordered) - count) // 2)
        return ordered[start : start + count]

    def picture(self, drawn: DrawnMap) -> Image.Image:
        """The upright RGB picture under a map; an OSError when it is not there any more."""
        with Image.open((self.directory if drawn.made else self.root) / drawn.picture) as image:
            return to_rgb(image)

    def table(self) -> list[dict[str, Any]]:
        """One flat dictionary a row, in the order of `ranked`.

        Keys: row, control (bool), refusal, cases, failed; then for each measure NAME (mean
        or None), NAME.low, NAME.high (ends of the interval, or None), NAME.count (defined).
        """
        return _tables.table(self)

    def document(self) -> dict[str, Any]:
        """Table, configuration, failures and skipped files, as JSON can hold them."""
        return _tables.document(self)

    def console(self, width: int | None = 200) -> str:
        """The table as text, with a line on how to read each measure.

        Args:
            width: Columns of text; None for those of the terminal.
        """
        return _tables.console(self, width)

    def write_csv(self, path: Path | str) -> None:
        """Write the table, one line a row; undefined values are empty."""
        _tables.write_csv(self, Path(path))

    def write_json(self, path: Path | str) -> None:
        """Write `document`, with null where a value is undefined."""
        _tables.write_json(self, Path(path))

    @property
    def _sign(self) -> float:
        return -1.0 if self.measure(self.headline).higher_is_better is not False else 1.0

    def _in_order(self, row: str) -> tuple[Record, ...]:
        """Records with a defined headline, the best first."""
        defined = [
            record
            for record in self.records_of(row)
            if np.isfinite(_number(record.values.get(self.headline)))
        ]
        sign = self._sign
        return tuple(
            sorted(defined, key=lambda record: sign * _number(record.values[self.headline]))
        )

    @cached_property
    def _by_row(self) -> dict[str, list[Record]]:
        found: defaultdict[str, list[Record]] = defaultdict(list)
        for record in self.records:
            found[record.row].append(record)
        return found

    @cached_property
    def _intervals(self) -> dict[tuple[str, str], Interval]:
        # Rows over the same cases share the draws: most of the time is theirs.
        alike: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
        for row in self.rows:
            alike[tuple(record.case for record in self.records_of(row.name))].append(row.name)
        found: dict[tuple[str, str], Interval] = {}
        for cases, names in alike.items():
            keys = [(name, measure.name) for name in names for measure in self.measures]
            values = [self.values(*key) for key in keys]
            columns = np.stack([column.values for column in values], axis=1)
            groups = values[0].groups if cases else ()
            found |= dict(zip(keys, bootstrap_means(columns, groups, self.bootstrap), strict=True))
        return found


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
