"""`pairlens explain`: where a model looks in pictures."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pairlens import _saving, cli_arguments, cli_output
from pairlens.cli_arguments import UsageError
from pairlens.client import Client
from pairlens.errors import ImageTooLargeError, ImageUndecodableError, PairlensError
from pairlens.models import MethodKind
from pairlens.results import Explanation

if TYPE_CHECKING:
    from pairlens.cli_arguments import Commands

_SOME_FAILED = 3
# Enough to keep the server's batches filled while this side reads and draws.
_CALLS_AT_ONCE = 4

_EPILOG = """\
examples:
  pairlens explain cat.jpg --out cat-map.png
  pairlens explain cat.jpg --method raw_attention --block 3 --head 0 --out cat-map.png
  pairlens explain cat.jpg --method grad_cam --target goldfish --out cat-map.png
  pairlens explain cat.jpg --out cat-map.npy           the map itself, float32
  pairlens explain photos/*.jpg --out maps             a folder, one PNG for each picture
  pairlens explain cat.jpg --json | jq '.explanations[0].heatmap.values'
"""


@dataclass(frozen=True)
class _Outcome:
    """What became of one picture: a row of the table, and the same for --json."""

    row: tuple[object, ...]
    document: dict[str, object]
    error: PairlensError | None = None


def add_command(commands: Commands) -> None:
    """Add the command."""
    parser = cli_arguments.add_command(
        commands, "explain", "Show where a model looks in pictures.", _EPILOG
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="picture files")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PATH",
        help="where to draw the map: a .png or .jpg file; .npy or .npz for the map itself; "
        "a folder when there are several pictures",
    )
    parser.add_argument(
        "--target",
        metavar="CLASS",
        help="class that the map explains: an index or a label (default: the predicted class)",
    )
    cli_arguments.add_method(parser, MethodKind.EXPLANATION)
    cli_arguments.add_style(parser, MethodKind.EXPLANATION)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; 0, or 3 when some of several pictures could not be used."""
    cli_arguments.check_files(arguments.images)
    cli_arguments.style(arguments)
    places = _places(arguments.images, arguments.out)
    with (
        ThreadPoolExecutor(_CALLS_AT_ONCE) as executor,
        # Closed first: whatever ends this early, calls under way end with it.
        cli_arguments.open_client(arguments) as client,
    ):
        futures = [
            executor.submit(_explain, client, arguments, image, place)
            for image, place in zip(arguments.images, places, strict=True)
        ]
        try:
            outcomes = [future.result() for future in cli_output.progress(futures, "explaining")]
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
    _report(outcomes, json=arguments.json)
    return _SOME_FAILED if any(outcome.error for outcome in outcomes) else 0


def _explain(
    client: Client, arguments: argparse.Namespace, image: Path, place: Path | None
) -> _Outcome:
    """Explain one picture and write its file; errors of one of several are its own."""
    try:
        explanation = client.explain(
            image,
            model=arguments.model,
            method=arguments.method,
            target=_target(arguments.target),
            **cli_arguments.parameters(arguments),
        )
    except (ImageUndecodableError, ImageTooLargeError) as error:
        if len(arguments.images) == 1:
            raise
        row = (image, f"failed: {error.message}", *[None] * 5)
        return _Outcome(row, {"image": str(image), "error": error}, error)
    if place is not None:
        explanation.save(place, **cli_arguments.style(arguments))
    return _Outcome(_row(image, explanation), {"image": str(image)} | _document(explanation, place))


def _target(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdecimal() else text


def _row(image: Path, explanation: Explanation) -> tuple[object, ...]:
    target = explanation.target
    name = None if target is None else f"{target.class_index} {target.label}".strip()
    return (
        image,
        explanation.provenance.model,
        explanation.method,
        name,
        explanation.score,
        explanation.min,
        explanation.max,
    )


def _document(explanation: Explanation, place: Path | None) -> dict[str, object]:
    return {
        "heatmap": explanation,
        "target": explanation.target,
        "score": explanation.score,
        "method": explanation.method,
        "provenance": explanation.provenance,
        "timing": explanation.timing,
        "out": None if place is None else str(place),
    }


def _report(outcomes: Sequence[_Outcome], *, json: bool) -> None:
    if json:
        cli_output.print_json({"explanations": [outcome.document for outcome in outcomes]})
    else:
        columns = ("image", "model", "method", "target", "probability", "min", "max")
        cli_output.print_table("", columns, [outcome.row for outcome in outcomes])
    for outcome in outcomes:
        if outcome.error is not None:
            cli_output.warn(f"{outcome.row[0]}: {outcome.error.message}")


def _places(images: Sequence[Path], out: Path | None) -> list[Path | None]:
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
    places: list[Path | None] = []
    taken: Counter[str] = Counter()
    for image in images:
        taken[image.stem] += 1
        number = taken[image.stem]
        places.append(out / f"{image.stem}{'' if number == 1 else f'-{number}'}.png")
    return places
