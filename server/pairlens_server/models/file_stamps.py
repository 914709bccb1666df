"""Whether the files of a model are still those that it was loaded from."""

from __future__ import annotations

from pathlib import Path

from pairlens_server.models.config import ModelConfig

FileStamps = tuple[tuple[int, int, int, int] | None, ...]
"""Of each file of a model: size, two times of change and inode; None of one that is not there."""


def stamps_of(config: ModelConfig) -> FileStamps:
    """The stamps of the files that an entry of the models file names, in a fixed order."""
    projection = config.projection.checkpoint if config.projection else None
    paths = (config.checkpoint, config.head_checkpoint, projection, config.labels)
    return tuple(_stamp(path) for path in paths if path is not None)


def _stamp(path: Path) -> tuple[int, int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    # `cp -p` and the like set the modification time back, but not the time of that.
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino
