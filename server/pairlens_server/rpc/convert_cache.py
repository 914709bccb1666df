"""What concerns the cache: its policy in requests, its numbers and its emptying."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pairlens.v1 import admin_service_pb2, common_pb2
from pairlens_server.cache.policy import CachePolicy
from pairlens_server.cache.stats import CacheKind, CacheStats, Cleared, KindStats
from pairlens_server.errors import InvalidParameterError
from pairlens_server.rpc.convert_images import check_count
from pairlens_server.rpc.enums import from_proto, to_proto

_MAX_KINDS = 100


def read_policy(number: int) -> CachePolicy:
    """How a request uses the cache.

    Raises:
        InvalidParameterError: A value that we do not know.
    """
    found = from_proto(common_pb2.CachePolicy, number, CachePolicy, "cache")
    return found or CachePolicy.DEFAULT


def read_kinds(request: admin_service_pb2.ClearCacheRequest) -> frozenset[CacheKind]:
    """Kinds of values that are to be removed; none for the default.

    Raises:
        InvalidParameterError: A value that we do not know, or that names no kind.
    """
    check_count(request.kinds, _MAX_KINDS, "kinds")
    return frozenset(_kind(number, f"kinds[{i}]") for i, number in enumerate(request.kinds))


def _kind(number: int, field: str) -> CacheKind:
    kind = from_proto(admin_service_pb2.CacheKind, number, CacheKind, field)
    if kind is None:
        raise InvalidParameterError(f"{field} names no kind of value", field=field)
    return kind


def stats_response(stats: CacheStats) -> admin_service_pb2.GetCacheStatsResponse:
    """Convert an answer of GetCacheStats."""
    redis = stats.redis
    return admin_service_pb2.GetCacheStatsResponse(
        memory=_kinds(stats.memory),
        redis=admin_service_pb2.RedisStats(
            state=to_proto(admin_service_pb2.RedisState, redis.state),
            kinds=_kinds(redis.kinds),
            errors=redis.errors,
            timeouts=redis.timeouts,
            queued_bytes=redis.queued_bytes,
            max_queued_bytes=redis.max_queued_bytes,
            used_bytes=redis.used_bytes,
            max_bytes=redis.max_bytes,
        ),
    )


def _kinds(stats: Mapping[CacheKind, KindStats]) -> Iterable[admin_service_pb2.CacheKindStats]:
    # In the contract's order, whatever order they were counted in.
    for kind in CacheKind:
        if kind in stats:
            number = to_proto(admin_service_pb2.CacheKind, kind)
            yield admin_service_pb2.CacheKindStats(kind=number, **vars(stats[kind]))


def cleared_response(cleared: Cleared) -> admin_service_pb2.ClearCacheResponse:
    """Convert an answer of ClearCache."""
    return admin_service_pb2.ClearCacheResponse(**vars(cleared))
