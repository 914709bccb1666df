"""What a reload of the models file made of each name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from pairlens_server.errors import PairlensError


class ChangeKind(str, Enum):
    """What became of a name."""

    UNCHANGED = "unchanged"
    ADDED = "added"
    REPLACED = "replaced"
    REMOVED = "removed"
    FAILED = "failed"


@dataclass(frozen=True)
class ModelChange:
    """What a reload made of one model.

    Attributes:
        model: Name; "" of the whole file.
        kind: What became of it.
        fingerprint: Of what is served under the name now; "" where nothing is.
        error: Why, of FAILED.
    """

    model: str
    kind: ChangeKind
    fingerprint: str = ""
    error: PairlensError | None = None


@dataclass(frozen=True)
class ServedModel:
    """What is served under a name at a time; holds on to no network.

    Attributes:
        number: No two loaded models have the same.
        fingerprint: Of the model.
    """

    number: int
    fingerprint: str


def changes(
    names: Iterable[str],
    before: Mapping[str, ServedModel],
    after: Mapping[str, ServedModel],
    failed: Mapping[str, PairlensError],
) -> Iterator[ModelChange]:
    """Compare what is served after a reload with what was before.

    Args:
        names: Of what is to be told of.
        before: By name.
        after: Likewise.
        failed: Why a name could not be served as the file has it.
    """
    for name in names:
        old, new = before.get(name), after.get(name)
        fingerprint = "" if new is None else new.fingerprint
        if name in failed:
            yield ModelChange(name, ChangeKind.FAILED, fingerprint, failed[name])
        elif new is None:
            yield ModelChange(name, ChangeKind.REMOVED)
        elif old is None:
            yield ModelChange(name, ChangeKind.ADDED, fingerprint)
        else:
            same = old.number == new.number
            kind = ChangeKind.UNCHANGED if same else ChangeKind.REPLACED
            yield ModelChange(name, kind, fingerprint)
