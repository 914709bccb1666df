"""The command line: `pairlens models`, `methods`, `metrics`, `explain` and more.

Exit codes: 0 all done; 1 the server or the connection failed; 2 the command line asks
for something that cannot be, or its token is refused; 3 some pictures, methods or models
failed, the others are done; 130 interrupted. Results go to standard output, everything else to
standard error.
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
    cli_server,
    cli_warm,
)
from pairlens.cli_arguments import OneLineParser, UsageError
from pairlens.cli_connection import ENVIRONMENT, tokenless
from pairlens.cli_output import printable, told
from pairlens.errors import (
    ConfigurationInvalidError,
    PairlensError,
    RequestTooLargeError,
    UnauthenticatedError,
)

_FAILED, _MISTAKE, _INTERRUPTED = 1, 2, 130
_MISTAKES = (
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "FAILED_PRECONDITION",
    "UNAUTHENTICATED",
    "PERMISSION_DENIED",
)

_EPILOG = """\
examples:
  pairlens models
  pairlens methods --model demo-vit
  pairlens explain cat.jpg --out cat-map.png
  pairlens explain cat.jpg --method all --out all.png
  pairlens attention cat.jpg --out attention.png
  pairlens pair query.jpg a.jpg b.jpg --out pairs.png
  pairlens score cat.jpg --method rollout --out curves.png
  pairlens evaluate photos --model demo-vit --methods rollout,grad_cam --out run
  pairlens warm gallery --model demo-vit
  pairlens cache stats
  pairlens server status

exit codes:
  0  all done
  1  the server or the connection failed
  2  the command line asks for something that cannot be, or the server refuses its token
  3  some pictures, methods or models failed (each is named on standard error), the rest is done

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
        text = told(error)
        if isinstance(error, UnauthenticatedError) and tokenless(arguments):
            text += "; --token-file or PAIRLENS_TOKEN_FILE names a file with one"
        return _fail(text, _MISTAKE if _is_mistake(error) else _FAILED)
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
        epilog=_EPILOG + ENVIRONMENT,
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
        cli_server,
    ):
        module.add_command(commands)
    return parser


def _is_mistake(error: PairlensError) -> bool:
    """Whether the same command can never succeed."""
    if isinstance(error, ConfigurationInvalidError):
        return False  # of the server's files
    return error.code in _MISTAKES or isinstance(error, RequestTooLargeError)


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"pairlens: {printable(message)}\n")
    return code
