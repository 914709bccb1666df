"""What became of explanations: rows for people, documents for programs, files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pairlens import _saving, cli_output
from pairlens.cli_arguments import UsageError
from pairlens.errors import PairlensError
from pairlens.results import Explanation

SOME_FAILED = 3
"""Exit code when some of several things could not be done."""

_COLUMNS = ("image", "model", "method", "target", "score", "min", "max")


@dataclass(frozen=True)
class Outcome:
    """What became of one explanation: a row of the table, and the same for --json.

    Attributes:
        what: What was to be explained, for messages.
        row: Under the columns of the table.
        document: For --json.
        error: Why there is no explanation, or None.
    """

    what: str
    row: tuple[object, ...]
    document: dict[str, object]
    error: PairlensError | None = None


def explained(image: Path, explanation: Explanation, place: Path | None) -> Outcome:
    """An explanation that was made."""
    row = (
        image,
        explanation.provenance.model,
        explanation.method,
        explanation.target,
        explanation.score,
        explanation.min,
        explanation.max,
    )
    return Outcome(str(image), row, {"image": str(image)} | explanation_json(explanation, place))


def failed(image: Path, error: PairlensError, method: str = "", model: str = "") -> Outcome:
    """An explanation that could not be made."""
    row = (image, model, method, f"failed: {error.message}", None, None, None)
    named = {"method": {"name": method}} if method else {}
    what = f"{image}, {method}" if method else str(image)
    return Outcome(what, row, {"image": str(image), **named, "error": error}, error)


def explanation_json(explanation: Explanation, place: Path | None) -> dict[str, object]:
    """All of an explanation but its picture."""
    names = (
        "target",
        "score",
        "method",
        "provenance",
        "timing",
        "panels",
        "units",
        "interrelations",
        "keypoints",
        "diagnostics",
    )
    document: dict[str, object] = {"heatmap": explanation}
    return (
        document
        | {name: getattr(explanation, name) for name in names}
        | {"out": None if place is None else str(place)}
    )


def report(outcomes: Sequence[Outcome], *, json: bool) -> int:
    """Print all outcomes, and the failed ones on standard error.

    Returns:
        The exit code.
    """
    if json:
        cli_output.print_json({"explanations": [outcome.document for outcome in outcomes]})
    else:
        cli_output.print_table("", _COLUMNS, [outcome.row for outcome in outcomes])
    for outcome in outcomes:
        if outcome.error is not None:
            cli_output.warn(f"{outcome.what}: {cli_output.told(outcome.error)}")
    return SOME_FAILED if any(outcome.error for outcome in outcomes) else 0


def places(images: Sequence[Path], out: Path | None) -> list[Path | None]:
    """Where each picture's file goes.

    Raises:
        UsageError: --out does not suit the number of pictures.
        InvalidParameterError: Its suffix is none that can be written.
    """
    if out is None:
        return [None] * len(images)
    if len(images) == 1 and not out.is_dir():
        _saving.check_suffix(out, npy=True)
        return [out]
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out is a folder when there are several pictures; {out} is a file")
    if out.suffix.lower() in (*_saving.PICTURE_SUFFIXES, *_saving.ARRAY_SUFFIXES):
        raise UsageError(f"--out is a folder when there are several pictures, not {out}")
    out.mkdir(parents=True, exist_ok=True)
    found: list[Path | None] = []
    taken: Counter[str] = Counter()
    for image in images:
        taken[image.stem] += 1
        number = taken[image.stem]
        found.append(out / f"{image.stem}{'' if number == 1 else f'-{number}'}.png")
    return found
