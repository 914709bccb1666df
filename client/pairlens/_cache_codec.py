"""Requests of Warm, and answers about the cache, as the SDK's frozen values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import MappingProxyType

from pairlens import _answers, _requests, specs
from pairlens._failures import from_status
from pairlens._image_fields import ImageField
from pairlens._images import SentImage
from pairlens._parameters import EXPLANATIONS, PAIRS, enum_name
from pairlens.caching import CacheKindStats, CacheStats, ClearedCache, RedisStats, Warmed
from pairlens.errors import (
    InvalidParameterError,
    MalformedResponseError,
    PairlensError,
)
from pairlens.models import Method, MethodKind
from pairlens.options import CachePolicy
from pairlens.results import Timing
from pairlens.v1 import admin_service_pb2, explanation_service_pb2

_METHODS = replace(EXPLANATIONS, field="methods")
_PAIR_METHODS = replace(PAIRS, field="pair_methods")


def methods(given: str | Method | Iterable[str | Method], kind: MethodKind) -> tuple[Method, ...]:
    """Methods of the caller; one text may name several.

    Raises:
        InvalidParameterError: An unknown method or parameter, or a bad value.
    """
    listed = [given] if isinstance(given, (str, Method)) else given
    return tuple(
        method
        for item in listed
        for method in (
            [item]
            if isinstance(item, Method)
            else [specs.method(text, kind) for text in specs.split(item)]
        )
    )


def warm_request(
    images: Sequence[SentImage],
    model: str,
    methods: Sequence[Method],
    pair_methods: Sequence[Method],
    cache: CachePolicy,
    field: ImageField,
) -> explanation_service_pb2.WarmRequest:
    """Build one request; `cache` and `field` as in `_requests`.

    Raises:
        InvalidParameterError: A bad method; see `Family.fill`.
    """
    request = explanation_service_pb2.WarmRequest(
        model=model,
        images=[field(image) for image in images],
        cache=_requests.cache_policy(cache),
    )
    for method in methods:
        _METHODS.fill(request.methods.add(), method.name, method.parameters)
    for method in pair_methods:
        _PAIR_METHODS.fill(request.pair_methods.add(), method.name, method.parameters)
    return request


class WarmedParts:
    """Answers of several requests, put together."""

    def __init__(self) -> None:
        self._cached: list[bool] = []
        self._failures: dict[int, PairlensError] = {}
        self._timings: list[Timing] = []

    def add(self, response: explanation_service_pb2.WarmResponse, count: int) -> None:
        """Read the answer for the next pictures.

        Raises:
            MalformedResponseError: The answer breaks the contract.
        """
        if len(response.results) != count:
            raise MalformedResponseError(f"{len(response.results)} results for {count} pictures")
        for result in response.results:
            outcome = result.WhichOneof("outcome")
            if outcome is None:
                raise MalformedResponseError(
                    f"the result of picture {len(self._cached)} holds neither success nor an error"
                )
            if outcome == "error":
                self.fail(from_status(result.error))
            else:
                self._cached.append(result.warmed.cached)
        self._timings.append(_answers.timing(response.timing))

    def fail(self, error: PairlensError) -> None:
        """Note why the next picture could not be used."""
        self._failures[len(self._cached)] = error
        self._cached.append(False)

    def warmed(self) -> Warmed:
        """All of them.

        Raises:
            InvalidParameterError: There are none.
        """
        if not self._cached:
            raise InvalidParameterError("give at least one picture", field="images")
        return Warmed(
            cached=tuple(self._cached),
            failures=MappingProxyType(self._failures),
            timing=_answers.total(self._timings),
        )


def cache_stats(response: admin_service_pb2.GetCacheStatsResponse) -> CacheStats:
    """Read the answer of GetCacheStats."""
    redis = response.redis
    return CacheStats(
        memory=tuple(map(_kind, response.memory)),
        redis=RedisStats(
            state=enum_name(admin_service_pb2.RedisState.DESCRIPTOR, redis.state),
            kinds=tuple(map(_kind, redis.kinds)),
            errors=redis.errors,
            timeouts=redis.timeouts,
            queued_bytes=redis.queued_bytes,
            max_queued_bytes=redis.max_queued_bytes,
            used_bytes=redis.used_bytes,
            max_bytes=redis.max_bytes,
        ),
    )


def cleared(response: admin_service_pb2.ClearCacheResponse) -> ClearedCache:
    """Read the answer of ClearCache."""
    return ClearedCache(
        memory_entries=response.memory_entries,
        redis_entries=response.redis_entries,
        redis_cleared=response.redis_cleared,
    )


def _kind(message: admin_service_pb2.CacheKindStats) -> CacheKindStats:
    return CacheKindStats(
        kind=enum_name(admin_service_pb2.CacheKind.DESCRIPTOR, message.kind),
        hits=message.hits,
        misses=message.misses,
        corrupt=message.corrupt,
        stored=message.stored,
        dropped=message.dropped,
        evicted=message.evicted,
        entries=message.entries,
        bytes=message.bytes,
        max_bytes=message.max_bytes,
    )
