"""Methods with their parameters, from the contract's messages and back."""

from __future__ import annotations

from types import MappingProxyType

from pairlens.v1 import methods_pb2
from pairlens_server.errors import InvalidParameterError
from pairlens_server.methods.base import ExplanationMethod
from pairlens_server.methods.catalogue import EXPLANATION_METHODS, PAIR_METHODS, PairMethod
from pairlens_server.rpc.convert_parameters import read_parameters, write_parameters

_EXPLANATIONS = MappingProxyType({method.name: method for method in EXPLANATION_METHODS})
_PAIRS = MappingProxyType({method.name: method for method in PAIR_METHODS})


def explanation_method(
    message: methods_pb2.ExplanationMethod, field: str = "method"
) -> ExplanationMethod:
    """The method of an Explain request, its parameters not yet resolved.

    Raises:
        InvalidParameterError: None is chosen, or a parameter has a value we do not know.
    """
    return read_parameters(message, _EXPLANATIONS[_chosen(message, field)], field)


def pair_method(message: methods_pb2.PairMethod, field: str = "method") -> PairMethod:
    """The method of a PairSimilarity request, its parameters not yet resolved.

    Raises:
        InvalidParameterError: None is chosen, or a parameter has a value we do not know.
    """
    return read_parameters(message, _PAIRS[_chosen(message, field)], field)


def explanation_message(method: ExplanationMethod) -> methods_pb2.ExplanationMethod:
    """A resolved method of Explain as its message."""
    message = methods_pb2.ExplanationMethod()
    write_parameters(getattr(message, method.name), method)
    return message


def pair_message(method: PairMethod) -> methods_pb2.PairMethod:
    """A resolved method of PairSimilarity as its message."""
    message = methods_pb2.PairMethod()
    write_parameters(getattr(message, method.name), method)
    return message


def _chosen(message: methods_pb2.ExplanationMethod | methods_pb2.PairMethod, field: str) -> str:
    chosen: str | None = message.WhichOneof("method")
    if chosen is not None:
        return chosen
    # Not the default: what a newer client chose looks unset here, and it would get
    # another map than it asked for.
    known = ", ".join(method.name for method in message.DESCRIPTOR.fields)
    raise InvalidParameterError(
        f"{field} holds none of {known}; leave it out for the model's default", field=field
    )
