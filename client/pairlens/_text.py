"""Text on pictures: one font, cut or wrapped to fit."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from PIL import ImageFont

INK = (34, 34, 38)
FAINT_INK = (112, 112, 120)

# What Pillow's own font lacks, of what names of files and classes are likely to hold.
_SPELLED = str.maketrans(
    {
        "\N{MULTIPLICATION SIGN}": "x",
        "\N{EN DASH}": "-",
        "\N{EM DASH}": "-",
        "\N{RIGHTWARDS ARROW}": "->",
        "\N{LEFT SINGLE QUOTATION MARK}": "'",
        "\N{RIGHT SINGLE QUOTATION MARK}": "'",
        "\N{LEFT DOUBLE QUOTATION MARK}": '"',
        "\N{RIGHT DOUBLE QUOTATION MARK}": '"',
        "\N{LATIN SMALL LETTER SHARP S}": "ss",
    }
)


@lru_cache(maxsize=32)
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font at a size in pixels."""
    return ImageFont.load_default(size)


def drawable(text: str) -> str:
    """One line of what the font has: accents are dropped, unknown letters become "?"."""
    line = " ".join(text.translate(_SPELLED).split())
    plain = unicodedata.normalize("NFKD", line)
    kept = (letter for letter in plain if not unicodedata.combining(letter))
    return "".join(letter if " " <= letter <= "~" else "?" for letter in kept)


def width_of(text: str, size: int) -> float:
    """Width of a line in pixels."""
    return font(size).getlength(text)


def cut(text: str, size: int, width: float) -> str:
    """A line that fits a width in pixels, with "..." for what does not."""
    line = drawable(text)
    if width_of(line, size) <= width:
        return line
    while line and width_of(f"{line}...", size) > width:
        line = line[:-1]
    return f"{line.rstrip()}..."


def wrap(text: str, size: int, width: float, lines: int) -> list[str]:
    """At most so many lines that fit a width in pixels; the last is cut."""
    made: list[str] = []
    words = drawable(text).split()
    while words and len(made) < lines - 1:
        count = 1
        while count < len(words) and width_of(" ".join(words[: count + 1]), size) <= width:
            count += 1
        made.append(cut(" ".join(words[:count]), size, width))
        words = words[count:]
    return [*made, cut(" ".join(words), size, width)] if words else made
