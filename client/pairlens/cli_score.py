"""`pairlens score`: how faithful a map is."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pairlens import _saving, _score_files, cli_arguments, cli_map_files, cli_output, specs
from pairlens._json import to_json
from pairlens._parameters import METRICS, enum_choices
from pairlens._scoring import DEFAULT_METRICS
from pairlens.cli_arguments import UsageError
from pairlens.metrics import Metric, SaliencyScores
from pairlens.models import Method, MethodKind
from pairlens.results import Target
from pairlens.v1 import explanation_service_pb2

if TYPE_CHECKING:
    from pairlens.cli_arguments import Commands

# A curve is dozens of forward passes, hundreds under profile reference.
_TIMEOUT_S = 600.0
_EXTENTS = list(enum_choices(explanation_service_pb2.HeatmapExtent.DESCRIPTOR))
_ENLARGEMENTS = list(enum_choices(explanation_service_pb2.Enlargement.DESCRIPTOR))

_EPILOG = """\
examples:
  pairlens score cat.jpg --method rollout --out curves.png
  pairlens score cat.jpg --method "grad_cam(libra=true)" --target goldfish
  pairlens score cat.jpg --metrics "deletion(steps=32,substrate=blur),insertion"
  pairlens score cat.jpg --metrics "deletion(profile=reference)"       as the thesis' code
  pairlens score cat.jpg --heatmap map.npz                             of explain --out map.npz
  pairlens score cat.jpg --metrics pointing_game --box 40,30,120,90
  pairlens score cat.jpg --similar-to b.jpg --pair-method pooled_decomposition \\
      --metrics deletion,insertion --sides image,partner,both
  pairlens score cat.jpg --json | jq '.scores[] | {metric: .metric.name, value}'

Which metrics there are, and their parameters: `pairlens metrics`. Methods and metrics are
written "name" or "name(parameter=value,...)"; lists inside take commas, too:
"deletion(fractions=0.1,0.2,0.5)".
"""


def add_command(commands: Commands) -> None:
    """Add the command."""
    parser = cli_arguments.add_command(
        commands,
        "score",
        "Score how faithful a map is.",
        _EPILOG,
        timeout=f"{_TIMEOUT_S:g}",
    )
    parser.add_argument("image", type=Path, metavar="IMAGE", help="picture file")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="where to draw the curves (.png, .jpg), or to write arrays (.npz) or all numbers "
        "(.json)",
    )
    parser.add_argument("--model", metavar="NAME", help="served model (default: the first able)")
    _add_map(parser)
    _add_scoring(parser)
    cli_arguments.add_cache(parser)
    parser.set_defaults(run=run)


def _add_map(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "map", "What is scored: one of these (default: the model's own method)."
    )
    group.add_argument("--method", metavar="METHOD", help="a method of `pairlens explain`")
    group.add_argument(
        "--pair-method", metavar="METHOD", help="a method of `pairlens pair`; needs --similar-to"
    )
    group.add_argument(
        "--heatmap",
        type=Path,
        metavar="FILE",
        help="a map of IMAGE: .npz of `explain --out`, .npy, or a grey .png",
    )
    group.add_argument(
        "--partner-heatmap", type=Path, metavar="FILE", help="the same of the --similar-to picture"
    )
    group.add_argument(
        "--extent",
        choices=_EXTENTS,
        help="what the file's cells lie on: the part that the model sees, the picture's pixels, "
        "or the input's (default: by its shape)",
    )
    group.add_argument(
        "--enlargement", choices=_ENLARGEMENTS, help="how cells become pixels; default bilinear"
    )


def _add_scoring(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("scoring")
    group.add_argument(
        "--metrics",
        default=",".join(DEFAULT_METRICS),
        metavar="M,M,...",
        help=f"of {', '.join(METRICS.known())}; default %(default)s",
    )
    group.add_argument(
        "--target",
        metavar="CLASS",
        help="class whose probability is read: an index or a label (default: the predicted class)",
    )
    group.add_argument(
        "--similar-to",
        nargs="+",
        type=Path,
        metavar="IMAGE",
        help="read the similarity to these pictures, summed; one picture is the partner",
    )
    group.add_argument(
        "--sides",
        default="image",
        metavar="SIDE,...",
        help="which picture is changed: image, partner, both; default %(default)s",
    )
    group.add_argument(
        "--box",
        action="append",
        default=[],
        type=cli_arguments.region,
        metavar="X0,Y0,X1,Y1",
        help="where the object is, in pixels of IMAGE; as often as needed",
    )
    group.add_argument(
        "--mask",
        type=Path,
        metavar="FILE",
        help="the same as .npy, or .png that is black elsewhere",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command; 0, or a PairlensError."""
    files = (arguments.heatmap, arguments.partner_heatmap, arguments.mask)
    pictures = [arguments.image, *(arguments.similar_to or ())]
    cli_arguments.check_files([*pictures, *(path for path in files if path is not None)])
    metrics = [Metric.parse(text) for text in specs.split(arguments.metrics)]
    _check_out(arguments.out, metrics)
    with (
        cli_arguments.open_client(arguments, timeout=_TIMEOUT_S) as client,
        cli_output.working("scoring"),
    ):
        scores = client.score_saliency(
            arguments.image,
            model=arguments.model,
            heatmap=cli_map_files.heatmap(arguments.heatmap),
            extent=arguments.extent,
            partner_heatmap=cli_map_files.heatmap(arguments.partner_heatmap, partner=True),
            method=_method(arguments.method, MethodKind.EXPLANATION),
            pair_method=_method(arguments.pair_method, MethodKind.PAIR),
            target=cli_arguments.target(arguments),
            metrics=metrics,
            sides=[side.strip() for side in arguments.sides.split(",")],
            enlargement=arguments.enlargement,
            boxes=arguments.box,
            mask=cli_map_files.mask(arguments.mask),
        )
    if arguments.out is not None:
        scores.save(arguments.out)
    if arguments.json:
        named = {"image": str(arguments.image), "out": arguments.out and str(arguments.out)}
        document = to_json(scores)
        assert isinstance(document, dict)
        cli_output.print_json(document | named)
    else:
        _print(scores)
    return 0


def _method(text: str | None, kind: MethodKind) -> Method | None:
    return None if text is None else specs.method(text, kind)


def _check_out(out: Path | None, metrics: list[Metric]) -> None:
    """Refuse files that could not be written, before the server has any work."""
    if out is None:
        return
    drawn = _score_files.check_suffix(out) in _saving.PICTURE_SUFFIXES
    if drawn and not any(metric.name in _score_files.WITH_CURVE for metric in metrics):
        raise UsageError(
            f"--out {out} draws curves, which only {' and '.join(_score_files.WITH_CURVE)} have; "
            "write a .json or an .npz"
        )


def _print(scores: SaliencyScores) -> None:
    made = "a given map" if scores.method is None else str(scores.method)
    scored = "" if scores.target is None else f", scored by {_scored_by(scores.target)}"
    cli_output.print_table(
        f"{scores.provenance.model}: {made}{scored}",
        ("metric", "side", "value", "better", "normalised", "clean", "masked", "note"),
        [
            (
                score.metric.name,
                score.side,
                score.value,
                score.better,
                score.normalized_value,
                score.clean_score,
                score.masked_score,
                score.undefined,
            )
            for score in scores.scores
        ],
    )


def _scored_by(target: Target) -> str:
    return str(target) if target.similarities else f"the probability of class {target}"
