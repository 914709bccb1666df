"""Calls about pictures that are known by their digests, through bare stubs."""

from __future__ import annotations

import hashlib

import grpc

from pairlens.v1 import (
    common_pb2,
    explanation_service_pb2,
    explanation_service_pb2_grpc,
    image_service_pb2,
    image_service_pb2_grpc,
)
from tests.contract.support import TIMEOUT_S, failure_of

Explain = explanation_service_pb2.ExplainRequest
Pair = explanation_service_pb2.PairSimilarityRequest
Score = explanation_service_pb2.ScoreSaliencyRequest
Embed = explanation_service_pb2.EmbedRequest
Warm = explanation_service_pb2.WarmRequest


def digest_of(data: bytes) -> common_pb2.Digest:
    return common_pb2.Digest(sha256=hashlib.sha256(data).digest(), size_bytes=len(data))


def by_digest(data: bytes) -> common_pb2.Image:
    return common_pb2.Image(digest=digest_of(data))


class Calls:
    """All calls that take pictures."""

    def __init__(self, channel: grpc.Channel):
        self._images = image_service_pb2_grpc.ImageServiceStub(channel)
        self._explanations = explanation_service_pb2_grpc.ExplanationServiceStub(channel)

    def missing(self, *digests: common_pb2.Digest) -> list[common_pb2.Digest]:
        request = image_service_pb2.FindMissingImagesRequest(digests=digests)
        return list(self._images.FindMissingImages(request, timeout=TIMEOUT_S).missing)

    def upload(self, *files: bytes | image_service_pb2.ImageUpload) -> list[object]:
        """For each file its digest, or the failure."""
        uploads = [
            image_service_pb2.ImageUpload(data=file) if isinstance(file, bytes) else file
            for file in files
        ]
        request = image_service_pb2.UploadImagesRequest(images=uploads)
        results = self._images.UploadImages(request, timeout=TIMEOUT_S).results
        assert len(results) == len(files)
        return [
            result.digest if result.WhichOneof("outcome") == "digest" else failure_of(result.error)
            for result in results
        ]

    def __getattr__(self, name):
        rpc = getattr(self._explanations, name)
        return lambda request: rpc(request, timeout=TIMEOUT_S)
