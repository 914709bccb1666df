"""`pairlens server`: whether a server serves, reading its models anew, and its orderly end."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from typing import TYPE_CHECKING

from pairlens import cli_arguments, cli_models, cli_output
from pairlens._administration import RELOAD_TIMEOUT_S
from pairlens.client import Client
from pairlens.errors import DeadlineExceededError, UnavailableError

if TYPE_CHECKING:
    from pairlens.cli_arguments import Commands

_FAILED, _SOME_FAILED = 1, 3
_CALLS = 5

_EPILOG = """\
examples:
  pairlens server status
  pairlens server status --wait 120
  pairlens server reload
  pairlens server drain --yes
"""

_STATUS_EPILOG = """\
Exit code 1 says that it does not serve. The latency is that of a call that does nothing: the
network's, and what the server is busy with.

examples:
  pairlens server status
  pairlens server status --wait 120
  pairlens server status --json | jq .latency_s
"""

_RELOAD_EPILOG = """\
Reads the models file of the server anew, as SIGHUP does: what is new or changed is loaded and
warmed up before it is served, what is gone is served no more. Calls go on meanwhile. Only the
server that answers is told: name each of several by its own address.

examples:
  pairlens server reload
  pairlens server reload --json | jq -r '.changes[] | select(.change == "failed") | .model'
"""

_DRAIN_EPILOG = """\
Stops the server as SIGTERM does: it tells load balancers, then takes no new calls, finishes those
under way, and ends. The command does not wait for that. Only the server that answers is told: name
each of several by its own address.

examples:
  pairlens server drain --server 10.0.0.7:50051 --yes
"""


def add_command(commands: Commands) -> None:
    """Add the command with its own commands."""
    summary = "Ask a server how it is, to read its models anew, or to end."
    parser = commands.add_parser(
        "server",
        help=summary,
        description=summary,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    own = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    status = cli_arguments.add_command(
        own,
        "status",
        "Whether the server serves, what, how fast and within what limits.",
        _STATUS_EPILOG,
    )
    status.add_argument(
        "--wait", metavar="SECONDS", type=float, help="wait until it serves, for so long at most"
    )
    status.set_defaults(run=run_status)
    reload = cli_arguments.add_command(
        own,
        "reload",
        "Have the server read its models file anew.",
        _RELOAD_EPILOG,
        timeout=f"{RELOAD_TIMEOUT_S:g}",
    )
    reload.set_defaults(run=run_reload)
    drain = cli_arguments.add_command(
        own, "drain", "Have the server finish its calls and end.", _DRAIN_EPILOG
    )
    drain.add_argument("--yes", action="store_true", help="do not ask")
    drain.set_defaults(run=run_drain)


def run_status(arguments: argparse.Namespace) -> int:
    """Run `status`; 0, or 1 when it does not serve."""
    with cli_arguments.open_client(arguments) as client:
        try:
            if arguments.wait is not None:
                client.wait_ready(arguments.wait)
            return _report(client, arguments)
        except (UnavailableError, DeadlineExceededError) as error:
            if not arguments.json:
                raise
            cli_output.print_json({"server": client.target, "ready": False, "error": error})
            return _FAILED


def run_reload(arguments: argparse.Namespace) -> int:
    """Run `reload`; 0, or 3 when a model could not be loaded."""
    with (
        cli_arguments.open_client(arguments) as client,
        cli_output.working("loading models"),
    ):
        changes = client.reload_models(timeout=arguments.timeout)
    if arguments.json:
        cli_output.print_json({"changes": changes})
    else:
        cli_output.print_table(
            "",
            ("model", "what became of it", "fingerprint"),
            [(change.model, change.change, change.fingerprint) for change in changes],
        )
    failed = [change for change in changes if change.error is not None]
    for change in failed:
        assert change.error is not None
        cli_output.warn(f"{change.model}: {cli_output.told(change.error)}")
    return _SOME_FAILED if failed else 0


def run_drain(arguments: argparse.Namespace) -> int:
    """Run `drain`; 0, or a PairlensError."""
    cli_arguments.confirm(
        arguments,
        f"draining {arguments.server}",
        f"Drain {arguments.server}? It ends when its calls have.",
    )
    with cli_arguments.open_client(arguments) as client:
        under_way = client.drain()
    if arguments.json:
        cli_output.print_json({"server": arguments.server, "calls_under_way": under_way})
    else:
        calls = f"{under_way} calls" if under_way != 1 else "1 call"
        sys.stdout.write(f"{arguments.server} drains; {calls} under way\n")
    return 0


def _report(client: Client, arguments: argparse.Namespace) -> int:
    """Print how a server is that serves."""
    models = client.list_models()
    latency = statistics.median(_latency(client) for _ in range(_CALLS))
    limits = client.get_model(models[0].name).limits if models else None
    if arguments.json:
        cli_output.print_json(
            {
                "server": client.target,
                "ready": True,
                "latency_s": latency,
                "models": models,
                "limits": limits,
            }
        )
        return 0
    rows = [("state", "serves"), ("an empty call takes", f"{latency * 1000:.2g} ms")]
    cli_output.print_table(client.target, ("property", "value"), rows)
    cli_models.print_models(models)
    if limits is not None:
        cli_models.print_limits(limits)
    return 0


def _latency(client: Client) -> float:
    """Seconds of one call that does nothing."""
    begin = time.perf_counter()
    client.list_models()
    return time.perf_counter() - begin
