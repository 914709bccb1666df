"""What an evaluation has found so far, in a file that survives any end of the process.

One JSON document a line. The first says what is evaluated, every other is a finished
record, a row that the model refused, or a file that cannot be used. A line is written at
once and synchronised within a second; the last one may be torn and is dropped then.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from pairlens.errors import InvalidParameterError
from pairlens.evaluation import case_lists
from pairlens.evaluation._record_codec import record_from_json, record_to_json
from pairlens.evaluation.protocol import JSON
from pairlens.evaluation.records import Record, SkippedFile

if TYPE_CHECKING:
    from typing_extensions import Self

NAME = "journal.jsonl"
_FORMAT = 1
_SYNC_EVERY_S = 1.0
_SHOWN_DIFFERENCES = 5


def configuration_hash(configuration: Mapping[str, JSON]) -> str:
    """First 16 hex digits of the SHA-256 of the configuration as sorted JSON."""
    text = json.dumps(configuration, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Header:
    """The first line of a journal.

    Attributes:
        configuration: Everything that changes numbers, and which cases there are.
        about: Whatever else describes the evaluation, as JSON; the list of cases with it.
    """

    configuration: Mapping[str, JSON]
    about: Mapping[str, Any]

    @property
    def hash(self) -> str:
        """See `configuration_hash`; of all but the cases, which a longer run adds to."""
        return configuration_hash(self.lasting)

    @property
    def lasting(self) -> Mapping[str, JSON]:
        """The configuration without the cases."""
        return {
            key: value for key, value in self.configuration.items() if key not in case_lists.KEYS
        }


@dataclass
class Contents:
    """Everything that a journal holds.

    Attributes:
        header: The last one; None in an empty journal.
        longest: The one with the most cases, of which records may be here.
        records: Finished ones by row and case, a later one in place of an earlier one with
            an error.
        refusals: Reasons by row.
        skipped: Files by case.
        size: Bytes of whole lines.
    """

    header: Header | None = None
    longest: Header | None = None
    records: dict[tuple[str, str], Record] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, SkippedFile] = field(default_factory=dict)
    size: int = 0

    def records_of(self, cases: Sequence[str] | None) -> list[Record]:
        """Records of these cases: a longer run may have been here; None for all."""
        known = None if cases is None else set(cases)
        return [record for record in self.records.values() if known is None or record.case in known]

    def skipped_of(self, cases: Sequence[str] | None) -> dict[str, SkippedFile]:
        """Files of these cases; None for all."""
        known = self.skipped if cases is None else set(cases)
        return {case: file for case, file in self.skipped.items() if case in known}


def read_journal(path: Path) -> Contents:
    """Read a journal; a torn last line is left out, and a missing file is empty.

    Raises:
        InvalidParameterError: A line before the last is broken, or a newer version's.
    """
    contents = Contents()
    if not path.exists():
        return contents
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                _take(contents, json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise InvalidParameterError(
                    f"line {number} of {path} is broken ({error}); start over with a new "
                    "directory, or in this one afresh",
                    field="directory",
                ) from error
            contents.size += len(line)
    return contents


class Journal:
    """An open journal, to which one thread writes.

    Attributes:
        contents: What was there when it was opened.
    """

    def __init__(self, path: Path, header: Header, *, fresh: bool = False) -> None:
        """Open or begin a journal.

        Args:
            path: Of the file; its folder is made.
            header: Of this run.
            fresh: Whether to drop what is there.

        Raises:
            InvalidParameterError: The journal is of another configuration, broken, or
                written to by another process.
            OSError: It cannot be written.
        """
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = path.open("ab")
        try:
            _lock(self._file, path)
            if fresh:
                self._file.truncate(0)
            self.contents = read_journal(path)
            if self.contents.longest is not None:
                _check_same(self.contents.longest, header, path)
            self._file.truncate(self.contents.size)
            self._synced = time.monotonic()
            self._write(
                {
                    "kind": "header",
                    "format": _FORMAT,
                    "hash": header.hash,
                    "configuration": header.configuration,
                    "about": header.about,
                }
            )
            self.sync()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def add(self, record: Record) -> None:
        """Write a finished record."""
        self._write({"kind": "record"} | record_to_json(record))

    def refuse(self, row: str, reason: str) -> None:
        """Write that the model cannot give a row."""
        self._write({"kind": "refusal", "row": row, "reason": reason})

    def skip(self, case: str, file: SkippedFile) -> None:
        """Write that a case is left out."""
        self._write({"kind": "skipped", "case": case, "path": file.path, "reason": file.reason})

    def read(self) -> Contents:
        """Everything that has been written by now."""
        self._file.flush()
        return read_journal(self._path)

    def sync(self) -> None:
        """Make everything that was written survive the end of the machine."""
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def close(self) -> None:
        """Synchronise and close."""
        if not self._file.closed:
            with suppress(OSError):  # what cannot be synchronised has been written at least
                self.sync()
            self._file.close()

    def _write(self, document: Mapping[str, Any]) -> None:
        line = json.dumps(document, separators=(",", ":"), allow_nan=False)
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        if time.monotonic() - self._synced >= _SYNC_EVERY_S:
            self.sync()


def _lock(file: IO[bytes], path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: two runs in one directory are not noticed there
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InvalidParameterError(
            f"another evaluation is writing to {path}", field="directory"
        ) from None


def _check_same(found: Header, header: Header, path: Path) -> None:
    """Refuse to go on with a journal whose numbers would not fit.

    Raises:
        InvalidParameterError: Says what differs.
    """
    cases = case_lists.conflict(
        (found.configuration, found.about), (header.configuration, header.about)
    )
    if found.hash == header.hash and not cases:
        return
    different = [*_differences(found.lasting, header.lasting, ""), *([cases] if cases else [])]
    more = len(different) - _SHOWN_DIFFERENCES
    shown = "; ".join(different[:_SHOWN_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")
    raise InvalidParameterError(
        f"{path} is of another configuration (was {found.hash}, is {header.hash}): {shown}. Use "
        "another directory, or start over in this one with fresh (--fresh)",
        field="directory",
    )


def _differences(old: JSON, new: JSON, where: str) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from _differences(
                old.get(key), new.get(key), f"{where}.{key}" if where else str(key)
            )
    elif json.dumps(old, sort_keys=True) != json.dumps(new, sort_keys=True):
        yield f"{where} was {_brief(old)} and is {_brief(new)}"


def _brief(value: JSON) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _count(header: Header) -> int:
    return int(str(header.configuration.get("cases", 0)))


def _take(contents: Contents, line: dict[str, Any]) -> None:
    kind = line["kind"]
    if kind == "header":
        if line["format"] != _FORMAT:
            raise ValueError(f"format {line['format']}, and this version reads {_FORMAT}")
        contents.header = Header(line["configuration"], line["about"])
        longest = contents.longest
        if longest is None or _count(contents.header) > _count(longest):
            contents.longest = contents.header
    elif kind == "record":
        record = record_from_json(line)
        contents.records[record.row, record.case] = record
    elif kind == "refusal":
        contents.refusals[line["row"]] = line["reason"]
    elif kind == "skipped":
        contents.skipped[line["case"]] = SkippedFile(line["path"], line["reason"])
    else:
        raise ValueError(f"an unknown kind {kind!r}")
