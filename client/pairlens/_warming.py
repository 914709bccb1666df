"""Warms the pictures of a folder over threads, and isolates those that fail."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from pairlens._gallery import GalleryFile
from pairlens._images import EncodedImage, encode
from pairlens.caching import Warmed
from pairlens.errors import (
    ImageFileError,
    PairlensError,
    QueueFullError,
    UnavailableError,
)

_ENDS_ALL = ("INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "UNAUTHENTICATED", "CANCELLED")
_ENDS_ALL_REASONS = ("METHOD_UNSUPPORTED",)

Warm = Callable[[Sequence[EncodedImage]], Warmed]


@dataclass(frozen=True)
class Outcome:
    """What became of a file.

    Attributes:
        file: The file.
        cached: Whether everything was there already.
        error: Why it failed, or None.
    """

    file: GalleryFile
    cached: bool = False
    error: PairlensError | None = None


class Warming:
    """Warms files of a folder.

    Args:
        warm: Makes a call.
        folder: Where the files are.
        waits_s: Before a server that is away or full is asked again.
    """

    def __init__(self, warm: Warm, folder: Path, waits_s: Sequence[float]) -> None:
        self._warm, self._folder, self._waits_s = warm, folder, waits_s
        self._stopped = threading.Event()

    def over(
        self, groups: Iterable[Sequence[GalleryFile]], concurrency: int
    ) -> Iterator[list[Outcome]]:
        """Warm groups of files, so many at once.

        Yields:
            What became of a group, in any order.

        Raises:
            PairlensError: What is asked for cannot be, or the server is gone.
        """
        executor = ThreadPoolExecutor(concurrency, thread_name_prefix="pairlens-warm")
        pending: set[Future[list[Outcome]]] = set()
        left = iter(groups)
        try:
            while True:
                # One more than run at once: no thread waits for this one.
                while len(pending) <= concurrency:
                    group = next(left, None)
                    if group is None:
                        break
                    pending.add(executor.submit(self._group, group))
                if not pending:
                    return
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
        finally:
            self._stopped.set()
            executor.shutdown(wait=False, cancel_futures=True)

    def _group(self, group: Sequence[GalleryFile]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        read: list[tuple[GalleryFile, EncodedImage]] = []
        for file in group:
            image = self._read(file)
            if isinstance(image, EncodedImage):
                read.append((file, image))
            else:
                outcomes.append(Outcome(file, error=image))
        return outcomes + self._isolated(read)

    def _read(self, file: GalleryFile) -> EncodedImage | ImageFileError:
        try:
            return encode(self._folder / file.path)
        except ImageFileError as error:
            # The caller names the file as it lies in the folder.
            error.message = error.message.rpartition(": ")[2]
            return error

    def _isolated(self, read: Sequence[tuple[GalleryFile, EncodedImage]]) -> list[Outcome]:
        """Warm files together, or in halves where that fails."""
        if not read:
            return []
        try:
            warmed = self._persistent([image for _, image in read])
        except PairlensError as error:
            if _ends_all(error):
                raise
            if len(read) == 1:
                return [Outcome(read[0][0], error=error)]
            middle = len(read) // 2
            return self._isolated(read[:middle]) + self._isolated(read[middle:])
        return [
            Outcome(file, cached, warmed.failures.get(index))
            for index, ((file, _), cached) in enumerate(zip(read, warmed.cached, strict=True))
        ]

    def _persistent(self, images: Sequence[EncodedImage]) -> Warmed:
        """Warm, and again while the server is away or full."""
        waits = iter(self._waits_s)
        while True:
            try:
                return self._warm(images)
            except (UnavailableError, QueueFullError) as error:
                refusal = error
            wait_s = next(waits, None)
            if wait_s is None or self._stopped.wait(max(wait_s, refusal.retry_after or 0.0)):
                raise refusal


def _ends_all(error: PairlensError) -> bool:
    """Whether the error is of the server or of what is asked of it, and of no picture."""
    return (
        error.code in _ENDS_ALL
        or error.reason in _ENDS_ALL_REASONS
        or isinstance(error, (UnavailableError, QueueFullError))
    )
