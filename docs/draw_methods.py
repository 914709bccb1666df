"""Draw `docs/methods/` and fill in `docs/methods.md`: `python docs/draw_methods.py`.

Every picture is asked of the real server with the demo models, through the SDK.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

from methods.agreement import agreement
from methods.figures import FIGURES, Gallery
from methods.page import PAGE, demo_facts, filled, with_measured

from pairlens import Client
from pairlens_server.demo.local_server import local_server
from pairlens_server.demo.pairs import MODELS_FILE

_FOLDER = Path(__file__).parent / "methods"
_AGREEMENT = "agreement"
_QUALITY = 85
_READY_TIMEOUT_S, _CALL_TIMEOUT_S = 120.0, 600.0


def draw(names: list[str]) -> None:
    """Draw the figures of these names; "agreement" measures the page's table of that name."""
    with ExitStack() as stack:
        target = stack.enter_context(local_server(MODELS_FILE))
        client = stack.enter_context(Client(target, timeout=_CALL_TIMEOUT_S))
        client.wait_ready(_READY_TIMEOUT_S)
        gallery = Gallery(client)
        for name in names:
            if name == _AGREEMENT:
                PAGE.write_text(with_measured(PAGE.read_text("utf-8"), agreement(gallery)), "utf-8")
            else:
                path = _FOLDER / f"{name}.jpg"
                FIGURES[name](gallery).save(path, quality=_QUALITY, optimize=True)
            sys.stdout.write(f"{name}\n")
            sys.stdout.flush()


def main() -> int:
    """Command line."""
    everything = [*FIGURES, _AGREEMENT]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", action="store_true", help="leave figures and measurements alone")
    parser.add_argument(
        "--only", nargs="+", choices=everything, metavar="NAME", help="what to draw or measure"
    )
    arguments = parser.parse_args()
    if not arguments.text:
        draw(arguments.only or everything)
    PAGE.write_text(filled(PAGE.read_text("utf-8"), demo_facts()), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
