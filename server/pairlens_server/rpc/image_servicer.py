"""ImageService: pictures by content."""

from __future__ import annotations

from pairlens.v1 import image_service_pb2, image_service_pb2_grpc
from pairlens_server.rpc.caller import Context
from pairlens_server.rpc.convert_images import (
    find_missing_response,
    read_digests,
    read_uploads,
    upload_response,
)
from pairlens_server.service.explanations import ExplanationUseCases


class ImageServicer(image_service_pb2_grpc.ImageServiceServicer):
    """ImageService of the contract."""

    def __init__(self, use_cases: ExplanationUseCases):
        self._use_cases = use_cases

    async def FindMissingImages(  # noqa: N802
        self, request: image_service_pb2.FindMissingImagesRequest, context: Context
    ) -> image_service_pb2.FindMissingImagesResponse:
        """See the contract."""
        digests = read_digests(request.digests, "digests")
        return find_missing_response(await self._use_cases.find_missing(digests))

    async def UploadImages(  # noqa: N802
        self, request: image_service_pb2.UploadImagesRequest, context: Context
    ) -> image_service_pb2.UploadImagesResponse:
        """See the contract."""
        return upload_response(await self._use_cases.upload(read_uploads(request)))
