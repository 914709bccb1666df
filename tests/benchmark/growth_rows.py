"""Whether a server's memory stays within its bounds, however long it serves."""

from __future__ import annotations

from dataclasses import dataclass

from tests.benchmark.measure import Row
from tests.benchmark.served import CallerProcess, calling, serving, vit_entry

# So small that what is measured is what stays behind of calls, not the model.
MODEL = vit_entry(
    "vit-toy",
    "vit_tiny_patch16_224",
    architecture_options={"embed_dim": 16, "depth": 3, "num_heads": 2, "patch_size": 8},
    preprocessing={"size": [32, 48], "resize": "stretch"},
)
CACHE_BYTES = 4 * 2**20
AIM = 1.05

_CLIENTS = 8
# Explained right after they were uploaded, before the small store drops them.
_TOGETHER = 500
_ASKED_TOGETHER = 5000


@dataclass(frozen=True)
class _Scale:
    """How much is asked: pictures before the first reading, pictures and requests in all."""

    first: int
    pictures: int
    requests: int


def growth_rows(quick: bool) -> list[Row]:
    """Resident memory after many pictures, and after many requests."""
    scale = _Scale(500, 2000, 10_000) if quick else _Scale(1000, 10_000, 100_000)
    bounds = ("--cache-bytes", str(CACHE_BYTES), "--image-cache-bytes", str(CACHE_BYTES))
    with serving(MODEL, *bounds, threads=1) as server, calling(server.target, _CLIENTS) as clients:
        _fill(clients, 0, scale.first)
        before = server.resident_bytes()
        _fill(clients, scale.first, scale.pictures)
        after_pictures = server.resident_bytes()
        _ask(clients, scale)
        after_requests = server.resident_bytes()
    return [
        _row(f"{scale.pictures:,} distinct pictures", scale, before, after_pictures),
        _row(f"{scale.requests:,} requests", scale, before, after_requests),
    ]


def _fill(clients: CallerProcess, start: int, stop: int) -> None:
    for first in range(start, stop, _TOGETHER):
        count = min(_TOGETHER, stop - first)
        clients.do("fill", model=MODEL["name"], first=first, count=count)


def _ask(clients: CallerProcess, scale: _Scale) -> None:
    for done in range(scale.pictures, scale.requests, _ASKED_TOGETHER):
        clients.do(
            "ask_again",
            model=MODEL["name"],
            pictures=scale.pictures,
            count=min(_ASKED_TOGETHER, scale.requests - done),
            seed=done,
        )


def _row(what: str, scale: _Scale, before: int, after: int) -> Row:
    allowed = before + 2 * CACHE_BYTES
    return Row(
        name=f"resident memory of the server after {what} vs after the first {scale.first:,} "
        "pictures and the bound of the caches",
        ours=after / 1e9,
        baseline=allowed / 1e9,
        unit="GB",
        ratio=after / allowed,
        aim=AIM,
        better="lower",
        note=f"grew by {(after - before) / 2**20:+.1f} MiB; the caches hold "
        f"{2 * CACHE_BYTES / 2**20:g} MiB",
    )
