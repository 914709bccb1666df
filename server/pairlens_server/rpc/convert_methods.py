"""Methods with their parameters, from the contract's messages and back."""

from __future__ import annotations

from pairlens.v1 import common_pb2, methods_pb2
from pairlens_server.errors import InvalidParameterError
from pairlens_server.methods.attention import RawAttention
from pairlens_server.methods.base import ExplanationMethod, Profile
from pairlens_server.methods.cam import GradCam
from pairlens_server.methods.rollout import Rollout
from pairlens_server.methods.similarity import BiasMode, PooledDecomposition, Redistribution
from pairlens_server.rpc.enums import from_proto, to_proto


def explanation_method(message: methods_pb2.ExplanationMethod) -> ExplanationMethod:
    """The method of an Explain request, its parameters not yet resolved.

    Raises:
        InvalidParameterError: None is chosen, or a parameter has a value we do not know.
    """
    chosen = message.WhichOneof("method")
    if chosen == "raw_attention":
        return _raw_attention(message.raw_attention)
    if chosen == "rollout":
        return _rollout(message.rollout)
    if chosen == "grad_cam":
        return GradCam()
    raise _none_chosen(message)


def pair_method(message: methods_pb2.PairMethod) -> PooledDecomposition:
    """The method of a PairSimilarity request, its parameters not yet resolved.

    Raises:
        InvalidParameterError: None is chosen, or a parameter has a value we do not know.
    """
    if message.WhichOneof("method") == "pooled_decomposition":
        return _pooled_decomposition(message.pooled_decomposition)
    raise _none_chosen(message)


def explanation_message(method: ExplanationMethod) -> methods_pb2.ExplanationMethod:
    """A resolved method of Explain as its message."""
    if isinstance(method, RawAttention):
        attention = methods_pb2.RawAttention(block=method.block, head=method.head)
        return methods_pb2.ExplanationMethod(raw_attention=attention)
    if isinstance(method, Rollout):
        rollout = methods_pb2.Rollout(
            start_block=method.start_block,
            end_block=method.end_block,
            profile=to_proto(common_pb2.Profile, method.profile),
        )
        return methods_pb2.ExplanationMethod(rollout=rollout)
    if isinstance(method, GradCam):
        return methods_pb2.ExplanationMethod(grad_cam=methods_pb2.GradCam())
    raise TypeError(f"{method.name} is not in the contract")


def pair_message(method: PooledDecomposition) -> methods_pb2.PairMethod:
    """A resolved method of PairSimilarity as its message."""
    return methods_pb2.PairMethod(
        pooled_decomposition=methods_pb2.PooledDecomposition(
            profile=to_proto(common_pb2.Profile, method.profile),
            redistribution=to_proto(methods_pb2.Redistribution, method.redistribution),
            bias_mode=to_proto(methods_pb2.BiasMode, method.bias_mode),
            match_matrix=method.match_matrix,
        )
    )


def _raw_attention(message: methods_pb2.RawAttention) -> RawAttention:
    return RawAttention(
        block=message.block if message.HasField("block") else None,
        head=message.head if message.HasField("head") else None,
    )


def _rollout(message: methods_pb2.Rollout) -> Rollout:
    return Rollout(
        start_block=message.start_block if message.HasField("start_block") else None,
        end_block=message.end_block if message.HasField("end_block") else None,
        profile=_profile(message.profile, "method.rollout.profile"),
    )


def _pooled_decomposition(message: methods_pb2.PooledDecomposition) -> PooledDecomposition:
    path = "method.pooled_decomposition"
    return PooledDecomposition(
        profile=_profile(message.profile, f"{path}.profile"),
        redistribution=from_proto(
            methods_pb2.Redistribution,
            message.redistribution,
            Redistribution,
            f"{path}.redistribution",
        ),
        bias_mode=from_proto(
            methods_pb2.BiasMode, message.bias_mode, BiasMode, f"{path}.bias_mode"
        ),
        match_matrix=message.match_matrix,
    )


def _profile(number: int, field: str) -> Profile:
    return from_proto(common_pb2.Profile, number, Profile, field) or Profile.STRICT


def _none_chosen(
    message: methods_pb2.ExplanationMethod | methods_pb2.PairMethod,
) -> InvalidParameterError:
    # Not the default: what a newer client chose looks unset here, and it would get
    # another map than it asked for.
    known = ", ".join(field.name for field in message.DESCRIPTOR.fields)
    return InvalidParameterError(
        f"method holds none of {known}; leave it out for the model's default", field="method"
    )
