"""Mutated requests and pictures at a real server: `python -m tests.fuzz --count 100000`.

Exit code 0 when every call was answered or refused as the contract says, the server holds no more
than before, and still answers right; else 1, with what was thrown kept in a folder.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.fuzz.cases import Case, numbered
from tests.fuzz.served import fuzzed_server
from tests.fuzz.throwing import Tally, throw
from tests.fuzz.vitals import Vitals, answers, grown, log_problems, rested, vitals_of
from tests.server_process import ServerProcess

_WARM_UP = 500  # cases after which a server holds what it needs to work at all
_AT_ONCE = 16

_console = Console(stderr=True)


def main() -> int:
    """Entry point."""
    options = _parser().parse_args()
    if options.replay:
        return _replay([Case.load(path) for path in options.replay])
    seed = options.seed or secrets.token_hex(4)
    _console.print(f"seed {seed}; --seed {seed} makes the same cases again")
    with tempfile.TemporaryDirectory() as folder, fuzzed_server(Path(folder)) as server:
        problems = _storm(server, seed, options.count, options.keep)
        problems += _end(server)
    for problem in problems:
        _console.print(problem, style="red", markup=False)
    return 1 if problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=100_000, help="cases to throw")
    parser.add_argument("--seed", help="of the cases; by default another each time")
    parser.add_argument(
        "--keep", type=Path, default=Path("fuzz-findings"), help="folder for what was found"
    )
    parser.add_argument("--replay", type=Path, nargs="+", help="throw kept cases again instead")
    return parser


def _storm(server: ServerProcess, seed: str, count: int, folder: Path) -> list[str]:
    right = answers(server.target)
    asyncio.run(throw(server.target, numbered(f"warm-up {seed}", _WARM_UP), at_once=_AT_ONCE))
    before, started_s = rested(server), time.monotonic()
    samples: list[float] = []
    tally = asyncio.run(_thrown(server, numbered(seed, count), count, samples))
    took_s = time.monotonic() - started_s
    after = rested(server, before)
    _report(tally, took_s, before, after, samples)
    problems = _kept(tally, folder) + grown(before, after, samples)
    if answers(server.target) != right:
        problems.append("the server answers otherwise than before")
    return problems


async def _thrown(
    server: ServerProcess, cases: Iterator[Case], count: int, samples: list[float]
) -> Tally:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=_console) as progress:
        task = progress.add_task("throwing", total=count)
        found = 0

        def seen(case: Case, problem: str) -> None:
            nonlocal found
            found += bool(problem)
            progress.update(task, advance=1, description=f"throwing ({found} findings)")
            if progress.tasks[0].completed % max(1, count // 20) == 0:
                samples.append(vitals_of(server).rss_mib)

        return await throw(server.target, cases, at_once=_AT_ONCE, seen=seen)


def _report(
    tally: Tally, took_s: float, before: Vitals, after: Vitals, samples: list[float]
) -> None:
    total = tally.outcomes.total()
    _say(f"{total} cases in {took_s:.0f} s ({total / took_s:.0f}/s)")
    for label, number in tally.outcomes.most_common():
        _say(f"{number:>8} {label}")
    _say(f"before: {before}\nafter:  {after}")
    _say("MiB on the way: " + " ".join(f"{sample:.0f}" for sample in samples))


def _kept(tally: Tally, folder: Path) -> list[str]:
    problems = []
    for number, (case, problem) in enumerate(tally.findings, 1):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"case-{number}.json"
        case.save(path, problem=problem)
        problems.append(f"{path}: {case.path}: {problem}")
    return problems


def _end(server: ServerProcess) -> list[str]:
    code = server.stop()
    problems = [] if code == 0 else [f"the server ended with {code}:\n{server.read_log()[-2000:]}"]
    return problems + log_problems(server.read_log())


def _replay(cases: list[Case]) -> int:
    with tempfile.TemporaryDirectory() as folder, fuzzed_server(Path(folder)) as server:
        tally = asyncio.run(throw(server.target, cases, at_once=1))
        for label, number in tally.outcomes.items():
            _say(f"{number:>8} {label}")
        problems = [f"{case.path}: {problem}" for case, problem in tally.findings] + _end(server)
    _say("\n".join(problems))
    return 1 if problems else 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
