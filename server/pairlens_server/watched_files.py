"""Files that are read again when they change, without anybody being told."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

INTERVAL_S = 1.0
"""How often files are looked at, at most."""

# A file system's clock ticks every few milliseconds, on some every two seconds: what was written
# twice in between may have kept its time and length. So young files are read to be sure.
_YOUNG_S = 4.0

_Stamp = tuple[tuple[int, int, int] | int, ...]


class WatchedFiles:
    """Some files that belong together. Not safe under threads.

    Works for a file that is written in place, one that is put in its place, and one behind a
    symbolic link that changes, as Kubernetes swaps the files of a Secret.

    Args:
        paths: Of the files.
        clock: In seconds; for tests.
    """

    def __init__(self, *paths: Path, clock: Callable[[], float] = time.monotonic):
        self._paths = paths
        self._clock = clock
        self._looked_s = -INTERVAL_S
        self._stamp: _Stamp = ()
        self._digest = b""
        self._is_young = False

    def read(self) -> tuple[bytes, ...]:
        """Their contents.

        Raises:
            OSError: One of them cannot be read.
        """
        self._looked_s = self._clock()
        self._stamp = self._stamps()
        contents = tuple(path.read_bytes() for path in self._paths)
        self._digest = _digest(contents)
        return contents

    def changed(self) -> tuple[bytes, ...] | None:
        """Their contents if they differ from what was last read; None most of the time.

        Raises:
            OSError: One of them cannot be read; raised once, until this changes.
        """
        now_s = self._clock()
        if now_s - self._looked_s < INTERVAL_S:
            return None
        self._looked_s = now_s
        stamp = self._stamps()
        if stamp == self._stamp and not self._is_young:
            return None
        known, self._stamp = self._stamp, stamp
        try:
            contents = tuple(path.read_bytes() for path in self._paths)
        except OSError:
            self._digest = b""
            # One that cannot be opened although it is there is told when that changes.
            if stamp == known:
                return None
            raise
        digest, self._digest = self._digest, _digest(contents)
        return None if digest == self._digest else contents

    def _stamps(self) -> _Stamp:
        stamps: list[tuple[int, int, int] | int] = []
        self._is_young = False
        for path in self._paths:
            try:
                found = path.stat()
            except OSError as error:
                stamps.append(error.errno or -1)
                continue
            # Not the time of modification, which `cp -p` and the like set back.
            stamps.append((found.st_ctime_ns, found.st_size, found.st_ino))
            self._is_young |= time.time() - found.st_ctime < _YOUNG_S
        return tuple(stamps)


def _digest(contents: tuple[bytes, ...]) -> bytes:
    # Not the contents, which may be secret.
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in contents)).digest()
