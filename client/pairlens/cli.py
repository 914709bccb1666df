"""The command line: `pairlens models`, `methods`, `metrics`, `explain` and more.

Exit codes: 0 all done; 1 the server or the connection failed; 2 the command line asks
for something that cannot be; 3 some pictures or methods failed, the others are done;
130 interrupted. Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import pairlens
from pairlens import (
    cli_attention,
    cli_cache,
    cli_evaluate,
    cli_explain,
    cli_methods,
    cli_metrics,
    cli_models,
    cli_pair,
    cli_score,
    cli_warm,
)
from pairlens.cli_arguments import OneLineParser, UsageError
from pairlens.cli_output import printable
from pairlens.errors import PairlensError, RequestTooLargeError

_FAILED, _MISTAKE, _INTERRUPTED = 1, 2, 130
_MISTAKES = ("INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION")

_EPILOG = """\
examples:
  pairlens models
  pairlens methods --model deit_tiny
  pairlens explain cat.jpg --out cat-map.png
  pairlens explain cat.jpg --method all --out all.png
  pairlens attention cat.jpg --out attention.png
  pairlens pair query.jpg a.jpg b.jpg --out pairs.png
  pairlens score cat.jpg --method rollout --out curves.png
  pairlens evaluate photos --model deit_tiny --methods rollout,grad_cam --out run
  pairlens warm gallery --model deit_tiny
  pairlens cache stats

exit codes:
  0  all done
  1  the server or the connection failed
  2  the command line asks for something that cannot be
  3  some pictures or methods failed (each is named on standard error), the rest is done

environment:
  PAIRLENS_SERVER  the server, where --server is not given
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; None for the process's own.

    Returns:
        The exit code.
    """
    arguments = build_parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except UsageError as error:
        return _fail(str(error), _MISTAKE)
    except PairlensError as error:
        mistake = error.code in _MISTAKES or isinstance(error, RequestTooLargeError)
        return _fail(error.message, _MISTAKE if mistake else _FAILED)
    except BrokenPipeError:
        # The reader has enough, as `head` does; nothing more may be written to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _FAILED
    except OSError as error:
        what = f"{error.filename or 'the result'}: {error.strerror or error}"
        return _fail(f"cannot write {what}", _MISTAKE)
    except KeyboardInterrupt:
        return _fail("interrupted", _INTERRUPTED)
    return code


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; each command sets `run`."""
    parser = OneLineParser(
        prog="pairlens",
        description="Shows why two images match, as a pairlens server sees them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"pairlens {pairlens.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (
        cli_models,
        cli_methods,
        cli_metrics,
        cli_explain,
        cli_attention,
        cli_pair,
        cli_score,
        cli_evaluate,
        cli_warm,
        cli_cache,
    ):
        module.add_command(commands)
    return parser


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"pairlens: {printable(message)}\n")
    return code
