"""What answers of several calls hold, as the SDK's frozen values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from pairlens import _parameters
from pairlens.models import Method
from pairlens.results import Provenance, Target, Timing
from pairlens.v1 import common_pb2, explanation_service_pb2, methods_pb2


def target(message: explanation_service_pb2.ResolvedTarget) -> Target:
    """Read what a map explains."""
    similarities = tuple(message.similarities)
    if not message.HasField("class_index"):
        return Target(similarities=similarities)
    return Target(
        class_index=message.class_index,
        label=message.label,
        logit=message.logit,
        probability=message.probability,
        similarities=similarities,
    )


def method(
    message: methods_pb2.ExplanationMethod | methods_pb2.PairMethod, provenance: str
) -> Method:
    """Read a method; of one that only a newer contract knows the name in the provenance."""
    return _parameters.decode(message) or Method(provenance)


def provenance(message: common_pb2.Provenance) -> Provenance:
    """Read where an answer came from."""
    return Provenance(
        model=message.model,
        model_fingerprint=message.model_fingerprint,
        method=message.method,
        method_revision=message.method_revision,
        preprocessing_digest=message.preprocessing_digest,
        dtype=message.dtype,
        device=message.device,
        server_version=message.server_version,
    )


def timing(message: common_pb2.Timing) -> Timing:
    """Read where the server's time went."""
    return Timing(
        total_s=_seconds(message.total),
        decode_s=_seconds(message.decode),
        queue_s=_seconds(message.queue),
        compute_s=_seconds(message.compute),
        method_s=_seconds(message.method),
        render_s=_seconds(message.render),
        cached_images=message.cached_images,
        images=message.images,
        cache_s=_seconds(message.cache),
        request_id=message.request_id,
    )


def total(timings: Sequence[Timing]) -> Timing:
    """The sums over several calls."""
    if len(timings) == 1:
        return timings[0]
    numbers = [field.name for field in fields(Timing) if field.name != "request_id"]
    return Timing(**{name: sum(getattr(timing, name) for timing in timings) for name in numbers})


def optional(message: Message, name: str) -> float | None:
    """A number of the message, None when unset."""
    return float(getattr(message, name)) if message.HasField(name) else None


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9
