"""Mosaics of 2 x 2 photographs of which one shows the class: localisation without boxes.

What the model sees of a mosaic is divided evenly among its tiles, so that a map without
knowledge has a quarter of its energy in any of them. The idea is that of Arias-Duart et al.,
"Focus! Rating XAI Methods and Finding Biases" (FUZZ-IEEE 2022).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from pairlens._images import EncodedImage, encode
from pairlens.evaluation.sampling import generator
from pairlens.models import ModelInfo
from pairlens.rendering import Box

TILES = 4


@dataclass(frozen=True)
class Tile:
    """A picture that may be part of mosaics.

    Attributes:
        path: Relative to the data set's root.
        marks: What it shows (its label, what it is predicted as); tiles of a mosaic differ
            in each.
    """

    path: str
    marks: tuple[str, ...]

    def differs(self, other: Tile) -> bool:
        """Whether both may be in one mosaic."""
        return all(mine != its for mine, its in zip(self.marks, other.marks, strict=True))


@dataclass(frozen=True)
class Mosaic:
    """Which pictures a mosaic holds.

    Attributes:
        tiles: In reading order.
        place: Of the tile that the map should lie on, 0 to 3 in reading order.
    """

    tiles: tuple[Tile, ...]
    place: int


def right_place(number: int, seed: int) -> int:
    """Place of the right tile in the mosaic of that number: each once in any four from 4 k on."""
    four, turn = divmod(number, TILES)
    return int(generator(seed, "places", four).permutation(TILES)[turn])


def choose_mosaic(
    right: Tile, number: int, others: Mapping[str, Sequence[Tile]], seed: int
) -> Mosaic | None:
    """The mosaic around one picture.

    Args:
        right: The picture.
        number: Of the mosaic among all, from 0: its place follows.
        others: Tiles to choose from, by their first mark; classes are as likely whatever
            their size.
        seed: Of the choice.

    Returns:
        None where no three others differ from it and from each other.
    """
    draw = generator(seed, "tiles", right.path)
    names = sorted(others)
    chosen = [right]
    for turn in draw.permutation(len(names)):
        members = others[names[turn]]
        fitting = (
            members[place]
            for place in draw.permutation(len(members))
            if all(members[place].differs(tile) for tile in chosen)
        )
        tile = next(fitting, None)
        if tile is not None:
            chosen.append(tile)
        if len(chosen) == TILES:
            place = right_place(number, seed)
            tiles = chosen[1:]
            tiles.insert(place, right)
            return Mosaic(tuple(tiles), place)
    return None


def tile_size(model: ModelInfo) -> tuple[int, int]:
    """Height and width of a tile, in pixels: half of the model's input, rounded up."""
    return math.ceil(model.input_height / 2), math.ceil(model.input_width / 2)


def compose(pictures: Sequence[Image.Image], height: int, width: int) -> Image.Image:
    """Put four pictures together.

    Args:
        pictures: RGB, in reading order. Of each the largest part in the middle that has
            the tile's shape is shown.
        height: Of a tile, in pixels.
        width: Likewise.

    Returns:
        RGB of twice that size.
    """
    mosaic = Image.new("RGB", (2 * width, 2 * height))
    for place, picture in enumerate(pictures):
        box = tile_box(place, height, width)
        tile = ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC)
        mosaic.paste(tile, (int(box.left), int(box.top)))
    return mosaic


def tile_box(place: int, height: int, width: int) -> Box:
    """Where a tile lies, in pixels of the mosaic; arguments as in `Mosaic` and `compose`."""
    row, column = divmod(place, 2)
    return Box(column * width, row * height, (column + 1) * width, (row + 1) * height)


def write_png(mosaic: Image.Image, path: Path) -> EncodedImage:
    """Write a mosaic; several threads may write the same at once."""
    image = encode(mosaic)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{threading.get_ident()}.part")
    part.write_bytes(image.data)
    part.replace(path)
    return EncodedImage(image.data, path.name)
