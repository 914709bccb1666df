"""`pairlens cache`: what a server's cache holds and does, and emptying it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pairlens import cli_arguments, cli_output
from pairlens.caching import CacheKindStats, CacheStats, RedisStats
from pairlens.cli_arguments import UsageError

if TYPE_CHECKING:
    from pairlens.cli_arguments import Commands

_SOME_FAILED = 3

_EPILOG = """\
examples:
  pairlens cache stats
  pairlens cache stats --json | jq '.redis.state'
  pairlens cache clear --model demo-vit
  pairlens cache clear --all --images --yes
"""

_CLEAR_EPILOG = """\
Empties the memory of the server that answers, and the Redis that it shares with others. Values
are found by content and never wrong: clear to make room, or to measure.

examples:
  pairlens cache clear --model demo-vit
  pairlens cache clear --all --images --yes
"""


def add_command(commands: Commands) -> None:
    """Add the command with its own commands."""
    summary = "Describe or empty a server's cache."
    parser = commands.add_parser(
        "cache",
        help=summary,
        description=summary,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    own = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    stats = cli_arguments.add_command(
        own, "stats", "What the cache holds, and has done since the server started.", _EPILOG
    )
    stats.set_defaults(run=run_stats)
    clear = cli_arguments.add_command(own, "clear", "Empty the cache.", _CLEAR_EPILOG)
    which = clear.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", metavar="NAME", help="what was computed by this model")
    which.add_argument(
        "--all", action="store_true", help="what was computed by any model, served or not"
    )
    clear.add_argument("--images", action="store_true", help="with --all: uploaded pictures, too")
    clear.add_argument("--yes", action="store_true", help="do not ask")
    clear.set_defaults(run=run_clear)


def run_stats(arguments: argparse.Namespace) -> int:
    """Run `stats`; 0, or a PairlensError."""
    with cli_arguments.open_client(arguments) as client:
        stats = client.cache_stats()
    if arguments.json:
        cli_output.print_json(stats)
    else:
        _print(stats)
    return 0


def run_clear(arguments: argparse.Namespace) -> int:
    """Run `clear`; 0, or 3 when Redis could not be emptied."""
    if arguments.images and not arguments.all:
        raise UsageError("--images goes with --all: pictures belong to no model")
    _confirm(arguments)
    with cli_arguments.open_client(arguments) as client:
        cleared = client.clear_cache(arguments.model, images=arguments.images)
    if arguments.json:
        cli_output.print_json(cleared)
    else:
        cli_output.print_table(
            "",
            ("values removed from memory", "from Redis"),
            [(cleared.memory_entries, cleared.redis_entries)],
        )
    if cleared.redis_cleared:
        return 0
    cli_output.warn("Redis did not answer and was not emptied; the same command tries again")
    return _SOME_FAILED


def _confirm(arguments: argparse.Namespace) -> None:
    """Ask, unless --yes is given; see `cli_arguments.confirm`."""
    what = "of all models" if arguments.all else f"of {arguments.model}"
    also = " and all uploaded pictures" if arguments.images else ""
    cli_arguments.confirm(
        arguments,
        f"clearing the cache {what}{also}",
        f"Clear the cache {what}{also} at {arguments.server}?",
    )


def _print(stats: CacheStats) -> None:
    rows = [
        *(_row("memory", kind, held=True) for kind in stats.memory),
        *(_row("Redis", kind, held=False) for kind in stats.redis.kinds),
    ]
    cli_output.print_table(
        "",
        (
            "tier",
            "kind",
            "values",
            "size",
            "of",
            "hits",
            "misses",
            "hit rate",
            "stored",
            "evicted",
            "dropped",
            "corrupt",
        ),
        rows,
    )
    cli_output.print_table("Redis", ("property", "value"), _properties(stats.redis))


def _row(tier: str, kind: CacheKindStats, *, held: bool) -> tuple[object, ...]:
    asked = kind.hits + kind.misses
    return (
        tier,
        kind.kind,
        kind.entries if held else None,
        size(kind.bytes) if held else None,
        size(kind.max_bytes) if held else None,
        kind.hits,
        kind.misses,
        f"{100 * kind.hits / asked:.1f} %" if asked else None,
        kind.stored,
        kind.evicted if held else None,
        kind.dropped,
        kind.corrupt,
    )


def _properties(redis: RedisStats) -> list[tuple[str, str]]:
    if redis.state == "off":
        return [("state", "off: the server shares its cache with no other")]
    of = f" of {size(redis.max_bytes)}" if redis.max_bytes else ""
    return [
        ("state", redis.state),
        ("failed round trips", f"{redis.errors:,}, of these too slow: {redis.timeouts:,}"),
        ("waiting to be written", f"{size(redis.queued_bytes)} of {size(redis.max_queued_bytes)}"),
        ("memory, with what else it holds", f"{size(redis.used_bytes)}{of}"),
    ]


def size(count: int) -> str:
    """A number of bytes for people: "3.1 MiB"."""
    amount = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{count} bytes" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
