"""`pairlens explain`: where a model looks in pictures."""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairlens import _saving, cli_arguments, cli_output, cli_parameters, cli_results, cli_sheet
from pairlens._connection import DEFAULT_TIMEOUT_S
from pairlens.cli_arguments import UsageError
from pairlens.cli_results import Outcome
from pairlens.client import Client
from pairlens.errors import ImageTooLargeError, ImageUndecodableError
from pairlens.figures import panel_grid
from pairlens.models import MethodKind
from pairlens.results import Explanation
from pairlens.targets import SimilarTo

if TYPE_CHECKING:
    from pairlens.cli_arguments import Commands

# Enough to keep the server's batches filled while this side reads and draws.
_CALLS_AT_ONCE = 4

_EPILOG = """\
examples:
  pairlens explain cat.jpg --out cat-map.png
  pairlens explain cat.jpg --method raw_attention --block 3 --head 0 --out cat-map.png
  pairlens explain cat.jpg --method grad_cam --target goldfish --out cat-map.png
  pairlens explain cat.jpg --similar-to a.jpg b.jpg --out cat-map.png
  pairlens explain cat.jpg --method all --out all.png      every method on one sheet
  pairlens explain cat.jpg --heads --out heads.png         every head of the last block
  pairlens explain cat.jpg --heads --blocks --out all.png  every head of every block
  pairlens explain cat.jpg --method attention_mask --out m.png --save-mask mask.npy
  pairlens explain cat.jpg --out cat-map.npy               the map itself, float32
  pairlens explain photos/*.jpg --out maps                 a folder, one PNG for each picture
  pairlens explain cat.jpg --json | jq '.explanations[0].heatmap.values'
"""


def add_command(commands: Commands) -> None:
    """Add the command."""
    parser = cli_arguments.add_command(
        commands,
        "explain",
        "Show where a model looks in pictures.",
        _EPILOG,
        timeout=f"{DEFAULT_TIMEOUT_S:g}, with --method all {cli_sheet.TIMEOUT_S:g}",
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="picture files")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PATH",
        help="where to draw the map: a .png or .jpg file; .npy for the map itself, .npz for all "
        "numbers of the answer; a folder when there are several pictures",
    )
    parser.add_argument(
        "--target",
        metavar="CLASS",
        help="class that the map explains: an index or a label (default: the predicted class)",
    )
    parser.add_argument(
        "--similar-to",
        nargs="+",
        type=Path,
        metavar="IMAGE",
        help="explain the similarity to these pictures, summed, instead of a class",
    )
    _add_figures(parser)
    # `each` is what --heads and --blocks say, the latter has the flag of another parameter,
    # and one picture has no match matrix.
    cli_parameters.add_method(
        parser,
        MethodKind.EXPLANATION,
        but=("each", "blocks", "match_matrix"),
        also=(cli_sheet.ALL,),
    )
    cli_arguments.add_style(parser, MethodKind.EXPLANATION)
    cli_arguments.add_cache(parser)
    parser.set_defaults(run=run)


def _add_figures(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "figures", "What --out draws instead of one map; --json has the same numbers."
    )
    group.add_argument(
        "--heads", action="store_true", help="the map of every head, of --block or the last block"
    )
    group.add_argument(
        "--blocks",
        action="store_true",
        help="the map of every block, of --head or the mean over heads; with --heads a matrix",
    )
    group.add_argument(
        "--panels",
        action="store_true",
        help="all further maps of the answer: units of hidden_unit, masks of several blocks",
    )
    group.add_argument(
        "--save-mask",
        type=Path,
        metavar="FILE",
        help="where to write the mask of a method that makes one: .npy (bool; a stack when there "
        "are several), or .png with a pixel for each patch, white where it is hidden",
    )
    group.add_argument(
        "--max-cost",
        type=float,
        metavar="N",
        help="with --method all: leave out methods of more than N forward passes",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command; 0, or 3 when some of several could not be done."""
    cli_arguments.check_files([*arguments.images, *(arguments.similar_to or ())])
    cli_arguments.style(arguments)
    _check_figures(arguments)
    target = cli_arguments.target(arguments)
    places = cli_results.places(arguments.images, arguments.out)
    if arguments.method == cli_sheet.ALL:
        return cli_sheet.run(arguments, target, places)
    parameters = _parameters(arguments)
    with (
        ThreadPoolExecutor(_CALLS_AT_ONCE) as executor,
        # Closed first: whatever ends this early, calls under way end with it.
        cli_arguments.open_client(arguments) as client,
    ):
        futures = [
            executor.submit(_explain, client, arguments, target, parameters, image, place)
            for image, place in zip(arguments.images, places, strict=True)
        ]
        try:
            outcomes = [future.result() for future in cli_output.progress(futures, "explaining")]
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
    return cli_results.report(outcomes, json=arguments.json)


def _explain(
    client: Client,
    arguments: argparse.Namespace,
    target: int | str | SimilarTo | None,
    parameters: dict[str, Any],
    image: Path,
    place: Path | None,
) -> Outcome:
    """Explain one picture and write its file; errors of one of several are its own."""
    method = arguments.method
    if method is None and _grid(arguments):
        method = cli_parameters.first_with(MethodKind.EXPLANATION, "each")
    try:
        explanation = client.explain(
            image, model=arguments.model, method=method, target=target, **parameters
        )
    except (ImageUndecodableError, ImageTooLargeError) as error:
        if len(arguments.images) == 1:
            raise
        return cli_results.failed(image, error)
    if place is not None:
        _write(explanation, place, arguments)
    if arguments.save_mask is not None:
        _save_mask(explanation, arguments.save_mask)
    return cli_results.explained(image, explanation, place)


def _write(explanation: Explanation, place: Path, arguments: argparse.Namespace) -> None:
    style = cli_arguments.style(arguments)
    panels = arguments.panels or _grid(arguments)
    if panels and place.suffix.lower() in _saving.PICTURE_SUFFIXES:
        _saving.write_picture(place, panel_grid(explanation, **style))
    else:
        explanation.save(place, **style)


def _save_mask(explanation: Explanation, path: Path) -> None:
    several = [panel.mask for panel in explanation.panels if panel.mask is not None]
    masks = several or ([] if explanation.mask is None else [explanation.mask])
    if not masks:
        raise UsageError(f"--save-mask: {explanation.method.name} makes no mask")
    _saving.save_masks(path, masks)


def _parameters(arguments: argparse.Namespace) -> dict[str, Any]:
    """The method's parameters, with what --heads and --blocks mean."""
    parameters = cli_parameters.parameters(arguments)
    each = "_and_".join(
        name for name, asked in (("block", arguments.blocks), ("head", arguments.heads)) if asked
    )
    if each and "each" in parameters:
        raise UsageError("--heads and --blocks set each; give them or --set each=..., not both")
    return parameters | ({"each": each} if each else {})


def _grid(arguments: argparse.Namespace) -> bool:
    return bool(arguments.heads or arguments.blocks)


def _check_figures(arguments: argparse.Namespace) -> None:
    """Refuse figures that could not be drawn, before the server has any work."""
    out, everything = arguments.out, arguments.method == cli_sheet.ALL
    flags = [name for name in ("heads", "blocks", "panels") if getattr(arguments, name)]
    if flags and everything:
        raise UsageError(f"--{flags[0]} draws one method, and --method all one map of each")
    if flags and out is None and not arguments.json:
        raise UsageError(f"--{flags[0]} needs --out or --json")
    if (flags or everything) and out is not None and out.suffix.lower() == ".npy":
        raise UsageError(f"--out: one .npy cannot hold several maps, {out}")
    if everything and out is not None and out.suffix.lower() == ".npz":
        raise UsageError(f"--method all is drawn: --out is a .png or .jpg, not {out}")
    if arguments.max_cost is not None and not everything:
        raise UsageError("--max-cost goes with --method all")
    if arguments.save_mask is not None:
        if everything or len(arguments.images) > 1:
            raise UsageError("--save-mask is for one picture and one method")
        _saving.check_mask_suffix(arguments.save_mask)
