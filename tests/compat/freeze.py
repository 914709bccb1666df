"""Keep the contract as it is now, for later versions to be compared with.

python -m tests.compat.freeze 2026-11-21
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.compat.descriptors import FROZEN, ROOT, compiled, of_revision


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="day of the release, YYYY-MM-DD")
    parser.add_argument("--revision", help="take the protos of this commit")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.revision:
            made = of_revision(arguments.revision, Path(folder))
        else:
            made = compiled(ROOT / "protos", Path(folder) / "set.binpb")
    path = FROZEN / f"{arguments.name}.binpb"
    path.write_bytes(made.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
