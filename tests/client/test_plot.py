import numpy as np
import pytest
from PIL import Image

from pairlens._plot import Curve, line_plot, ticks

RED, BLUE = (200, 0, 0), (0, 0, 200)
NAN = float("nan")


def curve(values: list[float], spread: float = 0.0, color=RED, marker: str = "circle") -> Curve:
    middle = np.array(values, np.float64)
    return Curve("name", color, marker, middle, middle - spread, middle + spread)


def plot(*curves: Curve, **options: object) -> np.ndarray:
    x = range(len(curves[0].middle))
    labels = {"title": "title", "x_label": "across", "y_label": "up"}
    return np.asarray(line_plot(x, curves, **(labels | options))).astype(int)


def where(drawn: np.ndarray, color: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of a colour; smoothing at edges leaves it in the middle of lines."""
    return np.nonzero(np.abs(drawn - np.array(color)).max(axis=2) < 12)


@pytest.mark.parametrize(
    ("low", "high", "count", "expected"),
    [
        (0, 1, 5, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 33, 5, [0, 10, 20, 30]),
        (-3, 4, 5, [-2, 0, 2, 4]),
        (0.98, 1.02, 4, [0.98, 0.99, 1.0, 1.01, 1.02]),
        (1e-9, 5e-9, 4, [1e-9, 2e-9, 3e-9, 4e-9, 5e-9]),
        (0, 1e6, 5, [0, 2e5, 4e5, 6e5, 8e5, 1e6]),
    ],
)
def test_ticks_are_round(low: float, high: float, count: int, expected: list[float]):
    assert ticks(low, high, count) == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_a_curve_goes_where_its_values_are():
    drawn = plot(curve([0, 0.5, 1]), y_range=(0, 1))
    rows, columns = where(drawn, RED)
    first, last = rows[columns < columns.min() + 6], rows[columns > columns.max() - 6]
    assert columns.min() < 90
    assert columns.max() > 680
    assert first.mean() - last.mean() > 250  # it climbs over most of the plot's height
    middle = rows[np.abs(columns - (columns.min() + columns.max()) / 2) < 3]
    assert middle.mean() == pytest.approx((first.mean() + last.mean()) / 2, abs=4)


def test_a_constant_curve_is_level():
    rows, _ = where(plot(curve([0.5] * 4), y_range=(0, 1)), RED)
    assert np.ptp(rows) <= 10  # the markers' height


def test_a_gap_is_left_where_there_is_no_value():
    whole = plot(curve([0.5] * 5), y_range=(0, 1))
    torn = plot(curve([0.5, 0.5, NAN, 0.5, 0.5]), y_range=(0, 1))
    _, columns = where(whole, RED)
    middle = (columns.min() + columns.max()) // 2
    assert (columns == middle).any()
    _, columns = where(torn, RED)
    assert not (np.abs(columns - middle) < 100).any()


def test_a_lone_value_is_a_marker():
    rows, columns = where(plot(curve([NAN, 0.5, NAN]), y_range=(0, 1)), RED)
    assert 4 <= np.ptp(columns) <= 12
    assert 4 <= np.ptp(rows) <= 12


def test_the_band_reaches_from_low_to_high():
    drawn = plot(curve([0.5] * 4, spread=0.25), y_range=(0, 1))
    band = (drawn[:, 400, 0] > drawn[:, 400, 1] + 15) & (drawn[:, 400, 1] > 150)
    bare = plot(curve([0.5] * 4), y_range=(0, 1))
    frame = 50 + np.flatnonzero((bare[50:, 66] < 200).all(axis=1))  # below the title
    assert band.sum() == pytest.approx((frame.max() - frame.min()) / 2, rel=0.06)


@pytest.mark.parametrize("marker", ["circle", "square", "triangle", "diamond"])
def test_markers_differ(marker: str):
    drawn = plot(curve([NAN, 0.5, NAN], marker=marker), y_range=(0, 1))
    circle = plot(curve([NAN, 0.5, NAN]), y_range=(0, 1))
    assert np.array_equal(drawn, circle) == (marker == "circle")


def test_every_curve_is_in_the_legend():
    drawn = plot(curve([0.1] * 3), curve([0.9] * 3, color=BLUE), y_range=(0, 1))
    for color in (RED, BLUE):
        rows, _ = where(drawn[:80], color)
        assert rows.size


def test_all_values_missing_leaves_axes():
    drawn = plot(curve([NAN, NAN]))
    assert not where(drawn, RED)[0].size
    assert (drawn < 200).any()


@pytest.mark.parametrize("values", [[3.0], [0.0, 0.0], [-5.0, 7.0], [1e-12, 3e-12], [1e9, 1e9]])
def test_any_range_can_be_drawn(values: list[float]):
    rows, _ = where(plot(curve(values)), RED)
    assert rows.size


def test_size():
    assert line_plot(
        [0, 1], [curve([0, 1])], title="", x_label="", y_label="", size=(300, 200)
    ).size == (300, 200)
    assert isinstance(line_plot([5], [curve([1])], title="", x_label="", y_label=""), Image.Image)


def ticks_below(x: list[float]) -> int:
    """How many ticks the x axis has."""
    labels = {"title": "", "x_label": "", "y_label": ""}
    middle = np.full(len(x), 0.5)
    flat = Curve("name", RED, "circle", middle, middle, middle)
    drawn = np.asarray(line_plot(x, [flat], y_range=(0, 1), **labels)).astype(int)
    axis = int(np.flatnonzero((drawn[:, 80:680] < 200).all(axis=2).all(axis=1)).max())
    dark = (drawn[axis + 3, 70:] < 200).all(axis=1)  # right of the labels of the y axis
    return int((np.diff(dark.astype(int)) == 1).sum())


def test_ticks_lie_on_whole_numbers_or_on_round_ones():
    assert ticks_below(list(range(12))) == 12
    assert ticks_below(list(range(26))) == 13
    assert ticks_below(np.linspace(0, 1, 65).tolist()) == 6
    assert ticks_below([0.0, 0.03, 1.0]) == 6


def test_markers_of_very_many_points_do_not_run_together():
    for count, expected in ((61, 16), (60, 60)):
        drawn = plot(curve([0.5] * count), y_range=(0, 1))
        rows, columns = where(drawn, RED)
        line = int(np.median(rows))
        above = columns[rows == line - 3]  # above the line: markers alone
        markers = 1 + int((np.diff(np.sort(above)) > 2).sum())
        assert markers == expected
