"""AdminService: the cache's numbers and its emptying, reloads, and the server's end."""

from __future__ import annotations

from dataclasses import fields

import grpc
import pytest
from google.rpc import error_details_pb2

from pairlens.v1 import admin_service_pb2, common_pb2
from pairlens_server.cache.policy import CachePolicy
from pairlens_server.cache.stats import (
    CacheKind,
    CacheStats,
    Cleared,
    KindStats,
    RedisState,
    RedisStats,
)
from pairlens_server.errors import ConfigurationInvalidError, InvalidParameterError
from pairlens_server.rpc.admin_servicer import AdminServicer
from pairlens_server.service.model_changes import ChangeKind, ModelChange

MEMORY = KindStats(*range(1, 10))
REDIS = KindStats(hits=11, misses=12, corrupt=13, stored=14, dropped=15)


class UseCases:
    """Remembers what it was asked, and answers what a test says."""

    def __init__(self, answer):
        self._answer = answer

    async def cache_stats(self):
        return self._answer

    async def clear_cache(self, model, kinds):
        self.asked = (model, kinds)
        return self._answer


def servicer(use_cases, changes=(), under_way=0):
    async def reload():
        return changes

    return AdminServicer(use_cases, reload=reload, drain=lambda: under_way)


async def stats(answer):
    request = admin_service_pb2.GetCacheStatsRequest()
    return await servicer(UseCases(answer)).GetCacheStats(request, None)


async def clear(use_cases, **asked):
    request = admin_service_pb2.ClearCacheRequest(**asked)
    return await servicer(use_cases).ClearCache(request, None)


async def test_every_number_has_its_field():
    kinds = {CacheKind.IMAGE: REDIS, CacheKind.ACTIVATION: KindStats()}
    redis = RedisStats(RedisState.UP, kinds, 1, 2, 3, 4, 5, 6)
    answer = await stats(CacheStats({CacheKind.ACTIVATION: MEMORY}, redis))
    assert answer == admin_service_pb2.GetCacheStatsResponse(
        memory=[
            {
                "kind": "CACHE_KIND_ACTIVATION",
                "hits": 1,
                "misses": 2,
                "corrupt": 3,
                "stored": 4,
                "dropped": 5,
                "evicted": 6,
                "entries": 7,
                "bytes": 8,
                "max_bytes": 9,
            }
        ],
        redis={
            "state": "REDIS_STATE_UP",
            # In the contract's order.
            "kinds": [
                {"kind": "CACHE_KIND_ACTIVATION"},
                {
                    "kind": "CACHE_KIND_IMAGE",
                    "hits": 11,
                    "misses": 12,
                    "corrupt": 13,
                    "stored": 14,
                    "dropped": 15,
                },
            ],
            "errors": 1,
            "timeouts": 2,
            "queued_bytes": 3,
            "max_queued_bytes": 4,
            "used_bytes": 5,
            "max_bytes": 6,
        },
    )


async def test_a_server_without_redis_says_so():
    answer = await stats(CacheStats({}, RedisStats()))
    assert answer.redis.state == admin_service_pb2.REDIS_STATE_OFF
    assert not answer.memory


@pytest.mark.parametrize(
    ("enum", "kind"),
    [
        (admin_service_pb2.CacheKind, CacheKind),
        (admin_service_pb2.RedisState, RedisState),
        (admin_service_pb2.ModelChangeKind, ChangeKind),
        (common_pb2.CachePolicy, CachePolicy),
    ],
)
def test_enums_have_the_same_names(enum, kind):
    prefix = enum.Name(0).removesuffix("UNSPECIFIED")
    names = [name.removeprefix(prefix).lower() for name in enum.keys()[1:]]
    assert names == [member.value for member in kind]


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (admin_service_pb2.CacheKindStats, KindStats),
        (admin_service_pb2.RedisStats, RedisStats),
        (admin_service_pb2.ClearCacheResponse, Cleared),
    ],
)
def test_messages_have_the_fields_of_their_values(message, kind):
    names = {field.name for field in message.DESCRIPTOR.fields} - {"kind"}
    assert names == {field.name for field in fields(kind)}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, ("", frozenset())),
        ({"model": "m"}, ("m", frozenset())),
        ({"kinds": ["CACHE_KIND_IMAGE"] * 2}, ("", {CacheKind.IMAGE})),
        ({"kinds": [2, 1]}, ("", {CacheKind.IMAGE, CacheKind.ACTIVATION})),
    ],
)
async def test_what_is_emptied(asked, expected):
    use_cases = UseCases(Cleared(3, 4, redis_cleared=True))
    answer = await clear(use_cases, **asked)
    assert use_cases.asked == expected
    assert answer == admin_service_pb2.ClearCacheResponse(
        memory_entries=3, redis_entries=4, redis_cleared=True
    )


@pytest.mark.parametrize(
    ("kinds", "path"), [([1, 0], "kinds[1]"), ([99], "kinds[0]"), ([1] * 101, "kinds")]
)
async def test_kinds_that_are_none(kinds, path):
    use_cases = UseCases(None)
    with pytest.raises(InvalidParameterError) as caught:
        await clear(use_cases, kinds=kinds)
    assert caught.value.field == path
    assert not hasattr(use_cases, "asked")


async def test_what_became_of_models():
    why = ConfigurationInvalidError("model 'b': b.pth: no such file")
    changes = (
        ModelChange("a", ChangeKind.REPLACED, "f00"),
        ModelChange("b", ChangeKind.FAILED, "ba2", why),
        ModelChange("c", ChangeKind.REMOVED),
    )
    request = admin_service_pb2.ReloadModelsRequest()
    answer = await servicer(None, changes).ReloadModels(request, None)
    told = [(c.model, admin_service_pb2.ModelChangeKind.Name(c.change)) for c in answer.changes]
    assert told == [
        ("a", "MODEL_CHANGE_KIND_REPLACED"),
        ("b", "MODEL_CHANGE_KIND_FAILED"),
        ("c", "MODEL_CHANGE_KIND_REMOVED"),
    ]
    assert [c.fingerprint for c in answer.changes] == ["f00", "ba2", ""]
    assert [c.HasField("error") for c in answer.changes] == [False, True, False]
    error = answer.changes[1].error
    assert (error.code, error.message) == (grpc.StatusCode.FAILED_PRECONDITION.value[0], str(why))
    info = error_details_pb2.ErrorInfo()
    assert error.details[0].Unpack(info)
    assert info.reason == "CONFIGURATION_INVALID"


async def test_a_drain_tells_how_many_calls_are_under_way():
    request = admin_service_pb2.DrainRequest()
    answer = await servicer(None, under_way=7).Drain(request, None)
    assert answer.calls_under_way == 7
