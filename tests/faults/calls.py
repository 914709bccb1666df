"""Calls of a server by bare stubs, under a client's name, and answers to compare bit by bit."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message import Message

from pairlens.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    common_pb2,
    explanation_service_pb2,
    explanation_service_pb2_grpc,
    image_service_pb2,
    image_service_pb2_grpc,
)

TIMEOUT_S = 60.0

DEFAULT = common_pb2.CACHE_POLICY_DEFAULT
BYPASS = common_pb2.CACHE_POLICY_BYPASS
REFRESH = common_pb2.CACHE_POLICY_REFRESH

Explain = explanation_service_pb2.ExplainRequest
Pair = explanation_service_pb2.PairSimilarityRequest
Embed = explanation_service_pb2.EmbedRequest
Warm = explanation_service_pb2.WarmRequest

_METHODS = {Explain: "Explain", Pair: "PairSimilarity", Embed: "Embed", Warm: "Warm"}


def inline(data: bytes) -> common_pb2.Image:
    return common_pb2.Image(inline=data)


def digest_of(data: bytes) -> common_pb2.Digest:
    return common_pb2.Digest(sha256=hashlib.sha256(data).digest(), size_bytes=len(data))


def by_digest(data: bytes) -> common_pb2.Image:
    return common_pb2.Image(digest=digest_of(data))


class Caller:
    """One client of a server.

    Args:
        target: HOST:PORT.
        name: Under which the server knows it.
        credentials: For a server with TLS.
    """

    def __init__(
        self,
        target: str,
        name: str = "tests",
        credentials: grpc.ChannelCredentials | None = None,
    ):
        # Retries would hide what the tests want to see.
        options = [("grpc.enable_retries", 0), ("grpc.max_receive_message_length", -1)]
        if credentials is None:
            self.channel = grpc.insecure_channel(target, options=options)
        else:
            self.channel = grpc.secure_channel(target, credentials, options)
        self._explanations = explanation_service_pb2_grpc.ExplanationServiceStub(self.channel)
        self._images = image_service_pb2_grpc.ImageServiceStub(self.channel)
        self._admin = admin_service_pb2_grpc.AdminServiceStub(self.channel)
        self._metadata = (("pairlens-client", name),)

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()

    def send(self, request: Message, timeout: float = TIMEOUT_S) -> Any:
        """The answer of the RPC that takes such requests."""
        rpc = getattr(self._explanations, _METHODS[type(request)])
        return rpc(request, timeout=timeout, metadata=self._metadata)

    def begin(self, request: Message, timeout: float = TIMEOUT_S) -> Any:
        """The same as a future, which can be cancelled."""
        rpc = getattr(self._explanations, _METHODS[type(request)])
        return rpc.future(request, timeout=timeout, metadata=self._metadata)

    def upload(self, *files: bytes) -> None:
        uploads = [image_service_pb2.ImageUpload(data=data) for data in files]
        request = image_service_pb2.UploadImagesRequest(images=uploads)
        for result in self._images.UploadImages(request, timeout=TIMEOUT_S).results:
            assert result.WhichOneof("outcome") == "digest", result

    def missing(self, *files: bytes) -> int:
        """How many of these files the server lacks."""
        request = image_service_pb2.FindMissingImagesRequest(digests=map(digest_of, files))
        return len(self._images.FindMissingImages(request, timeout=TIMEOUT_S).missing)

    def stats(self) -> admin_service_pb2.GetCacheStatsResponse:
        request = admin_service_pb2.GetCacheStatsRequest()
        return self._admin.GetCacheStats(request, timeout=TIMEOUT_S)

    def redis_count(self, count: str) -> int:
        """A count of all kinds of values in Redis, such as "hits"."""
        return sum(getattr(kind, count) for kind in self.stats().redis.kinds)

    def redis_is_up(self) -> bool:
        return self.stats().redis.state == admin_service_pb2.REDIS_STATE_UP

    def written(self) -> None:
        """Wait until nothing waits to be written to Redis."""
        until(lambda: not self.stats().redis.queued_bytes, "all is written")


def content(answer: Message) -> bytes:
    """All of an answer but how long it took and what was cached."""
    copy = type(answer)()
    copy.CopyFrom(answer)
    copy.ClearField("timing")
    return copy.SerializeToString(deterministic=True)


def is_warm(answer: Any) -> bool:
    """Whether all that it needs was cached, and no model ran for it."""
    timing = answer.timing
    warm: bool = timing.cached_images == timing.images > 0
    assert not warm or timing.compute.ToNanoseconds() == 0
    return warm


def until(is_so: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    """Wait for something that will be so before long."""
    end = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < end, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)
