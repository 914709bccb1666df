"""Whether the cases of one run are the first of another's, so that it can go on with them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from pairlens.evaluation.protocol import JSON

KEYS = ("cases", "cases_sha256")
"""Of a configuration: they say which cases there are, and change no number of any of them."""


def in_configuration(cases: Sequence[str], contents: Sequence[str]) -> dict[str, JSON]:
    """What a configuration says of the cases.

    Args:
        cases: Keys.
        contents: Hash of what each uses, or "".
    """
    return {"cases": len(cases), "cases_sha256": _digest(_lines(cases, contents))}


def in_about(cases: Sequence[str], contents: Sequence[str]) -> dict[str, Any]:
    """The cases themselves, for the part of a header that is in no hash."""
    return {"cases": list(cases), "contents": list(contents) if any(contents) else []}


def conflict(
    old: tuple[Mapping[str, JSON], Mapping[str, Any]],
    new: tuple[Mapping[str, JSON], Mapping[str, Any]],
) -> str:
    """Why neither list of cases begins with the other, or "".

    Args:
        old: Configuration and the rest of a journal's header.
        new: Of this run.
    """
    if "cases" not in new[1]:
        return ""
    now = _lines(new[1]["cases"], new[1]["contents"])
    if "cases" in old[1]:
        before = _lines(old[1]["cases"], old[1]["contents"])
        shared = min(len(before), len(now))
        same = before[:shared] == now[:shared]
    else:  # a journal that holds their hash alone
        shared = int(str(old[0].get("cases", 0)))
        same = shared <= len(now) and _digest(now[:shared]) == old[0].get("cases_sha256")
    return "" if same else f"its first {shared} cases are others, or their files have changed"


def _lines(cases: Sequence[str], contents: Sequence[str]) -> list[str]:
    if not any(contents):
        return list(cases)
    return [f"{case}\0{content}" for case, content in zip(cases, contents, strict=True)]


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
