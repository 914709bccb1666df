"""Pictures that the scripted server keeps, and calls that name them by their hash."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from pairlens.v1 import common_pb2, image_service_pb2, image_service_pb2_grpc
from tests.client.scripted_status import fails, status

_Request = TypeVar("_Request", bound=Message)


class ImageStore:
    """Files by their hash, the least recently used dropped first; servers may share one.

    Attributes:
        kept: Whether the server takes uploads.
        max_bytes: What all files together may take.
        refused: Hashes of files that are not taken.
    """

    def __init__(self, max_bytes: int = 2**40) -> None:
        self.kept = True
        self.max_bytes = max_bytes
        self.refused: set[bytes] = set()
        self._lock = threading.Lock()
        self._files: OrderedDict[bytes, bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._files)

    def put(self, data: bytes) -> bytes:
        sha256 = hashlib.sha256(data).digest()
        with self._lock:
            self._files[sha256] = data
            self._files.move_to_end(sha256)
            while sum(map(len, self._files.values())) > self.max_bytes:
                self._files.popitem(last=False)
        return sha256

    def get(self, sha256: bytes) -> bytes | None:
        with self._lock:
            if sha256 in self._files:
                self._files.move_to_end(sha256)
            return self._files.get(sha256)

    def evict(self, *files: bytes) -> None:
        """Lose some files, or all."""
        with self._lock:
            for data in files:
                self._files.pop(hashlib.sha256(data).digest(), None)
            if not files:
                self._files.clear()


class ScriptedImages(image_service_pb2_grpc.ImageServiceServicer):
    """ImageService over `images`; `_arrived` is the server's."""

    images: ImageStore

    def FindMissingImages(self, request, context):  # noqa: N802
        self._arrived(request, context)
        if not self.images.kept:
            return fails("IMAGES_NOT_KEPT", "no images here")(context)
        missing = [digest for digest in request.digests if not self.images.get(digest.sha256)]
        return image_service_pb2.FindMissingImagesResponse(missing=missing)

    def UploadImages(self, request, context):  # noqa: N802
        self._arrived(request, context)
        if not self.images.kept:
            return fails("IMAGES_NOT_KEPT", "no images here")(context)
        response = image_service_pb2.UploadImagesResponse()
        for upload in request.images:
            result = response.results.add()
            if hashlib.sha256(upload.data).digest() in self.images.refused:
                result.error.CopyFrom(status("IMAGE_TOO_LARGE", "over what is kept"))
                continue
            result.digest.sha256 = self.images.put(upload.data)
            result.digest.size_bytes = len(upload.data)
        return response


def with_files(
    request: _Request, images: ImageStore | None, context: grpc.ServicerContext
) -> _Request:
    """The request with all of its pictures inline; an old server knows no digests."""
    made = type(request).FromString(request.SerializeToString())
    missing: list[tuple[str, common_pb2.Digest]] = []
    for field, image in _images(made, ""):
        if image.WhichOneof("source") == "inline":
            continue
        data = None if images is None else images.get(image.digest.sha256)
        if images is None or image.WhichOneof("source") is None:
            fails("INVALID_PARAMETER", f"{field} is empty", field=field)(context)
        elif data is None:
            missing.append((field, common_pb2.Digest.FromString(image.digest.SerializeToString())))
        else:
            image.inline = data
    if missing:
        context.abort_with_status(rpc_status.to_status(missing_status(missing)))
    return made


def missing_status(missing: list[tuple[str, common_pb2.Digest]]):
    """The status of a call that has to look at pictures that are not there."""
    made = status("IMAGE_MISSING", f"{missing[0][0]}: the picture is not here")
    unmet = error_details_pb2.PreconditionFailure()
    for field, digest in missing[:16]:
        subject = f"images/{digest.sha256.hex()}/{digest.size_bytes}"
        unmet.violations.add(type="MISSING", subject=subject, description=field)
    made.details.add().Pack(unmet)
    return made


def _images(message: Message, path: str):
    """All pictures of a request, with their paths."""
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            continue
        name = f"{path}.{descriptor.name}" if path else descriptor.name
        several = not isinstance(value, Message)
        for index, item in enumerate(value if several else [value]):
            where = f"{name}[{index}]" if several else name
            if isinstance(item, common_pb2.Image):
                yield where, item
            else:
                yield from _images(item, where)
