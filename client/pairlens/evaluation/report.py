"""One HTML file that shows an evaluation: no script, no network, the same bytes every time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path

from pairlens.evaluation import report_tables
from pairlens.evaluation._standing import Standing, defined_counts, standing, uneven
from pairlens.evaluation.plots import (
    better,
    curve_plot,
    forest_plot,
    in_order,
    vector,
)
from pairlens.evaluation.records import Row
from pairlens.evaluation.report_page import facts, figure, page, paragraph, section
from pairlens.evaluation.report_pictures import CasePictures, explain_order, scale_html
from pairlens.evaluation.report_tables import PEER, UNPROVEN, anchor
from pairlens.evaluation.results import Evaluation

_NAMED = 5  # methods that a sentence lists; more are counted


def write_report(evaluation: Evaluation, path: Path | str) -> Path:
    """Write a report that a browser shows as it is.

    Args:
        evaluation: Complete or not. Pictures are read from its `root`; one that is not there
            any more is said to be missing in its place.
        path: Of the file; a file of that name is replaced.

    Returns:
        The path. Equal evaluations make equal files, which hold no date.

    Raises:
        OSError: The file cannot be written.
    """
    path = Path(path)
    path.write_text(page(evaluation.title, _body(evaluation)), encoding="utf-8")
    return path


def _body(evaluation: Evaluation) -> Iterator[str]:
    standings = {each.name: standing(evaluation, each) for each in evaluation.measures}
    left_out = report_tables.left_out(evaluation)
    yield _header(evaluation, bool(left_out))
    yield "<main>"
    yield section("result", "Result", _result(evaluation, standings))
    yield section("plots", "Curves", _curves(evaluation))
    yield section("cases", "Best, median and worst cases", _cases(evaluation))
    if left_out:
        yield section("left-out", "What was left out", left_out)
    yield section("measures", "What the measures are", [report_tables.glossary(evaluation)])
    yield section("configuration", "Configuration", [report_tables.configuration(evaluation)])
    yield "</main>"


def _header(evaluation: Evaluation, left_out: bool) -> str:
    bootstrap = evaluation.bootstrap
    interval = f"{100 * bootstrap.level:g} %, {bootstrap.samples} draws within classes"
    counted = [
        ("folder of the pictures", evaluation.root.name),
        ("cases", str(evaluation.planned)),
        ("rows", str(len(evaluation.rows))),
        ("intervals", interval),
        ("configuration hash", evaluation.hash),
    ]
    links = [("result", "Result"), ("plots", "Curves"), ("cases", "Cases")]
    links += [("left-out", "Left out")] if left_out else []
    links += [("measures", "Measures"), ("configuration", "Configuration")]
    return "\n".join(
        [
            "<header>",
            f"<h1>{escape(evaluation.title)}</h1>",
            facts([*_settings(evaluation), *counted]),
            *_notices(evaluation),
            "<nav>" + " ".join(f'<a href="#{to}">{name}</a>' for to, name in links) + "</nav>",
            "</header>",
        ]
    )


def _settings(evaluation: Evaluation) -> list[tuple[str, str]]:
    """The settings that are words or numbers: model, fingerprint, digest of the data, seed."""
    found = evaluation.configuration.get("settings")
    settings = found if isinstance(found, Mapping) else {}
    return [
        (name.replace("_", " "), str(value))
        for name, value in settings.items()
        if value != "" and isinstance(value, (str, int, float)) and not isinstance(value, bool)
    ]


def _notices(evaluation: Evaluation) -> Iterator[str]:
    if not evaluation.complete:
        rows = sum(not row.refusal for row in evaluation.rows)
        yield paragraph(
            f"This evaluation is not complete: {len(evaluation.records)} of "
            f"{rows * evaluation.planned} results are here, and rows may be over different cases.",
            "notice",
        )


def _result(evaluation: Evaluation, standings: Mapping[str, Standing | None]) -> Iterator[str]:
    yield _verdict(evaluation, standings[evaluation.headline])
    yield from _warnings(evaluation)
    yield paragraph(_how_to_read(evaluation))
    yield report_tables.ranking(evaluation, standings)
    plot = forest_plot(evaluation)
    if plot is not None:
        yield figure(vector(plot), plot.caption)


def _verdict(evaluation: Evaluation, found: Standing | None) -> str:
    """The ranking in words, no more certain than the intervals are."""
    measure = evaluation.measure(evaluation.headline)
    if found is None:
        return paragraph("No method has a value of the measure that ranks rows.", "notice")
    methods = [row.name for row in in_order(evaluation) if not row.control]

    def named(names: frozenset[str]) -> str:
        if len(names) > _NAMED:
            return f"{len(names)} of {len(methods)} methods, marked in the table"
        return ", ".join(f"<b>{escape(name)}</b>" for name in methods if name in names)

    sentences = [
        f"By {escape(measure.label)}, where {better(measure.higher_is_better)}, the best method is "
        f"<b>{escape(found.best)}</b>."
    ]
    if found.peers:
        sentences.append(f"Not told apart from it: {named(found.peers)}.")
    elif len(methods) > 1:
        sentences.append("Every other method is told apart from it.")
    if found.control is not None:
        control = f"the best control (<b>{escape(found.control)}</b>)"
        if found.unproven:
            sentences.append(f"Not shown to be better than {control}: {named(found.unproven)}.")
        else:
            sentences.append(f"Every method is shown to be better than {control}.")
    return f"<p>{' '.join(sentences)}</p>"


def _warnings(evaluation: Evaluation) -> Iterator[str]:
    """What measures are undefined for some rows more often than for others."""
    found = [each for each in evaluation.measures if uneven(evaluation, each)]
    parts = []
    for measure in found[:_NAMED]:
        counts = defined_counts(evaluation, measure)
        least, most = min(counts, key=counts.__getitem__), max(counts.values())
        parts.append(f"{measure.label} ({least}: {counts[least]} of {most})")
    if parts:
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        yield paragraph(
            "Means are over different cases: undefined ones are left out, which may favour rows "
            f"that have many of them: {', '.join(parts)}{more}. The best method and all "
            "comparisons are over cases that the rows in question have in common.",
            "notice",
        )


def _how_to_read(evaluation: Evaluation) -> str:
    label = evaluation.measure(evaluation.headline).label
    level = f"{100 * evaluation.bootstrap.level:g} %"
    text = (
        f"How to read: a cell is the mean over the cases with its {level} interval, a bootstrap "
        f"over the cases within classes. Rows are ranked by {label}; ↑ higher is better, ↓ lower "
        "is better; the best method is bold, by the cases that all methods define. "
        f"{PEER} not told apart from the best: the interval of the difference, paired by case, "
        "holds 0. "
    )
    if any(row.control for row in evaluation.rows):
        text += (
            f"{UNPROVEN} not shown, in the same way, to be better than the best control (shaded). "
            "Controls know little or nothing of the model or of the partner: a method that does "
            "not beat them has shown nothing by this measure. "
        )
    return f"{text}Each comparison stands alone; intervals are not widened for their number."


def _curves(evaluation: Evaluation) -> Iterator[str]:
    drawn = 0
    for curve in evaluation.curves:
        plot = curve_plot(evaluation, curve)
        if plot is not None:
            drawn += 1
            yield figure(vector(plot), plot.caption)
    if not drawn:
        yield paragraph("This evaluation has no curves.")


def _cases(evaluation: Evaluation) -> Iterator[str]:
    rows = in_order(evaluation)
    pictures = CasePictures(evaluation, len(rows))
    measure = evaluation.measure(evaluation.headline)
    yield (
        f"<p>{escape(explain_order(measure))} Colours: {scale_html()}, from the smallest to the "
        "largest value of a map, or of both maps of a pair. Dimmed parts were not shown to the "
        "model.</p>"
    )
    for row in rows:
        yield _row(evaluation, row, pictures.html(row))


def _row(evaluation: Evaluation, row: Row, cases: str) -> str:
    about = paragraph(row.description, "faint") if row.description else ""
    found = evaluation.interval(row.name, evaluation.headline)
    label = evaluation.measure(evaluation.headline).label
    mean = (
        ""
        if found.mean is None
        else f": {label} {found.mean:.3f} [{found.low:.3f}, {found.high:.3f}], n = {found.count}"
    )
    after = f"{' (control)' if row.control else ''}{mean}"
    return (
        f'<section class="row" id="{anchor(evaluation, row)}">\n'
        f'<h3>{escape(row.name)}<span class="faint after">{escape(after)}</span></h3>\n{about}\n'
        f"{cases or paragraph('No case has a value.', 'faint')}\n</section>"
    )
