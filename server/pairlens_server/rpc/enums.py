"""Enum values of the contract and of the domain, paired by name."""

from __future__ import annotations

from enum import Enum
from functools import cache
from typing import Any, TypeVar

from pairlens_server.errors import InvalidParameterError

Member = TypeVar("Member", bound=Enum)


def from_proto(enum: Any, number: int, kind: type[Member], field: str) -> Member | None:
    """The domain value of an enum field; None when it is unset.

    Args:
        enum: Wrapper of the protobuf enum, for example `methods_pb2.BiasMode`. Its values
            are named after it (`BIAS_MODE_SEPARATE` of `BiasMode`), zero being unset.
        number: As received.
        kind: Domain enum whose values are the names in lower case.
        field: Path of the field, for the error.

    Raises:
        InvalidParameterError: The number has no name: a newer client's value.
    """
    if number == 0:
        return None
    if number not in enum.values():
        known = ", ".join(member.value for member in kind)
        raise InvalidParameterError(
            f"{field}: no value has number {number}; known: {known}", field=field
        )
    return kind(enum.Name(number).removeprefix(prefix(enum)).lower())


@cache
def to_proto(enum: Any, member: Enum | None) -> Any:
    """The number of a domain value; zero (unset) for None."""
    return 0 if member is None else enum.Value(prefix(enum) + str(member.value).upper())


def prefix(enum: Any) -> str:
    """What the names of an enum's values begin with: `BIAS_MODE_` for `BiasMode`."""
    return str(enum.Name(0)).removesuffix("UNSPECIFIED")
