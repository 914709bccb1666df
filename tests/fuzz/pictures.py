"""Pictures of every format, and what can go wrong with them on the way."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from collections.abc import Callable
from random import Random

import numpy as np
from PIL import Image

SIDE = 24


def _noise(mode: str, width: int = SIDE, height: int = SIDE) -> Image.Image:
    values = np.random.default_rng(7).integers(0, 256, (height, width, 4), dtype=np.uint8)
    return Image.fromarray(values, "RGBA").convert(mode)


def _saved(picture: Image.Image, file_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, file_format, **options)
    return file.getvalue()


@functools.cache
def whole() -> tuple[bytes, ...]:
    """Files that are right, of every format and of the modes that differ in how they are read."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    frames = [_noise("P"), _noise("P").rotate(90)]
    sixteen = Image.fromarray(np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE))
    return (
        _saved(_noise("RGB"), "JPEG", exif=exif),
        _saved(_noise("RGB"), "JPEG", progressive=True, subsampling=0),
        _saved(_noise("L"), "JPEG"),
        _saved(_noise("CMYK"), "JPEG"),
        *(_saved(_noise(mode), "PNG") for mode in ("RGB", "RGBA", "L", "LA", "P", "1")),
        _saved(sixteen, "PNG"),
        _saved(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        _saved(_noise("RGB"), "WEBP"),
        _saved(_noise("RGBA"), "WEBP", lossless=True),
        _saved(_noise("RGB"), "WEBP", save_all=True, append_images=[_noise("RGB").rotate(90)]),
        *(_saved(_noise(mode), "BMP") for mode in ("RGB", "L", "P", "1")),
        _saved(_noise("P"), "GIF", transparency=3),
        _saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        *(_saved(_noise(mode), "TIFF") for mode in ("RGB", "CMYK", "P")),
        *(
            _saved(_noise("RGB"), "TIFF", compression=compression)
            for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")
        ),
        _saved(_noise("1"), "TIFF", compression="group4"),
    )


def _bomb_png(width: int, height: int) -> bytes:
    """Many pixels in few bytes."""
    row = b"\0" * (1 + (width + 7) // 8)
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(row) for _ in range(min(height, 4096))) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(name, data) for name, data in chunks)


def png_chunk(name: bytes, data: bytes) -> bytes:
    """A chunk with the right checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _bomb_gif(width: int, height: int) -> bytes:
    data = bytearray(_saved(_noise("P"), "GIF"))
    data[6:10] = struct.pack("<HH", width, height)
    return bytes(data)


def _bomb_bmp(width: int, height: int) -> bytes:
    data = bytearray(_saved(_noise("RGB"), "BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


@functools.cache
def bombs() -> tuple[bytes, ...]:
    """Small files that would be large pictures, or large something."""
    plain = _saved(_noise("RGB"), "PNG")
    text = zlib.compress(b"a" * 2**25, 9)
    return (
        _bomb_png(60_000, 60_000),
        _bomb_png(2**31 - 1, 1),
        _bomb_png(4_000, 4_000),
        _bomb_gif(65_535, 65_535),
        _bomb_bmp(2**31 - 1, 2**31 - 1),
        _bomb_bmp(1, -(2**31)),
        _bomb_bmp(0, 0),
        spliced_png(plain, b"zTXt", b"Comment\0\0" + text),
        spliced_png(plain, b"iCCP", b"profile\0\0" + text),
        spliced_png(plain, b"iTXt", b"Comment\0\1\0\0\0" + text),
    )


def spliced_png(png: bytes, name: bytes, data: bytes) -> bytes:
    """A chunk behind the header of a PNG file."""
    end_of_header = 8 + 25
    return png[:end_of_header] + png_chunk(name, data) + png[end_of_header:]


def _truncated(random: Random, data: bytes) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def _flipped(random: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8, 64))):
        if changed:
            changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _header_changed(random: Random, data: bytes) -> bytes:
    """Where sizes and kinds stand."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 2, 4))):
        if len(changed) > 8:
            at = random.randrange(2, min(len(changed), 80))
            changed[at] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))
    return bytes(changed)


def _number_changed(random: Random, data: bytes) -> bytes:
    """A length or an offset, somewhere."""
    number = random.choice((0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1))
    piece = struct.pack(random.choice(("<I", ">I")), number)[: random.choice((2, 4, 4))]
    at = random.randrange(len(data) + 1)
    return data[:at] + piece + data[at + len(piece) :]


def _cut_out(random: Random, data: bytes) -> bytes:
    start, end = sorted(random.randrange(len(data) + 1) for _ in range(2))
    return data[:start] + data[end:]


def _repeated(random: Random, data: bytes) -> bytes:
    start, end = sorted(random.randrange(len(data) + 1) for _ in range(2))
    return data[:end] + data[start:end] * random.choice((1, 2, 20)) + data[end:]


def _zeroed(random: Random, data: bytes) -> bytes:
    start, end = sorted(random.randrange(len(data) + 1) for _ in range(2))
    return data[:start] + bytes(end - start) + data[end:]


def _inserted(random: Random, data: bytes) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + random.randbytes(random.choice((1, 4, 64))) + data[at:]


def _with_piece_of_another(random: Random, data: bytes) -> bytes:
    other = random.choice(whole())
    start, end = sorted(random.randrange(len(other) + 1) for _ in range(2))
    at = random.randrange(len(data) + 1)
    return data[:at] + other[start:end] + data[at:]


def _with_png_chunk(random: Random, data: bytes) -> bytes:
    if data[:4] != b"\x89PNG":
        return _flipped(random, data)
    names = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf", b"acTL", b"fcTL", b"iCCP")
    return spliced_png(
        data, random.choice(names), random.randbytes(random.choice((0, 1, 3, 13, 26, 768)))
    )


def _with_jpeg_segment(random: Random, data: bytes) -> bytes:
    if data[:2] != b"\xff\xd8":
        return _header_changed(random, data)
    body = random.choice((b"", b"Exif\0\0", b"ICC_PROFILE\0\1\1", b"MPF\0", b"Adobe\0"))
    body += random.randbytes(random.choice((0, 2, 16, 200)))
    marker = bytes((0xFF, random.choice((0xE1, 0xE2, 0xEE, 0xC0, 0xC4, 0xDB, 0xDD, 0xDA))))
    return data[:2] + marker + struct.pack(">H", len(body) + 2) + body + data[2:]


_MUTATIONS: tuple[Callable[[Random, bytes], bytes], ...] = (
    _truncated,
    _flipped,
    _header_changed,
    _number_changed,
    _cut_out,
    _repeated,
    _zeroed,
    _inserted,
    _with_piece_of_another,
    _with_png_chunk,
    _with_jpeg_segment,
)


def damaged(random: Random, data: bytes) -> bytes:
    """A file with one to four things wrong with it."""
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        data = random.choice(_MUTATIONS)(random, data)
    return data


def picture(random: Random) -> bytes:
    """A picture that is right, damaged, a bomb, or none at all."""
    kind = random.random()
    if kind < 0.3:
        return random.choice(whole())
    if kind < 0.9:
        return damaged(random, random.choice(whole()))
    if kind < 0.95:
        return random.choice(bombs())
    return random.randbytes(random.choice((0, 1, 16, 1000)))
