import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pairlens.evaluation import plots
from pairlens.evaluation._canvas import PixelCanvas, VectorCanvas, dashes
from pairlens.evaluation._plot_parts import HIGHLIGHTED, Scale, looks, spanned
from pairlens.evaluation.records import Row
from tests.client.evaluation.made_evaluation import CURVES, HOSTILE, made_evaluation

METHODS = {"rollout": 0.3, "grad_cam": 0.2, "attention": 0.25}
CONTROLS = {"random": 0.4, "centre": 0.1}


@pytest.fixture
def evaluation(tmp_path):
    return made_evaluation(tmp_path, METHODS, CONTROLS)


def test_methods_stand_in_their_ranking_before_the_controls_in_theirs(evaluation):
    names = [row.name for row in plots.in_order(evaluation)]
    assert names == ["grad_cam", "attention", "rollout", "centre", "random"]


def test_looks():
    rows = [*(Row(f"m{i}") for i in range(10)), *(Row(f"c{i}", control=True) for i in range(4))]
    found = looks(rows)
    shown = [found[f"m{i}"] for i in range(HIGHLIGHTED)]
    assert len({look.color for look in shown}) == HIGHLIGHTED
    assert all(look.shape and not look.dash for look in shown)
    assert [found[name].shape for name in ("m8", "m9", "c0")] == [None] * 3
    assert len({found[f"c{i}"].dash for i in range(4)}) == 4
    assert all(len(set(found[f"c{i}"].color)) <= 2 for i in range(4))  # greys, bluish at most


def test_scale_and_span():
    scale = Scale((100, 50, 300, 250), (0, 10), (-1, 1))
    assert (scale.x(2.5), scale.y(0.5)) == (150, 100)
    assert spanned([0.1, 1.1]) == pytest.approx((0, 1.16))  # zero is near
    assert spanned([1.0, 1.5, float("nan")]) == pytest.approx((0.97, 1.53))
    assert spanned([-0.5, 0.5]) == pytest.approx((-0.56, 0.56))
    assert spanned([]) == (0, 1)
    low, high = spanned([0.25])
    assert low < 0.25 < high


def test_dashes_go_around_corners():
    # 6 right, then 6 down: strokes of 4 and gaps of 1.
    assert dashes([(0, 0), (6, 0), (6, 6)], (4, 1)) == [
        [(0, 0), (4, 0)],
        [(5, 0), (6, 0), (6, 3)],
        [(6, 4), (6, 6)],
    ]


def test_curves_are_the_means_of_the_records(evaluation):
    plot = plots.curve_plot(evaluation, CURVES[0])
    assert plot.title == "Deletion: lower is better"
    assert plot.x_label == "share of the picture erased (%)"
    assert plot.y_label == "probability"
    assert [line.name for line in plot.lines][:2] == ["grad_cam", "attention"]
    scores = [
        record.curves["deletion"].scores
        for record in evaluation.records
        if record.row == "attention"
    ]
    np.testing.assert_allclose(plot.lines[1].mean.mean, np.mean(scores, axis=0))
    assert "Lower curves are better" in plot.caption
    assert "Mean over 23 to 24 cases" in plot.caption
    assert "95 % bootstrap interval" in plot.caption
    assert plots.curve_plot(evaluation, replace(CURVES[0], name="other")) is None


def test_lines_run_through_the_points(evaluation):
    """Pixels of the SVG turned back into values by the numbers at the axes."""
    plot = plots.curve_plot(evaluation, CURVES[0])
    svg = plots.vector(plot)
    to_x, to_y = axis(svg, "middle"), axis(svg, "end")
    color = "#{:02x}{:02x}{:02x}".format(*plot.lines[0].look.color)
    (points,) = [
        found
        for found in re.findall(rf'points="([^"]+)" fill="none" stroke="{color}"', svg)
        if found.count(",") > 2
    ]
    x, y = np.array([point.split(",") for point in points.split()], float).T
    np.testing.assert_allclose(to_x(x), 100 * plot.lines[0].mean.fractions, atol=0.02)
    np.testing.assert_allclose(to_y(y), plot.lines[0].mean.mean, atol=2e-4)


def test_forest_plot_shows_means_intervals_and_the_best_control(evaluation):
    plot = plots.forest_plot(evaluation)
    assert [bar.name for bar in plot.bars] == [
        "grad_cam",
        "attention",
        "rollout",
        "centre",
        "random",
    ]
    table = {line["row"]: line for line in evaluation.table()}
    for bar in plot.bars:
        line = table[bar.name]
        ends = (line["deletion.low"], line["deletion"], line["deletion.high"])
        assert (bar.low, bar.mean, bar.high) == ends
    assert plot.control == table["centre"]["deletion"]
    assert plot.x_label == "Deletion AUC: lower is better"
    svg = plots.vector(plot)
    to_x = axis(svg, "middle")
    (cx,) = re.findall(r'<circle cx="([\d.]+)"[^>]+fill="#0072b2"', svg)
    assert to_x(float(cx)) == pytest.approx(plot.bars[0].mean, abs=1e-4)
    shown = f"{table['rollout']['deletion']:.3f} [{table['rollout']['deletion.low']:.3f}, "
    assert shown in svg


def test_chance_is_marked(evaluation):
    plot = plots.forest_plot(replace(evaluation, headline="energy"))
    assert plot.chance == 0.25
    assert "chance 0.25" in plots.vector(plot)
    assert "without knowledge" in plot.caption
    assert "chance" not in plots.vector(plots.forest_plot(evaluation))


def test_names_are_escaped(tmp_path):
    evaluation = made_evaluation(tmp_path, {HOSTILE: 0.2}, {}, cases=4)
    for plot in (plots.forest_plot(evaluation), plots.curve_plot(evaluation, CURVES[0])):
        svg = plots.vector(plot)
        assert "<script" not in svg
        assert "&lt;script&gt;" in svg


def test_better_curves_are_drawn_below(evaluation):
    """Deletion, in the file's pixels: the best method's line is below the worst one's."""
    plot = plots.curve_plot(evaluation, CURVES[0])
    canvas = PixelCanvas(*plot.size(captioned=False))
    plot.draw(canvas, captioned=False)
    pixels = np.asarray(canvas.picture()).astype(int)
    column = pixels[60:400, 300]
    rows = {
        line.name: np.abs(column - line.look.color).sum(axis=1).argmin()
        for line in plot.lines
        if line.look.shape
    }
    assert rows["grad_cam"] > rows["attention"] > rows["rollout"]


def test_files(evaluation, tmp_path):
    written = plots.write_plots(evaluation, tmp_path / "new" / "plots")
    names = ["headline.png", "curve-deletion.png", "curve-insertion.png"]
    assert [path.name for path in written] == names
    again = plots.write_plots(evaluation, tmp_path / "again")
    assert [path.read_bytes() for path in written] == [path.read_bytes() for path in again]
    with Image.open(written[1]) as picture:
        assert picture.size == plots.curve_plot(evaluation, CURVES[0]).size(captioned=True)


def test_nothing_to_draw(evaluation, tmp_path):
    empty = replace(evaluation, records=(), failures=())
    assert plots.forest_plot(empty) is None
    assert plots.write_plots(empty, tmp_path / "plots") == []


def test_one_case_and_many_rows(tmp_path):
    methods = {f"method_{index}": 0.02 * (index + 1) for index in range(20)}
    evaluation = made_evaluation(tmp_path, methods, CONTROLS, cases=2)
    plot = plots.curve_plot(evaluation, CURVES[1])
    assert len(plot.lines) == 22
    width, height = plot.size(captioned=False)
    assert height > 22 * 20
    svg = plots.vector(plot)
    ends = [float(x) for x in re.findall(r'<text x="([\d.]+)"', svg)]
    assert max(ends) < width
    assert "nan" not in svg


@pytest.mark.parametrize("canvas", [PixelCanvas(40, 20), VectorCanvas(40, 20)])
def test_both_canvases_take_the_same_calls(canvas):
    canvas.line([(0, 0), (10, 10)], (1, 2, 3), 2, (3, 1))
    canvas.polygon([(0, 0), (10, 0), (5, 5)], (1, 2, 3), 0.5)
    canvas.circle((20, 10), 3, (200, 0, 0))
    canvas.text((5, 5), "a & b", 12, (0, 0, 0), "middle", upright=True, bold=True)
    if isinstance(canvas, PixelCanvas):
        assert canvas.picture().getpixel((20, 10)) == (200, 0, 0)
    else:
        assert '<circle cx="20" cy="10" r="3" fill="#c80000"/>' in canvas.svg("x")


def axis(svg, anchor):
    """From pixels to the values that the numbers along an axis stand for."""
    found = re.findall(
        rf'<text x="([\d.]+)" y="([\d.]+)" dy="0.35em" font-size="12" [^>]*'
        rf'text-anchor="{anchor}">(-?[\d.]+)</text>',
        svg,
    )
    pixels = [float(x if anchor == "middle" else y) for x, y, _ in found]
    slope, offset = np.polyfit(pixels, [float(number) for *_, number in found], 1)
    return lambda pixel: slope * np.asarray(pixel) + offset
