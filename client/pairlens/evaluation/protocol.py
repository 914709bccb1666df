"""What an evaluation runs: rows of a table over cases of a data set."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pairlens.evaluation.records import Measure, Record, Row, SkippedFile

JSON: typing.TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"


@dataclass(frozen=True)
class CurveInfo:
    """How to draw a curve that the records of a protocol hold.

    Attributes:
        name: Key in `Record.curves`.
        label: Title, for people ("Deletion").
        x_label: Of the fractions, with their unit ("share of the picture erased").
        y_label: Of the scores, with their unit ("probability of the class").
        higher_is_better: Of the area under it; None where neither is better.
    """

    name: str
    label: str
    x_label: str
    y_label: str
    higher_is_better: bool | None = None


class UnusableFileError(Exception):
    """A file that `Protocol.run` cannot use at all: its case is left out for every row.

    Attributes:
        path: The file, relative to the data set's root.
        reason: For people.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class Protocol(typing.Protocol):
    """An evaluation, divided into units of work: one row on one case.

    Rows with a refusal are never run.
    """

    @property
    def name(self) -> str:
        """One of "images", "pairs", "mosaics" and "pair mosaics"."""

    @property
    def title(self) -> str:
        """One line for the head of a report ("Pairs of one class: PairFaith")."""

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Columns of the table, the most telling first."""

    @property
    def curves(self) -> tuple[CurveInfo, ...]:
        """All curves that records hold, in the order to draw them."""

    @property
    def rows(self) -> tuple[Row, ...]:
        """Lines of the table, controls last."""

    @property
    def headline(self) -> str:
        """Name of the measure that ranks rows and cases; its `higher_is_better` is set."""

    @property
    def root(self) -> Path:
        """Folder of the data set, in which `DrawnMap.picture` is found."""

    def settings(self) -> Mapping[str, JSON]:
        """What changes the numbers of any case: it goes into the configuration and its hash.

        Called once, before the run.
        """

    def cases(self) -> Sequence[str]:
        """Keys, each once, in a seeded order: a longer run begins with a shorter one's."""

    def content(self, case: str) -> str:
        """Hash of what the case alone uses; "" where `settings` says it all.

        A journal whose first cases have other contents is not gone on with.
        """

    def run(self, row: str, case: str) -> Record:
        """Work one unit; called from several threads at once.

        Raises:
            UnusableFileError: A file of the case cannot be used by any row.
            MethodUnsupportedError: The model refuses the row, with every picture.
            PairlensError: Anything else; it becomes the record's error.
        """

    def skipped(self) -> tuple[SkippedFile, ...]:
        """Files that were left out before the first case."""
