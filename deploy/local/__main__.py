"""Start a load-balanced set of pairlens servers on this machine.

All replicas serve the same models, the demo's unless told otherwise. What dies is started again.
Ctrl-C drains the replicas and ends the set, a second one at once. SIGUSR1 restarts the replicas
one by one, without a failed call. FOLDER/set.json says what runs, for scripts.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Coroutine, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from deploy.local import recipes
from deploy.local.local_set import LocalSet, SetOptions
from deploy.local.part import PartError
from deploy.local.ports import PortError
from deploy.local.recipes import MissingProgramError

_EXIT_FAILED = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: `python -m deploy.local [options] [-- flags of pairlens-server]`."""
    arguments, flags = _parse(sys.argv[1:] if argv is None else argv)
    console = Console(highlight=False, soft_wrap=True)
    say = partial(console.print, markup=False)
    if arguments.redis is None:
        arguments.redis = _has_redis(console)
    try:
        local_set = LocalSet(_options(arguments, flags), say)
        return asyncio.run(_run(local_set, arguments.folder, console))
    except (MissingProgramError, PortError, PartError) as error:
        sys.stderr.write(f"deploy.local: {error}\n")
        return _EXIT_FAILED


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.local",
        usage="%(prog)s [options] [-- flags of pairlens-server]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--replicas", type=_count, default=3, help="how many (default %(default)s)")
    add("--models", type=Path, metavar="FILE", help="models file (default: that of the demo)")
    add(
        "--balancer",
        choices=["client", "haproxy"],
        default="client",
        help="who spreads the calls: each client (default), or a HAProxy in front",
    )
    add(
        "--redis",
        action=argparse.BooleanOptionalAction,
        help="share caches through a Redis (default: if there is a redis-server)",
    )
    add("--prometheus", action="store_true", help="scrape the replicas with a Prometheus")
    for name, default, what in (
        ("--port", 50051, "first port of gRPC"),
        ("--metrics-port", 9464, "first port of /metrics"),
        ("--prometheus-port", 9090, "port of Prometheus' page"),
    ):
        text = f"{what}; 0 takes free ones (default %(default)s)"
        add(name, type=int, metavar="PORT", default=default, help=text)
    add("--folder", type=Path, help="for logs and files (default: a new one for temporary files)")
    own, flags = list(argv), []
    if "--" in own:
        place = own.index("--")
        own, flags = own[:place], own[place + 1 :]
    arguments = parser.parse_args(own)
    arguments.folder = (arguments.folder or Path(tempfile.mkdtemp(prefix="pairlens-"))).absolute()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    return arguments, flags


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return count


def _has_redis(console: Console) -> bool:
    try:
        recipes.find_redis()
    except MissingProgramError as error:
        console.print(f"No cache is shared: {error}", markup=False)
        return False
    return True


def _options(arguments: argparse.Namespace, flags: Sequence[str]) -> SetOptions:
    own = []
    if arguments.models is not None:
        own += ["--models", str(arguments.models)]
    if "--torch-threads" not in flags:
        # Else each replica would compute on all cores.
        own += ["--torch-threads", str(max(1, (os.cpu_count() or 1) // arguments.replicas))]
    return SetOptions(
        replicas=arguments.replicas,
        flags=[*own, *flags],
        balancer=arguments.balancer,
        redis=arguments.redis,
        prometheus=arguments.prometheus,
        port=arguments.port,
        metrics_port=arguments.metrics_port,
        prometheus_port=arguments.prometheus_port,
        folder=arguments.folder,
    )


async def _run(local_set: LocalSet, folder: Path, console: Console) -> int:
    """Start the set, keep it until a signal, and end it."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    rolls: set[asyncio.Task[None]] = set()
    loop.add_signal_handler(
        signal.SIGUSR1, lambda: rolls.add(asyncio.create_task(local_set.rolling_restart()))
    )
    try:
        with console.status("Starting: importing torch and loading models takes some seconds"):
            if not await _unless(stop, local_set.start()):
                return 0
        _introduce(local_set, folder, console)
        await _unless(stop, local_set.keep())
        return 0
    finally:
        for roll in rolls:
            roll.cancel()
        await asyncio.gather(*rolls, return_exceptions=True)
        stop.clear()
        with console.status("Draining; Ctrl-C ends it at once"):
            if not await _unless(stop, local_set.stop()):
                await local_set.kill()
        console.print("All has ended.")


async def _unless(stop: asyncio.Event, work: Coroutine[object, object, None]) -> bool:
    """Do some work unless a signal comes before it is done; whether it was done."""
    task = asyncio.create_task(work)
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not task.done():
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return False
    await task
    return True


def _introduce(local_set: LocalSet, folder: Path, console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("replica", "gRPC", "metrics and health"):
        table.add_column(heading)
    for replica in local_set.replicas:
        table.add_row(replica.name, replica.address, f"http://{replica.metrics}/metrics")
    console.print(table)
    facts = {
        "Target": local_set.target,
        "Redis": local_set.redis_url,
        "Prometheus": local_set.prometheus_url,
        "Logs": str(folder),
        "Try": f"pairlens models --server {shlex.quote(local_set.target)}",
        "Rolling restart": f"kill -USR1 {os.getpid()}",
        "Stop": "Ctrl-C",
    }
    for name, value in facts.items():
        if value is not None:
            console.print(f"{name + ':':17}{value}", markup=False)


if __name__ == "__main__":
    sys.exit(main())
