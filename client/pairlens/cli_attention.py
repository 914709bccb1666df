"""`pairlens attention`: how patches with and without keypoints attend to one another."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pairlens import _saving, cli_arguments, cli_output, cli_parameters, cli_results
from pairlens.attention import attention_figure
from pairlens.cli_arguments import UsageError
from pairlens.curves import over_heads
from pairlens.models import MethodKind
from pairlens.results import Explanation

if TYPE_CHECKING:
    from pairlens.cli_arguments import Commands

_METHOD = "semantic_attention"

_EPILOG = """\
examples:
  pairlens attention cat.jpg
  pairlens attention cat.jpg --out attention.png
  pairlens attention cat.jpg --line-rule max --line 0.5 --out attention.png
  pairlens attention cat.jpg --json | jq '.interrelations[0]'
"""


def add_command(commands: Commands) -> None:
    """Add the command."""
    parser = cli_arguments.add_command(
        commands,
        "attention",
        "Show how patches with and without SIFT keypoints attend to one another, over depth.",
        _EPILOG,
    )
    parser.add_argument("image", type=Path, metavar="IMAGE", help="picture file")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="where to draw keypoints, patch scores and the curves over depth (.png, .jpg), or "
        "all numbers (.npz)",
    )
    cli_parameters.add_parameters(parser, MethodKind.EXPLANATION, _METHOD)
    cli_arguments.add_style(parser, MethodKind.EXPLANATION)
    cli_arguments.add_cache(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; 0, or a PairlensError."""
    cli_arguments.check_files([arguments.image])
    style = cli_arguments.style(arguments)
    out: Path | None = arguments.out
    if out is not None and _saving.check_suffix(out, npy=False) == ".npz" and style:
        raise UsageError(f"{out} holds values and no colours")
    with cli_arguments.open_client(arguments) as client, cli_output.working("explaining"):
        explanation = client.explain(
            arguments.image,
            model=arguments.model,
            method=_METHOD,
            **cli_parameters.parameters(arguments),
        )
    if out is not None and out.suffix.lower() == ".npz":
        explanation.save(out)
    elif out is not None:
        _saving.write_picture(out, attention_figure(explanation, **style))
    if arguments.json:
        document = cli_results.explanation_json(explanation, out)
        cli_output.print_json({"image": str(arguments.image)} | document)
    else:
        _print(explanation)
    return 0


def _print(explanation: Explanation) -> None:
    names = ("kk", "kn", "nk", "nn", "focus_index")
    means = [over_heads(explanation.interrelations, name)[0] for name in names]
    blocks = sorted({head.block for head in explanation.interrelations})
    rows = [
        (block, *(None if value != value else float(value) for value in values))
        for block, *values in zip(blocks, *means, strict=True)
    ]
    cli_output.print_table(
        f"{explanation.provenance.model}: {explanation.method}, mean over heads",
        ("block", "KK", "KN", "NK", "NN", "focus index"),
        rows,
    )
