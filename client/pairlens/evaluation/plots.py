"""What an evaluation found, as plots: mean curves, and the headline of each row.

Each plot is described once and drawn on a `Canvas`, as pixels for files and as SVG for the
report. A row has the same colour and marker in all plots of an evaluation.
"""

from __future__ import annotations

import re
from pathlib import Path

from pairlens.evaluation._canvas import PixelCanvas, VectorCanvas
from pairlens.evaluation._curve_plot import CurveLine, CurvePlot
from pairlens.evaluation._forest_plot import ForestBar, ForestPlot
from pairlens.evaluation._plot_parts import looks
from pairlens.evaluation.protocol import CurveInfo
from pairlens.evaluation.records import Row
from pairlens.evaluation.results import Evaluation


def write_plots(evaluation: Evaluation, directory: Path | str) -> list[Path]:
    """Write a PNG file of each curve, and one of the headline of all rows.

    Args:
        evaluation: Complete or not.
        directory: Made where it is missing; files of the same names are replaced.

    Returns:
        The files: "headline.png" first, then "curve-NAME.png" in the evaluation's order.
        What no row has values of is left out.

    Raises:
        OSError: A file cannot be written.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    plots: list[tuple[str, CurvePlot | ForestPlot | None]] = [
        ("headline", forest_plot(evaluation)),
        *((_file_name(curve), curve_plot(evaluation, curve)) for curve in evaluation.curves),
    ]
    written = []
    for name, plot in plots:
        if plot is not None:
            canvas = PixelCanvas(*plot.size(captioned=True))
            plot.draw(canvas, captioned=True)
            written.append(directory / f"{name}.png")
            canvas.picture().save(written[-1], optimize=True)
    return written


def vector(plot: CurvePlot | ForestPlot) -> str:
    """Draw as an SVG element without the caption, which is its label for those who cannot see."""
    canvas = VectorCanvas(*plot.size(captioned=False))
    plot.draw(canvas, captioned=False)
    return canvas.svg(f"{plot.title}. {plot.caption}")


def in_order(evaluation: Evaluation) -> tuple[Row, ...]:
    """Rows that the model can give: methods as ranked, then controls as ranked."""
    kept = [row for row in evaluation.ranked() if not row.refusal]
    return tuple(sorted(kept, key=lambda row: row.control))


def better(higher_is_better: bool | None) -> str:
    """Which end is better, as a clause for captions; "" where neither is."""
    if higher_is_better is None:
        return ""
    return "higher is better" if higher_is_better else "lower is better"


def curve_plot(evaluation: Evaluation, curve: CurveInfo) -> CurvePlot | None:
    """Describe the mean curves of all rows; None where no row has this curve."""
    rows = in_order(evaluation)
    styles = looks(rows)
    lines = []
    for row in rows:
        mean = evaluation.mean_curve(row.name, curve.name)
        if mean is not None:
            lines.append(CurveLine(row.name, styles[row.name], mean))
    if not lines:
        return None
    percent = curve.x_label if "%" in curve.x_label else f"{curve.x_label} (%)"
    end = better(curve.higher_is_better)
    title = f"{curve.label}: {end}" if end else curve.label
    caption = _curve_caption(evaluation, curve, [line.mean.count for line in lines])
    return CurvePlot(title, percent, curve.y_label, tuple(lines), caption)


def forest_plot(evaluation: Evaluation) -> ForestPlot | None:
    """Describe each row's mean of the headline; None where no row has one."""
    measure = evaluation.measure(evaluation.headline)
    rows = in_order(evaluation)
    styles = looks(rows)
    bars = []
    for row in rows:
        found = evaluation.interval(row.name, measure.name)
        if found.mean is not None:
            low, high = (found.mean if end is None else end for end in (found.low, found.high))
            bars.append(ForestBar(row.name, styles[row.name], row.control, found.mean, low, high))
    if not bars:
        return None
    controls = [bar.mean for bar in bars if bar.control]
    end = better(measure.higher_is_better)
    return ForestPlot(
        f"{measure.label} of each row",
        f"{measure.label}: {end}" if end else measure.label,
        tuple(bars),
        measure.chance,
        controls[0] if controls else None,
        _forest_caption(evaluation),
    )


def _curve_caption(evaluation: Evaluation, curve: CurveInfo, counts: list[int]) -> str:
    count = str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
    which = {None: "", True: "Higher curves are better. ", False: "Lower curves are better. "}
    controls = " Controls are grey and dashed." if _has_controls(evaluation) else ""
    return (
        f"{which[curve.higher_is_better]}Mean over {count} cases; bands or bars of the rows in "
        f"colour: {100 * evaluation.bootstrap.level:g} % bootstrap interval of the mean. The "
        f"legend is in the order of the ranking.{controls}"
    )


def _forest_caption(evaluation: Evaluation) -> str:
    measure = evaluation.measure(evaluation.headline)
    end = better(measure.higher_is_better)
    chance = "" if measure.chance is None else " Dotted line: what a map without knowledge gets."
    controls = " Controls stand below the rule, in grey; the dashed line is the best of them."
    return (
        f"{measure.label}{f': {end}' if end else ''}. Points: mean over the cases; bars and "
        f"brackets: {100 * evaluation.bootstrap.level:g} % bootstrap interval of the mean."
        f"{controls if _has_controls(evaluation) else ''}{chance}"
    )


def _has_controls(evaluation: Evaluation) -> bool:
    return any(row.control for row in evaluation.rows)


def _file_name(curve: CurveInfo) -> str:
    return "curve-" + re.sub(r"[^A-Za-z0-9]+", "-", curve.name).strip("-").lower()
