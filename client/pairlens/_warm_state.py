"""Which files of a folder were warmed, in a file that outlives the process."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from pairlens._gallery import GalleryFile
from pairlens.errors import InvalidParameterError

if TYPE_CHECKING:
    from typing_extensions import Self


class WarmState:
    """A line for each finished file, added as it is finished; a torn last line does not count.

    Runs of other models or methods may share the file.

    Args:
        path: Of the file, made when it is not there; None remembers nothing.
        run: What is computed of the pictures, in any words.

    Raises:
        InvalidParameterError: The file holds something else.
        OSError: It cannot be read or written.
    """

    def __init__(self, path: Path | None, run: str) -> None:
        self._run = run
        self._done: set[GalleryFile] = set()
        if path is None:
            self._file = None
            return
        # Lines are added whole, so that several processes may write.
        self._file = path.open("a+b", buffering=0)
        try:
            self._load(path)
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
        if self._file is not None:
            self._file.close()

    def __contains__(self, file: GalleryFile) -> bool:
        """Whether the file was finished as it is now."""
        return file in self._done

    def add(self, files: Iterable[GalleryFile]) -> None:
        """Files are finished."""
        lines = [
            json.dumps({"run": self._run, "path": f.path, "size": f.size, "mtime_ns": f.mtime_ns})
            for f in files
        ]
        if lines and self._file is not None:
            self._file.write("".join(f"{line}\n" for line in lines).encode())

    def _load(self, path: Path) -> None:
        assert self._file is not None
        self._file.seek(0)
        data = self._file.readall() or b""
        lines = data.split(b"\n")
        if data and _record(lines[0]) is None:
            raise InvalidParameterError(f"{path} is no state of `pairlens warm`", field="state")
        if lines[-1]:  # torn by a crash
            self._file.write(b"\n")
        for line in lines:
            record = _record(line)
            if record is not None and record[0] == self._run:
                self._done.add(record[1])


def _record(line: bytes) -> tuple[str, GalleryFile] | None:
    try:
        record = json.loads(line)
        run, path = record["run"], record["path"]
        return str(run), GalleryFile(str(path), int(record["size"]), int(record["mtime_ns"]))
    except (ValueError, TypeError, KeyError):
        return None
