"""Draw `docs/metrics/` and fill in `docs/metrics.md`: `python docs/draw_metrics.py`.

Scores are asked of a server with the demo models, through the SDK: of one that this command
starts, or of `--server`. The copies in the figure are made as the server makes them.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

from metrics_page.figures import FIGURES, Scored
from metrics_page.page import PAGE, filled

from pairlens import Client
from pairlens_server.demo.local_server import local_server
from pairlens_server.demo.pairs import MODELS_FILE

_FOLDER = Path(__file__).parent / "metrics"
_QUALITY = 85
_READY_TIMEOUT_S, _CALL_TIMEOUT_S = 120.0, 600.0


def draw(names: list[str], server: str | None) -> None:
    """Draw the figures of these names."""
    with ExitStack() as stack:
        target = server or stack.enter_context(local_server(MODELS_FILE))
        client = stack.enter_context(Client(target, timeout=_CALL_TIMEOUT_S))
        client.wait_ready(_READY_TIMEOUT_S)
        scored = Scored(client)
        for name in names:
            FIGURES[name](scored).save(_FOLDER / name, quality=_QUALITY, optimize=True)
            sys.stdout.write(f"{name}\n")
            sys.stdout.flush()


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", action="store_true", help="leave the figures alone")
    parser.add_argument(
        "--only", nargs="+", choices=list(FIGURES), metavar="NAME", help="what to draw"
    )
    parser.add_argument("--server", metavar="HOST:PORT", help="with the demo models")
    arguments = parser.parse_args()
    if not arguments.text:
        draw(arguments.only or list(FIGURES), arguments.server)
    PAGE.write_text(filled(PAGE.read_text("utf-8")), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
