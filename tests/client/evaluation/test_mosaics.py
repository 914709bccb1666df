from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from pairlens.evaluation.mosaics import (
    Tile,
    choose_mosaic,
    compose,
    right_place,
    tile_box,
    write_png,
)
from pairlens.rendering import Box

COLOURS = ["red", "lime", "blue", "white"]


def tiles(*classes: str, each: int = 3) -> dict[str, list[Tile]]:
    return {name: [Tile(f"{name}/{n}.jpg", (name,)) for n in range(each)] for name in classes}


def test_each_tile_lies_in_its_box() -> None:
    pictures = [Image.new("RGB", (30, 20), colour) for colour in COLOURS]
    mosaic = compose(pictures, 5, 7)
    assert mosaic.size == (14, 10)
    for place, colour in enumerate(COLOURS):
        box = tile_box(place, 5, 7)
        part = mosaic.crop((int(box.left), int(box.top), int(box.right), int(box.bottom)))
        assert part.getcolors() == [(35, Image.new("RGB", (1, 1), colour).getpixel((0, 0)))]
    assert tile_box(0, 5, 7) == Box(0, 0, 7, 5)
    assert tile_box(3, 5, 7) == Box(7, 5, 14, 10)


def test_a_tile_shows_the_middle_of_its_picture() -> None:
    # Red | green | red, each a square: a square tile shows the green one.
    wide = Image.new("RGB", (24, 8), "red")
    wide.paste("lime", (8, 0, 16, 8))
    mosaic = np.asarray(compose([wide] * 4, 8, 8))
    assert (mosaic == [0, 255, 0]).all()


def test_a_map_on_the_tile_has_all_its_energy_there_and_a_uniform_one_a_quarter() -> None:
    def share(values: np.ndarray, place: int) -> float:
        box = tile_box(place, 2, 2)
        inside = values[int(box.top) : int(box.bottom), int(box.left) : int(box.right)]
        return float(inside.sum() / values.sum())

    for place in range(4):
        perfect = np.zeros((4, 4))
        row, column = divmod(place, 2)
        perfect[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = [[1, 3], [0, 2]]
        assert share(perfect, place) == 1
        assert share(np.ones((4, 4)), place) == 0.25


def test_places_are_balanced_and_seeded() -> None:
    places = [right_place(number, 5) for number in range(40)]
    for four in range(10):
        assert sorted(places[4 * four : 4 * four + 4]) == [0, 1, 2, 3]
    assert places == [right_place(number, 5) for number in range(40)]
    assert len({tuple(places[4 * four : 4 * four + 4]) for four in range(10)}) > 4


def test_the_other_tiles_are_of_three_other_classes() -> None:
    others = tiles("a", "b", "c", "d", "e")
    seen: Counter[str] = Counter()
    for number in range(200):
        right = Tile(f"a/{number}.jpg", ("a",))
        mosaic = choose_mosaic(right, number, others, 0)
        assert mosaic is not None
        assert mosaic.tiles[mosaic.place] == right
        assert mosaic == choose_mosaic(right, number, others, 0)
        marks = [tile.marks[0] for tile in mosaic.tiles]
        assert len(set(marks)) == 4
        seen.update(marks)
    assert seen["a"] == 200
    # Three of four classes: 150 of 200 each, with a deviation of 6.
    assert all(120 < seen[name] < 180 for name in "bcde")


def test_tiles_differ_in_every_mark() -> None:
    # d's pictures are predicted as the right tile's class but for one, e's all.
    others = {
        "b": [Tile("b", ("b", "1"))],
        "c": [Tile("c", ("c", "2"))],
        "d": [Tile("d0", ("d", "0")), Tile("d3", ("d", "3"))],
        "e": [Tile("e", ("e", "0"))],
    }
    mosaic = choose_mosaic(Tile("a", ("a", "0")), 0, others, 0)
    assert mosaic is not None
    assert {tile.path for tile in mosaic.tiles} == {"a", "b", "c", "d3"}
    del others["c"]
    assert choose_mosaic(Tile("a", ("a", "0")), 0, others, 0) is None


def test_a_file_is_the_same_each_time(tmp_path: Path) -> None:
    mosaic = compose([Image.new("RGB", (9, 9), colour) for colour in COLOURS], 4, 4)
    first = write_png(mosaic, tmp_path / "mosaics" / "a.png")
    second = write_png(mosaic, tmp_path / "mosaics" / "a.png")
    assert first.data == second.data == (tmp_path / "mosaics" / "a.png").read_bytes()
    assert np.array_equal(np.asarray(first.picture()), np.asarray(mosaic))
    assert [path.name for path in (tmp_path / "mosaics").iterdir()] == ["a.png"]
