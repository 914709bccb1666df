"""`pairlens evaluate`: which methods give faithful maps on a data set."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairlens import cli_arguments, cli_output
from pairlens._connection import DEFAULT_TIMEOUT_S
from pairlens.cli_arguments import UsageError
from pairlens.client import Client
from pairlens.errors import InvalidParameterError, PairlensError

if TYPE_CHECKING:
    from pairlens.cli_arguments import Commands
    from pairlens.evaluation import Evaluation

_SOME_FAILED, _INTERRUPTED = 3, 130
_SKIPPED_SHOWN = 20
_LARGEST_WIDTH_WITHOUT_TERMINAL = 200

_EPILOG = """\
A data set is a folder with a folder of pictures for each class; a folder of ImageNet sample
pictures (n01440764_tench.JPEG, 0005_...), or of any pictures; or a CSV file with the columns
path and label, and left, top, right, bottom where boxes are known (one line a box).

Evaluations:
  (neither flag)     single pictures: average drop and increase, deletion, insertion, and the
                     localisation games where there are boxes
  --pairs            PairFaith: pair maps, by what happens to the similarity
  --mosaics          maps of 2 x 2 mosaics: is the class found in its tile?
  --pairs --mosaics  the same of pair maps

Written to --out: journal.jsonl, from which the same command goes on after an interruption,
and one with another --limit from what it shares; table.csv, table.json, plots (.png) and
report.html.

--profile reference is the evaluation of the thesis: average drop and increase and the maps are
of the picture's label (the curves of the predicted class), so that --target is label unless
you say otherwise, and maps of methods without a target are enlarged bilinear_aligned.

examples:
  pairlens evaluate photos --model demo-vit --methods rollout,grad_cam --out run
  pairlens evaluate photos --model demo-vit --methods all --profile reference --out run
  pairlens evaluate photos --model demo-vit --methods 'rollout,grad_cam(rule=libra)' \\
      --metrics 'deletion(steps=32),insertion' --target label --per-class 5 --out run
  pairlens evaluate photos --model demo-vit --pairs --methods all --limit 300 --out pairs
"""


def add_command(commands: Commands) -> None:
    """Add the command."""
    parser = cli_arguments.add_command(
        commands,
        "evaluate",
        "Measure on a data set which methods give faithful maps.",
        _EPILOG,
        timeout="300",
    )
    parser.add_argument("dataset", type=Path, metavar="FOLDER|CSV", help="labelled pictures")
    parser.add_argument("--model", required=True, metavar="NAME", help="served model")
    parser.add_argument(
        "--methods",
        required=True,
        metavar="A,B,...",
        help="with parameters in parentheses: 'rollout,grad_cam(rule=libra)'; all: every method "
        "that the model gives (see `pairlens methods --model NAME`)",
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="folder for everything it writes"
    )
    parser.add_argument("--pairs", action="store_true", help="evaluate methods of `pair`")
    parser.add_argument("--mosaics", action="store_true", help="evaluate on mosaics")
    _add_scoring(parser)
    _add_pairs(parser)
    _add_choice(parser)
    _add_running(parser)
    cli_arguments.add_cache(parser)
    parser.set_defaults(run=run)


def _add_scoring(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("scoring", "Of single pictures.")
    group.add_argument(
        "--metrics",
        metavar="A,B,...",
        help="with parameters in parentheses: 'deletion(steps=32),insertion' (default: those "
        "named below; see `pairlens metrics`)",
    )
    group.add_argument(
        "--profile",
        choices=("strict", "reference"),
        help="of every metric that takes one: strict (the default), or as the thesis' code, with "
        "other defaults of --target and --enlargement",
    )
    group.add_argument(
        "--target",
        choices=("predicted", "label"),
        help="class that is explained and scored: the predicted one (the default), or the "
        "picture's label (the default of --profile reference)",
    )
    group.add_argument(
        "--enlargement",
        choices=("nearest", "bilinear", "bilinear_aligned"),
        help="how a map's cells become pixels: bilinear is the default; under --profile reference "
        "bilinear_aligned for methods without a target",
    )


def _add_pairs(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("pairs", "Of --pairs.")
    group.add_argument(
        "--fractions",
        type=_shares,
        metavar="A,B,...",
        help="shares of the cells that are erased (default: 0.05 to 0.5, 0.7 and 0.9)",
    )
    group.add_argument(
        "--substrates",
        type=lambda text: tuple(text.split(",")),
        metavar="A,B,...",
        help="what stands in for erased cells: mean, blur, black, noise or noisy_linear, the "
        "first one for ranks and specificity, too (default: mean,blur,noisy_linear)",
    )


def _shares(text: str) -> tuple[float, ...]:
    return tuple(float(share) for share in text.split(","))


def _add_choice(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("choice", "Of the pictures.")
    group.add_argument("--per-class", type=int, metavar="N", help="at most N pictures a class")
    group.add_argument(
        "--limit", type=int, metavar="N", help="at most N pictures (or queries, or mosaics) in all"
    )
    group.add_argument("--seed", type=int, default=0, metavar="N", help="default 0")


def _add_running(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("running")
    group.add_argument(
        "--concurrency", type=int, default=4, metavar="N", help="calls at once; default 4"
    )
    group.add_argument(
        "--no-controls",
        dest="controls",
        action="store_false",
        help="leave out the maps that know nothing of the model, beside which to read scores",
    )
    group.add_argument(
        "--bootstrap", type=int, default=2000, metavar="N", help="draws of intervals; default 2000"
    )
    group.add_argument(
        "--fresh", action="store_true", help="start over, whatever --out holds already"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command; 0, 3 when something is missing in the table, 130 after Ctrl-C."""
    from pairlens.evaluation import DEFAULT_CALL_TIMEOUT_S, EvaluationInterrupted

    _check(arguments)
    try:
        with cli_arguments.open_client(
            arguments, timeout=max(DEFAULT_TIMEOUT_S, DEFAULT_CALL_TIMEOUT_S)
        ) as client:
            evaluation = _evaluate(client, arguments)
    except EvaluationInterrupted as interruption:
        cli_output.warn(
            f"interrupted after {interruption.done} of {interruption.total}; the same command "
            f"goes on from there (what is done lies in {arguments.out})"
        )
        return _INTERRUPTED
    except PairlensError as error:
        if error.code not in ("INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"):
            cli_output.warn(f"what is done lies in {arguments.out}; the same command goes on")
        raise
    _write(evaluation, arguments)
    return _SOME_FAILED if evaluation.failures else 0


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what could not be done, before the server has any work."""
    from pairlens.evaluation._listing import check_apart

    if arguments.pairs or arguments.mosaics:
        for name in ("metrics", "profile", "target", "enlargement"):
            if getattr(arguments, name) is not None:
                raise UsageError(f"--{name} is of single pictures, without --pairs and --mosaics")
    if arguments.mosaics or not arguments.pairs:
        for name in ("fractions", "substrates"):
            if getattr(arguments, name) is not None:
                raise UsageError(f"--{name} is of --pairs without --mosaics")
    if arguments.bootstrap < 1:
        raise UsageError(f"--bootstrap is at least 1, not {arguments.bootstrap}")
    if arguments.out.exists() and not arguments.out.is_dir():
        raise UsageError(f"--out: {arguments.out} is a file and no folder")
    try:
        check_apart(arguments.dataset, arguments.out)
    except InvalidParameterError as error:
        raise UsageError(f"--out: {error.message}") from error


def _evaluate(client: Client, arguments: argparse.Namespace) -> Evaluation:
    from pairlens import evaluation
    from pairlens.evaluation import read_dataset

    pairs, mosaics = arguments.pairs, arguments.mosaics
    single = not pairs and not mosaics
    details = client.get_model(arguments.model)
    with cli_output.working("reading pictures"):
        dataset = read_dataset(
            arguments.dataset,
            per_class=arguments.per_class,
            # Partners and tiles may be any pictures: the others limit their cases alone.
            limit=arguments.limit if single else None,
            seed=arguments.seed,
            limits=details.limits,
        )
    options = _options(arguments)
    if single:
        return evaluation.evaluate_images(
            client,
            dataset,
            metrics=arguments.metrics,
            profile=arguments.profile,
            target=arguments.target,
            enlargement=arguments.enlargement,
            **options,
        )
    if pairs and mosaics:
        return evaluation.evaluate_pair_mosaics(client, dataset, **options)
    if pairs:
        return evaluation.evaluate_pairs(
            client,
            dataset,
            fractions=arguments.fractions,
            substrates=arguments.substrates,
            **options,
        )
    return evaluation.evaluate_mosaics(client, dataset, **options)


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What all evaluations take alike."""
    from pairlens.evaluation import DEFAULT_CALL_TIMEOUT_S, Bootstrap

    given = arguments.timeout
    return {
        "model": arguments.model,
        "methods": arguments.methods,
        "directory": arguments.out,
        "seed": arguments.seed,
        "timeout": DEFAULT_CALL_TIMEOUT_S if given is None else given,
        "concurrency": arguments.concurrency,
        "limit": arguments.limit,
        "controls": arguments.controls,
        "fresh": arguments.fresh,
        "bootstrap": Bootstrap(samples=arguments.bootstrap, seed=arguments.seed),
    }


def _write(evaluation: Evaluation, arguments: argparse.Namespace) -> None:
    """Write all files, and print the table and what is not in it."""
    from pairlens.evaluation.plots import write_plots
    from pairlens.evaluation.report import write_report

    out: Path = arguments.out
    evaluation.write_csv(out / "table.csv")
    evaluation.write_json(out / "table.json")
    write_plots(evaluation, out)
    report = write_report(evaluation, out / "report.html")
    if arguments.json:
        cli_output.print_json(evaluation.document() | {"report": str(report)})
    else:
        width = None if sys.stdout.isatty() else _LARGEST_WIDTH_WITHOUT_TERMINAL
        text = f"{evaluation.console(width)}\n\nreport: {report}\n"
        encoding = sys.stdout.encoding or "utf-8"  # not all have the table's lines and arrows
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    for record in evaluation.failures[:_SKIPPED_SHOWN]:
        cli_output.warn(f"{record.row} of {record.case}: {record.error}")
    for file in evaluation.skipped[:_SKIPPED_SHOWN]:
        cli_output.warn(f"skipped {file.path}: {file.reason}")
    for what, count in (
        ("failures", len(evaluation.failures)),
        ("skipped files", len(evaluation.skipped)),
    ):
        if count > _SKIPPED_SHOWN:
            cli_output.warn(f"and {count - _SKIPPED_SHOWN} more {what}: see {report}")
    if evaluation.failures:
        cli_output.warn("the same command tries what failed again")
