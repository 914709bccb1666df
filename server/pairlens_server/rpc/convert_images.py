"""Pictures and their digests, from the contract's messages and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pairlens.v1 import common_pb2, image_service_pb2
from pairlens_server.errors import InvalidParameterError, PairlensError
from pairlens_server.images.sources import ImageDigest, ImageSource
from pairlens_server.rpc.errors import to_status

MAX_PICTURES = 10_000
"""Of one list; each is looked at by itself, while other calls wait."""

_SHA256_BYTES = 32


def check_count(values: Sequence[Any], maximum: int, field: str) -> None:
    """Refuse a list that takes too long to read.

    Raises:
        InvalidParameterError: It is longer than the maximum.
    """
    if len(values) > maximum:
        raise InvalidParameterError(
            f"{len(values)} {field}; a call has at most {maximum}", field=field
        )


def required_source(image: common_pb2.Image | None, field: str) -> ImageSource:
    """The picture of a request.

    Raises:
        InvalidParameterError: It is missing, or its digest is malformed.
    """
    if image is None:
        raise InvalidParameterError(f"{field} is required", field=field)
    if image.WhichOneof("source") is None:
        raise InvalidParameterError(f"{field} has no source", field=f"{field}.inline")
    return _source(image, field)


def read_sources(images: Sequence[common_pb2.Image], field: str) -> tuple[ImageSource, ...]:
    """Pictures that fail alone: one without a source stays an empty file.

    Raises:
        InvalidParameterError: They are too many, or a digest is malformed.
    """
    check_count(images, MAX_PICTURES, field)
    return tuple(_source(image, f"{field}[{index}]") for index, image in enumerate(images))


def read_digests(messages: Sequence[common_pb2.Digest], field: str) -> tuple[ImageDigest, ...]:
    """Digests of a request.

    Raises:
        InvalidParameterError: They are too many, or one is malformed.
    """
    check_count(messages, MAX_PICTURES, field)
    return tuple(_digest(digest, f"{field}[{index}]") for index, digest in enumerate(messages))


def read_uploads(
    request: image_service_pb2.UploadImagesRequest,
) -> tuple[tuple[bytes, ImageDigest | None], ...]:
    """Files to be kept, each with what the client takes its digest to be.

    Raises:
        InvalidParameterError: They are too many, or a digest is malformed.
    """
    check_count(request.images, MAX_PICTURES, "images")
    return tuple(
        (
            image.data,
            _digest(image.digest, f"images[{index}].digest") if image.HasField("digest") else None,
        )
        for index, image in enumerate(request.images)
    )


def digest_message(digest: ImageDigest) -> common_pb2.Digest:
    """A digest as its message."""
    return common_pb2.Digest(sha256=bytes.fromhex(digest.sha256), size_bytes=digest.size_bytes)


def find_missing_response(
    missing: Sequence[ImageDigest],
) -> image_service_pb2.FindMissingImagesResponse:
    """Convert an answer of FindMissingImages."""
    return image_service_pb2.FindMissingImagesResponse(missing=map(digest_message, missing))


def upload_response(
    results: Sequence[ImageDigest | PairlensError],
) -> image_service_pb2.UploadImagesResponse:
    """Convert an answer of UploadImages."""
    response = image_service_pb2.UploadImagesResponse()
    for result in results:
        message = response.results.add()
        if isinstance(result, PairlensError):
            message.error.CopyFrom(to_status(result))
        else:
            message.digest.CopyFrom(digest_message(result))
    return response


def _source(image: common_pb2.Image, field: str) -> ImageSource:
    if image.WhichOneof("source") == "digest":
        return _digest(image.digest, f"{field}.digest")
    return image.inline


def _digest(message: common_pb2.Digest, field: str) -> ImageDigest:
    sha256 = message.sha256
    if len(sha256) != _SHA256_BYTES:
        raise InvalidParameterError(
            f"{field}.sha256 has {len(sha256)} bytes; a SHA-256 has {_SHA256_BYTES}",
            field=f"{field}.sha256",
        )
    if not message.size_bytes:
        raise InvalidParameterError(
            f"{field}.size_bytes is required: the length of the file",
            field=f"{field}.size_bytes",
        )
    return ImageDigest(sha256.hex(), message.size_bytes)
