"""Runs a protocol over threads, so that it can be stopped at any time and gone on with."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from pairlens._progress import ProgressLine
from pairlens.errors import (
    ImageFileError,
    ImageTooLargeError,
    ImageUndecodableError,
    InvalidParameterError,
    MethodUnsupportedError,
    PairlensError,
    UnavailableError,
)
from pairlens.evaluation import case_lists
from pairlens.evaluation import journal as journals
from pairlens.evaluation.journal import Contents, Header, Journal
from pairlens.evaluation.protocol import JSON, Protocol, UnusableFileError
from pairlens.evaluation.records import Record, Row, SkippedFile
from pairlens.evaluation.results import Evaluation
from pairlens.evaluation.statistics import Bootstrap

_GRACE_S = 5.0
_MISTAKEN_FIELDS = ("model", "method", "pair_method", "metrics", "sides", "enlargement")
_MISTAKES = ("INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED")


class EvaluationInterrupted(KeyboardInterrupt):
    """Ctrl-C ended a run; what was done is in the journal.

    Attributes:
        done: Units in the journal.
        total: Units of the whole evaluation.
    """

    def __init__(self, done: int, total: int) -> None:
        super().__init__(f"interrupted after {done} of {total}")
        self.done = done
        self.total = total


def run_protocol(
    protocol: Protocol,
    directory: Path | str | None,
    *,
    concurrency: int = 4,
    limit: int | None = None,
    controls: bool = True,
    fresh: bool = False,
    bootstrap: Bootstrap | None = None,
    progress: bool = True,
) -> Evaluation:
    """Run every row of a protocol on every case, less what the directory's journal holds.

    Cases are worked one after the other, all rows of each, so that a run that ends early
    is a smaller one. A unit that fails is recorded with its error and tried again by the
    next run; a picture that cannot be decoded is left out of all rows. A later run may have
    more cases, of which the journal's are the first, or fewer.

    Args:
        protocol: What to run.
        directory: Where the journal is; None for nowhere: nothing can be resumed then.
        concurrency: Units under way at once; at least 1.
        limit: Most cases; None for all.
        controls: Whether to run rows that are controls.
        fresh: Start over, whatever the journal holds.
        bootstrap: How confidence intervals are made.
        progress: Whether to write on standard error how far it is.

    Raises:
        InvalidParameterError: The journal is of another configuration or of other cases (the
            message says what differs), or a parameter of a row or a metric is refused.
        EvaluationInterrupted: Ctrl-C; calls under way were waited for, shortly.
        UnavailableError: The server is gone.
        OSError: The journal cannot be written.
    """
    for name, number in (("concurrency", concurrency), ("limit", limit)):
        if number is not None and number < 1:
            raise InvalidParameterError(f"{name} is at least 1, not {number}", field=name)
    if directory is None:
        with tempfile.TemporaryDirectory(prefix="pairlens-") as temporary:
            return run_protocol(
                protocol,
                temporary,
                concurrency=concurrency,
                limit=limit,
                controls=controls,
                bootstrap=bootstrap,
                progress=progress,
            )
    path = Path(directory) / journals.NAME
    # An empty one tells the folder of a run from one of pictures, whatever is written first.
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    rows = tuple(row for row in protocol.rows if controls or not row.control)
    cases = protocol.cases()[:limit]
    header = _header(protocol, rows, cases, bootstrap or Bootstrap())
    with Journal(path, header, fresh=fresh) as journal:
        _Run(protocol, rows, cases, journal, concurrency, progress=progress).work()
    return Evaluation.load(directory)


def _header(
    protocol: Protocol, rows: Sequence[Row], cases: Sequence[str], bootstrap: Bootstrap
) -> Header:
    contents = [protocol.content(case) for case in cases]
    configuration: dict[str, JSON] = {
        "protocol": protocol.name,
        "sdk": version("pairlens"),
        "settings": protocol.settings(),
        "rows": [row.name for row in rows],
        "measures": [measure.name for measure in protocol.measures],
        **case_lists.in_configuration(cases, contents),
    }
    about = {
        "title": protocol.title,
        "rows": [asdict(row) for row in rows],
        "measures": [asdict(measure) for measure in protocol.measures],
        "curves": [asdict(curve) for curve in protocol.curves],
        "headline": protocol.headline,
        "skipped": [asdict(file) for file in protocol.skipped()],
        "root": str(protocol.root.resolve()),
        "bootstrap": asdict(bootstrap),
        **case_lists.in_about(cases, contents),
    }
    return Header(configuration, about)


class _Run:
    """One run over what a journal lacks."""

    def __init__(
        self,
        protocol: Protocol,
        rows: Sequence[Row],
        cases: Sequence[str],
        journal: Journal,
        concurrency: int,
        *,
        progress: bool,
    ) -> None:
        self._protocol, self._rows, self._cases = protocol, rows, cases
        self._journal, self._concurrency = journal, concurrency
        held = journal.contents
        self._done = _finished(held, cases)
        self._skipped = set(held.skipped).intersection(cases)
        self._refused = {row.name for row in rows if row.refusal} | set(held.refusals)
        active = [row.name for row in rows if row.name not in self._refused]
        left = [case for case in cases if case not in self._skipped]
        self._total = len(active) * len(left)
        resumed = sum((row, case) in self._done for case in left for row in active)
        self._progress = ProgressLine(
            # Each case is counted once for each method.
            f"{protocol.name} x methods",
            self._total,
            resumed,
            sys.stderr if progress else None,
        )
        self._unreachable = 0

    def work(self) -> None:
        """Do it; see `run_protocol` for the errors."""
        executor = ThreadPoolExecutor(self._concurrency, thread_name_prefix="pairlens-evaluate")
        pending: dict[Future[Record], tuple[str, str]] = {}
        try:
            self._loop(executor, pending)
        except BaseException as error:
            self._wind_down(pending)
            if isinstance(error, KeyboardInterrupt):
                # The interrupt may have come between a record's writing and its counting.
                done = _finished(self._journal.read(), self._cases)
                raise EvaluationInterrupted(len(done), self._total) from error
            raise
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
            self._progress.show(last=True)

    def _loop(
        self, executor: ThreadPoolExecutor, pending: dict[Future[Record], tuple[str, str]]
    ) -> None:
        units = self._units()
        while True:
            # Twice as many as run at once: no thread waits for this one.
            while len(pending) < 2 * self._concurrency:
                unit = next(units, None)
                if unit is None:
                    break
                pending[executor.submit(self._protocol.run, *unit)] = unit
            if not pending:
                return
            finished, _ = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in finished:
                self._finish(future, *pending.pop(future))
            self._progress.show()

    def _units(self) -> Iterator[tuple[str, str]]:
        for case in self._cases:
            for row in self._rows:
                # Read anew each time: rows and cases are dropped while this goes on.
                dropped = row.name in self._refused or case in self._skipped
                if not dropped and (row.name, case) not in self._done:
                    yield row.name, case

    def _wind_down(self, pending: dict[Future[Record], tuple[str, str]]) -> None:
        """Keep what comes within a short time."""
        running = [future for future in pending if not future.cancel()]
        finished, _ = wait(running, timeout=_GRACE_S)
        for future in finished:
            row, case = pending[future]
            if future.exception() is None:
                self._keep(future.result(), row, case)

    def _finish(self, future: Future[Record], row: str, case: str) -> None:
        try:
            record = future.result()
        except UnusableFileError as error:
            self._skip(case, SkippedFile(error.path, error.reason))
        except (ImageUndecodableError, ImageTooLargeError) as error:
            self._skip(case, SkippedFile(case, error.message))
        except MethodUnsupportedError as error:
            self._refuse(row, error.message)
        except PairlensError as error:
            self._fail(error, row, case)
        else:
            self._keep(record, row, case)

    def _keep(self, record: Record, row: str, case: str) -> None:
        self._unreachable = 0
        if case in self._skipped or row in self._refused:  # since it was handed out
            return
        self._journal.add(record)
        if record.error:
            self._progress.failed += 1
        else:
            self._done.add((row, case))
            self._progress.done += 1

    def _fail(self, error: PairlensError, row: str, case: str) -> None:
        """Record an error of one unit, or end the run if it is one of all.

        Raises:
            PairlensError: The error itself.
        """
        if _is_mistake(error):
            error.message = f"{row}: {error.message}"
            raise error
        unreachable = self._unreachable + 1 if isinstance(error, UnavailableError) else 0
        if unreachable >= 2 * self._concurrency:
            raise error
        self._keep(Record(row, case, "", error=error.message), row, case)
        self._unreachable = unreachable

    def _skip(self, case: str, file: SkippedFile) -> None:
        if case not in self._skipped:
            self._skipped.add(case)
            self._journal.skip(case, file)
            rows = [row.name for row in self._rows if row.name not in self._refused]
            self._progress.drop(sum((row, case) not in self._done for row in rows))

    def _refuse(self, row: str, reason: str) -> None:
        if row not in self._refused:
            self._refused.add(row)
            self._journal.refuse(row, reason)
            cases = [case for case in self._cases if case not in self._skipped]
            self._progress.drop(sum((row, case) not in self._done for case in cases))


def _finished(contents: Contents, cases: Sequence[str]) -> set[tuple[str, str]]:
    known = set(cases)
    return {
        (row, case)
        for (row, case), record in contents.records.items()
        if not record.error and case in known
    }


def _is_mistake(error: PairlensError) -> bool:
    """Whether the error is of what was asked for, and would be the same for every case."""
    if isinstance(error, ImageFileError) or error.code not in _MISTAKES:
        return False
    field = error.field.partition(".")[0].partition("[")[0]
    return error.code != "INVALID_ARGUMENT" or field in _MISTAKEN_FIELDS
