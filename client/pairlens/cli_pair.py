"""`pairlens pair`: which regions made a query and candidates similar."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pairlens import _saving, cli_arguments, cli_output, cli_parameters
from pairlens._json import map_json
from pairlens.cli_arguments import UsageError
from pairlens.models import MethodKind
from pairlens.options import OverlayStyle
from pairlens.pairs import PairFailure, PairMatch, PairResults

if TYPE_CHECKING:
    from pairlens.cli_arguments import Commands

_SOME_FAILED = 3

_EPILOG = """\
examples:
  pairlens pair query.jpg candidate.jpg --out pair.png
  pairlens pair query.jpg a.jpg b.jpg c.jpg --out pairs.png        one row for each
  pairlens pair query.jpg candidate.jpg --redistribution none --match-matrix matrix.npy
  pairlens pair query.jpg candidate.jpg --method correspondence --query-region 40,30,120,90 \\
      --out pair.png                                               what matches this region
  pairlens pair query.jpg candidate.jpg --json | jq '.results[0].similarity'
"""


def add_command(commands: Commands) -> None:
    """Add the command."""
    parser = cli_arguments.add_command(
        commands, "pair", "Show which regions made two pictures similar.", _EPILOG
    )
    parser.add_argument("query", type=Path, metavar="QUERY", help="picture file")
    parser.add_argument(
        "candidates", nargs="+", type=Path, metavar="CANDIDATE", help="picture files"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="where to draw the pairs (.png, .jpg), or their maps themselves (.npz)",
    )
    parser.add_argument(
        "--match-matrix",
        type=Path,
        metavar="FILE",
        help="where to write the part of the similarity owed to each pair of places: .npy, or "
        ".npz (candidate_0, candidate_1, ...) when there are several candidates",
    )
    # Said by --match-matrix FILE.
    cli_parameters.add_method(parser, MethodKind.PAIR, but=("match_matrix",))
    cli_arguments.add_style(parser, MethodKind.PAIR)
    cli_arguments.add_cache(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; 0, or 3 when some of the candidates could not be used."""
    cli_arguments.check_files([arguments.query, *arguments.candidates])
    style = cli_arguments.style(arguments)
    _check_places(arguments)
    parameters = cli_parameters.parameters(arguments)
    if arguments.match_matrix is not None:
        parameters["match_matrix"] = True
    with (
        cli_arguments.open_client(arguments) as client,
        cli_output.working("comparing"),
    ):
        results = client.pair_similarity(
            arguments.query,
            arguments.candidates,
            model=arguments.model,
            method=arguments.method,
            **parameters,
        )
        _write(results, arguments, style)
    if arguments.json:
        cli_output.print_json(_document(results, arguments))
    else:
        _print(results, arguments.candidates)
    for path, result in zip(arguments.candidates, results, strict=True):
        if isinstance(result, PairFailure):
            cli_output.warn(f"{path}: {cli_output.told(result.error)}")
    return _SOME_FAILED if results.failures else 0


def _check_places(arguments: argparse.Namespace) -> None:
    """Refuse files that could not be written, before the server has any work."""
    if arguments.out is not None:
        _saving.check_suffix(arguments.out, npy=False)
    matrix = arguments.match_matrix
    accepted = (".npy", ".npz") if len(arguments.candidates) == 1 else (".npz",)
    if matrix is not None and matrix.suffix.lower() not in accepted:
        raise UsageError(f"--match-matrix is a file with suffix {' or '.join(accepted)}")


def _write(results: PairResults, arguments: argparse.Namespace, style: OverlayStyle) -> None:
    matches = results.matches
    if arguments.out is not None and matches:
        # A lone pair keeps its pictures' size; rows of many are drawn smaller.
        drawn = matches[0] if len(results) == 1 else results
        drawn.save(arguments.out, **style)
    if arguments.match_matrix is None or not matches:
        return
    matrices = {
        f"candidate_{index}": result.match_matrix
        for index, result in enumerate(results)
        if isinstance(result, PairMatch) and result.match_matrix is not None
    }
    if arguments.match_matrix.suffix.lower() == ".npz":
        _saving.write_arrays(arguments.match_matrix, matrices)
    else:
        _saving.write_array(arguments.match_matrix, matrices["candidate_0"])


def _print(results: PairResults, candidates: Sequence[Path]) -> None:
    rows: list[tuple[object, ...]] = []
    for path, result in zip(candidates, results, strict=True):
        if isinstance(result, PairFailure):
            rows.append((path, *[None] * 5))
            continue
        sides = (result.query, result.candidate)
        rows.append(
            (
                path,
                result.similarity,
                *(side.sum for side in sides),
                result.query.bias_share,
                result.query.prefix_share,
            )
        )
    cli_output.print_table(
        f"{results.provenance.model}: {results.method}",
        ("candidate", "similarity", "query's map", "its map", "bias share", "prefix share"),
        rows,
    )


def _document(results: PairResults, arguments: argparse.Namespace) -> dict[str, object]:
    def one(path: Path, result: PairMatch | PairFailure) -> dict[str, object]:
        if isinstance(result, PairFailure):
            return {"candidate": str(path), "error": result.error}
        sides = {"query_map": result.query, "candidate_map": result.candidate}
        shares = ("sum", "bias_share", "prefix_share")
        return {"candidate": str(path), "similarity": result.similarity} | {
            name: map_json(side) | {share: getattr(side, share) for share in shares}
            for name, side in sides.items()
        }

    return {
        "query": str(arguments.query),
        "results": [
            one(path, result) for path, result in zip(arguments.candidates, results, strict=True)
        ],
        "method": results.method,
        "provenance": results.provenance,
        "timing": results.timing,
        "out": arguments.out and str(arguments.out),
        "match_matrix": arguments.match_matrix and str(arguments.match_matrix),
    }
