"""Fill in the results of `docs/benchmarks.md` from what benchmarks have written.

`python -m tests.benchmark.page FILE ...`: a section for each file, such as bench-results.json and
that of a machine with a GPU.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmark.measure import Row

PAGE = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"

_BLOCK = re.compile(r"(<!-- generated: results -->\n).*?(<!-- end -->)", re.DOTALL)
_HEAD = "| suite | what | ours | baseline | ratio | aim |\n|---|---|---:|---:|---:|---:|\n"


def filled(page: str, documents: Sequence[dict[str, Any]]) -> str:
    """The page with the results of these runs in place of what it had.

    Args:
        page: Markdown with a block between `<!-- generated: results -->` and `<!-- end -->`.
        documents: As `python -m tests.benchmark` writes them.
    """
    sections = "\n".join(section(document) for document in documents)
    return _BLOCK.sub(lambda found: f"{found[1]}\n{sections}\n{found[2]}", page)


def section(document: dict[str, Any]) -> str:
    """Heading, circumstances and table of one run."""
    machine = document["machine"]
    heading = machine["gpu"] or f"{machine['processor']}, {machine['cores']} cores"
    facts = [f"{machine['processor']}, {machine['cores']} cores"] if machine["gpu"] else []
    facts += [f"torch threads: {machine['threads']}"]
    facts += [f"{name} {machine[name]}" for name in ("torch", "timm")]
    facts += [f"Python {machine['python']}"]
    minutes = sum(document["seconds"].values()) / 60
    facts += [f"{'a quick' if document['quick'] else 'a whole'} run of {minutes:.0f} minutes"]
    lines = "".join(_line(dict(fields)) for fields in document["rows"])
    return f"### {heading}\n\n{', '.join(facts)}.\n\n{_HEAD}{lines}"


def _line(fields: dict[str, Any]) -> str:
    suite = fields.pop("suite")
    del fields["holds"]  # follows from the rest
    row = Row(**fields)
    what = f"{row.name} ({row.note})" if row.note else row.name
    missed = ", **missed**" if row.holds is False else ""
    cells = (
        f"`{suite}`",
        what.replace("|", "\\|"),
        row.shown(row.ours),
        row.shown(row.baseline),
        f"{row.ratio:.3g}",
        f"{row.shown_aim}{missed}",
    )
    return f"| {' | '.join(cells)} |\n"


def main() -> None:
    """Command line."""
    documents = [json.loads(Path(path).read_text(encoding="utf-8")) for path in sys.argv[1:]]
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), documents), encoding="utf-8")


if __name__ == "__main__":
    main()
