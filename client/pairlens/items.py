"""What `explain_many` and `pair_many` yield."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from pairlens.errors import PairlensError

_T = TypeVar("_T")
_Result_co = TypeVar("_Result_co", covariant=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemResult(Generic[_Result_co]):
    """The answer about one of many inputs.

    Attributes:
        index: Of the input, from 0.
        name: What the input is called: a path as it was given, else the name that the picture
            has, or "". Of a pair the names of both, or of the query and how many candidates.
        result: What the call for one input returns.
    """

    index: int
    name: str
    result: _Result_co


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemFailure:
    """One of many inputs for which there is no answer, while there may be for others.

    Attributes:
        index, name: As in `ItemResult`.
        error: Why.
    """

    index: int
    name: str
    error: PairlensError


Item: TypeAlias = ItemResult[_T] | ItemFailure
