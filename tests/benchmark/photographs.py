"""Any number of distinct JPEG files of real photographs; needs no torch."""

from __future__ import annotations

import hashlib
import io
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

import pairlens_server
from pairlens.v1 import common_pb2

SIZE = (400, 350)
"""Width and height of a photograph in pixels: the mean of ImageNet's."""

DIFFERENT = 48
"""Photographs that differ by more than a number."""

_THUMBNAIL_SIZE = (64, 48)
_FOLDER = Path(pairlens_server.__file__).parent / "demo" / "pictures"


def photograph(number: int) -> bytes:
    """A file of about 22 KB.

    There are 48 pictures, crops of the demo's. Files of one picture differ by their number in
    a comment, so that they are distinct by content and cost the same to decode.
    """
    return _numbered(_crop(number % DIFFERENT, SIZE), number)


def thumbnail(number: int) -> bytes:
    """The same, small: about 1.4 KB."""
    return _numbered(_crop(number % DIFFERENT, _THUMBNAIL_SIZE), number)


def inline(data: bytes) -> common_pb2.Image:
    """A file as a request holds it."""
    return common_pb2.Image(inline=data)


def by_digest(data: bytes) -> common_pb2.Image:
    """A file as a request names it."""
    digest = common_pb2.Digest(sha256=hashlib.sha256(data).digest(), size_bytes=len(data))
    return common_pb2.Image(digest=digest)


def _numbered(jpeg: bytes, number: int) -> bytes:
    """The file with a comment segment behind its first marker."""
    return jpeg[:2] + b"\xff\xfe\x00\x0a" + number.to_bytes(8, "big") + jpeg[2:]


@cache
def _crop(number: int, size: tuple[int, int]) -> bytes:
    files = sorted(_FOLDER.glob("*.jpg"))
    rng = np.random.default_rng(number)
    with Image.open(files[number % len(files)]) as file:
        picture = file.convert("RGB")
    share = rng.uniform(0.6, 0.95)
    width, height = round(picture.width * share), round(picture.height * share)
    left = int(rng.integers(0, picture.width - width + 1))
    top = int(rng.integers(0, picture.height - height + 1))
    out = io.BytesIO()
    part = picture.resize(size, Image.Resampling.BICUBIC, (left, top, left + width, top + height))
    part.save(out, "JPEG", quality=90)
    return out.getvalue()
