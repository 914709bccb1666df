"""A picture as a caller names it: its file, or the file's hash."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageDigest:
    """What a file is known by.

    Attributes:
        sha256: Of its bytes, 64 hex digits in lower case.
        size_bytes: Its length, at least 1.
    """

    sha256: str
    size_bytes: int


ImageSource = bytes | ImageDigest
"""An encoded file, or what it is known by."""
