"""What became of the models of a server that read its models file again."""

from __future__ import annotations

from dataclasses import dataclass

from pairlens.errors import PairlensError


@dataclass(frozen=True, eq=False)
class ModelChange:
    """What became of one model of the server's models file, or of one that is not in it now.

    Attributes:
        model: Its name.
        change: "unchanged", "added", "replaced", "removed", or "failed": it could not be
            loaded or warmed up, and what was served under the name, if anything, still is.
        fingerprint: Of what is served under the name now, as in `ModelInfo`; "" where
            nothing is.
        error: Why it failed, or None.
    """

    model: str
    change: str
    fingerprint: str = ""
    error: PairlensError | None = None
