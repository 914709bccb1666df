"""`pairlens warm`: have a server compute, ahead of need, what it keeps of a folder's pictures."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pairlens import _cache_codec, cli_arguments, cli_output
from pairlens._gallery import Gallery, GalleryFile, Shard, find_pictures, grouped
from pairlens._progress import ProgressLine
from pairlens._warm_state import WarmState
from pairlens._warming import Outcome, Warming
from pairlens.cli_arguments import UsageError
from pairlens.errors import QueueFullError, UnavailableError
from pairlens.models import Method, MethodKind, ModelDetails

if TYPE_CHECKING:
    from pairlens.cli_arguments import Commands

_SOME_FAILED, _INTERRUPTED = 3, 130

# Of one call: methods with a gradient take seconds a picture on a CPU.
_TIMEOUT_S = 600.0
# Before a server that is away or full is asked again: it may be loading its models.
_WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0)
# Of one call: what is lost of an interrupted run, and bytes of files read at once by a thread.
_MOST_FILES, _MOST_BYTES = 32, 64 * 2**20

_EPILOG = """\
The server computes what calls that name these methods need of each picture, and keeps it, so
that they find it. Pictures that it has already are not sent, and what it has computed already is
not computed again, so that the command may be repeated at any time. With --state it does not
even read the files that it finished: give the same file to go on after an interruption, and
remove it when the server's cache was cleared. A file that was changed is done again.

examples:
  pairlens warm gallery --model demo-vit
  pairlens warm gallery --model demo-vit --state gallery.state
  pairlens warm gallery --model demo-vit --methods 'rollout,grad_cam(rule=libra)'
  pairlens warm gallery --model demo-vit --pair-methods pooled_decomposition --shard 2/8
"""


@dataclass
class _Tally:
    """What a run did.

    Attributes:
        total: Files, those with which an earlier run was done, too.
        left: The others.
        cached: Files of which everything was there already.
        computed: Files of which something was computed.
        failed: What else became of files.
    """

    total: int
    left: Sequence[GalleryFile]
    cached: int = 0
    computed: int = 0
    failed: list[Outcome] = field(default_factory=list)

    def count(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            if outcome.error is not None:
                self.failed.append(outcome)
            elif outcome.cached:
                self.cached += 1
            else:
                self.computed += 1

    @property
    def before(self) -> int:
        return self.total - len(self.left)

    @property
    def done(self) -> int:
        return self.cached + self.computed

    @property
    def missing(self) -> int:
        return len(self.left) - self.done - len(self.failed)


def add_command(commands: Commands) -> None:
    """Add the command."""
    parser = cli_arguments.add_command(
        commands,
        "warm",
        "Fill a server's cache for the pictures of a folder.",
        _EPILOG,
        timeout=f"{_TIMEOUT_S:g}",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="pictures, in folders or not")
    parser.add_argument("--model", required=True, metavar="NAME", help="served model")
    parser.add_argument(
        "--methods",
        default="",
        metavar="A,B,...",
        help="of `pairlens explain`, with parameters in parentheses: "
        "'rollout,grad_cam(rule=libra)'",
    )
    parser.add_argument(
        "--pair-methods",
        default="",
        metavar="A,B,...",
        help="of `pairlens pair` (default, without --methods: the model's own, and embeddings)",
    )
    parser.add_argument(
        "--recursive",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="look in folders below, too (default: yes)",
    )
    parser.add_argument(
        "--state", type=Path, metavar="FILE", help="remember here what is finished, and go on"
    )
    parser.add_argument(
        "--shard",
        type=_shard,
        default=Shard(1, 1),
        metavar="I/N",
        help="only the I-th of N parts of the files, so that N processes share the work",
    )
    parser.add_argument(
        "--concurrency", type=int, default=4, metavar="N", help="calls at once; default 4"
    )
    cli_arguments.add_cache(parser, ("default", "refresh"))
    parser.set_defaults(run=run)


def _shard(text: str) -> Shard:
    try:
        return Shard.parse(text)
    except ValueError as error:  # whose text argparse would not show
        raise argparse.ArgumentTypeError(str(error)) from error


def run(arguments: argparse.Namespace) -> int:
    """Run the command; 0, 3 when some pictures failed, 130 after Ctrl-C."""
    if not arguments.folder.is_dir():
        raise UsageError(f"no such folder: {arguments.folder}")
    if arguments.concurrency < 1:
        raise UsageError(f"--concurrency is at least 1, not {arguments.concurrency}")
    methods = _cache_codec.methods(arguments.methods, MethodKind.EXPLANATION)
    pair_methods = _cache_codec.methods(arguments.pair_methods, MethodKind.PAIR)
    begun = time.monotonic()
    with cli_arguments.open_client(arguments, timeout=_TIMEOUT_S) as client:
        details = client.get_model(arguments.model)
        gallery = _gallery(arguments, details)
        key = _key(arguments, details, methods, pair_methods)
        warm = partial(
            client.warm, model=arguments.model, methods=methods, pair_methods=pair_methods
        )
        with WarmState(arguments.state, key) as state:
            left = [file for file in gallery.files if file not in state]
            tally = _Tally(len(gallery.files), left)
            _work(Warming(warm, arguments.folder, _WAITS_S), arguments, details, state, tally)
    _report(arguments, gallery, tally, time.monotonic() - begun)
    if tally.missing:
        return _INTERRUPTED
    return _SOME_FAILED if tally.failed else 0


def _gallery(arguments: argparse.Namespace, details: ModelDetails) -> Gallery:
    """The pictures that are to be warmed.

    Raises:
        UsageError: There is none, in any part.
    """
    with cli_output.working("looking for pictures"):
        gallery = find_pictures(
            arguments.folder,
            details.limits.image_formats,
            recursive=arguments.recursive,
            shard=arguments.shard,
        )
    if not gallery.files and arguments.shard.count == 1:
        raise UsageError(f"there are no pictures in {arguments.folder}")
    return gallery


def _key(
    arguments: argparse.Namespace,
    details: ModelDetails,
    methods: Sequence[Method],
    pair_methods: Sequence[Method],
) -> str:
    """What is computed of each picture; other weights are another model."""
    parts = (
        details.model.fingerprint,
        sorted(map(str, methods)),
        sorted(map(str, pair_methods)),
        arguments.cache or "default",
    )
    return json.dumps(parts)


def _work(
    warming: Warming,
    arguments: argparse.Namespace,
    details: ModelDetails,
    state: WarmState,
    tally: _Tally,
) -> None:
    """Warm what is left, until it is done or interrupted.

    Raises:
        PairlensError: What is asked for cannot be, or the server is gone.
    """
    progress = ProgressLine("warming", tally.total, tally.before, sys.stderr)
    most = max(1, min(_MOST_FILES, details.limits.max_candidates))
    groups = grouped(tally.left, most, _MOST_BYTES)
    try:
        for outcomes in warming.over(groups, arguments.concurrency):
            state.add(outcome.file for outcome in outcomes if outcome.error is None)
            tally.count(outcomes)
            progress.done, progress.failed = tally.done, len(tally.failed)
            progress.show()
    except KeyboardInterrupt:
        pass  # the report says what is missing
    except (UnavailableError, QueueFullError):
        cli_output.warn("what is done is kept; the same command goes on")
        raise
    finally:
        progress.show(last=True)


def _report(arguments: argparse.Namespace, gallery: Gallery, tally: _Tally, seconds: float) -> None:
    """Print what was done, and on standard error what was not."""
    counts = {
        "pictures": tally.total,
        "computed": tally.computed,
        "cached": tally.cached,
        "finished_before": tally.before,
        "failed": len(tally.failed),
        "other_files": gallery.others,
    }
    failed = sorted(tally.failed, key=lambda outcome: outcome.file.path)
    if arguments.json:
        failures = [{"path": outcome.file.path, "error": outcome.error} for outcome in failed]
        document: dict[str, object] = {"folder": str(arguments.folder), "model": arguments.model}
        cli_output.print_json(document | counts | {"failures": failures, "seconds": seconds})
    else:
        columns = ("model", *(name.replace("_", " ") for name in counts))
        cli_output.print_table("", columns, [(arguments.model, *counts.values())])
    for outcome in failed:
        assert outcome.error is not None  # of failed ones
        cli_output.warn(f"{outcome.file.path}: {cli_output.told(outcome.error)}")
    if tally.missing:
        cli_output.warn(
            f"interrupted with {tally.missing} of {tally.total} pictures left; the same command "
            "goes on"
        )
