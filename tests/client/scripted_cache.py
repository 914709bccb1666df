"""What the scripted server answers to Warm and to AdminService."""

from __future__ import annotations

import hashlib
import io
import threading

from PIL import Image

from pairlens.v1 import admin_service_pb2, admin_service_pb2_grpc, explanation_service_pb2
from tests.client.scripted_answers import timing
from tests.client.scripted_images import with_files
from tests.client.scripted_status import fails, status

ACTIVATION, IMAGE = admin_service_pb2.CACHE_KIND_ACTIVATION, admin_service_pb2.CACHE_KIND_IMAGE


class ScriptedCache(admin_service_pb2_grpc.AdminServiceServicer):
    """Warm and AdminService.

    Attributes:
        warm: What is cached: pictures' hashes with what was asked of them.
        warmed: Hashes of the pictures of all calls of Warm that were answered, in order.
        redis_cleared: Whether Redis answers ClearCache.
        redis: What GetCacheStats answers of it.
        changes: What ReloadModels answers.
        under_way: What Drain answers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.warm: set[tuple[str, bytes]] = set()
        self.warmed: list[str] = []
        self.redis_cleared = True
        self.redis = admin_service_pb2.RedisStats(
            state=admin_service_pb2.REDIS_STATE_UP,
            kinds=[admin_service_pb2.CacheKindStats(kind=ACTIVATION, hits=3, misses=1, corrupt=1)],
            errors=2,
            timeouts=1,
            queued_bytes=100,
            max_queued_bytes=64 * 2**20,
            used_bytes=5 * 2**20,
        )
        self.changes = [
            admin_service_pb2.ModelChange(
                model="vit",
                change=admin_service_pb2.MODEL_CHANGE_KIND_REPLACED,
                fingerprint="f00d",
            ),
            admin_service_pb2.ModelChange(
                model="cnn", change=admin_service_pb2.MODEL_CHANGE_KIND_REMOVED
            ),
        ]
        self.under_way = 3
        self._warming = threading.Lock()

    def Warm(self, request, context):  # noqa: N802
        self._arrived(request, context)
        if request.model not in [model.name for model in self.models]:
            return fails("MODEL_NOT_FOUND", f"no model '{request.model}'")(context)
        request = with_files(request, self.images, context)
        response = explanation_service_pb2.WarmResponse(timing=timing())
        asked = explanation_service_pb2.WarmRequest(
            model=request.model, methods=request.methods, pair_methods=request.pair_methods
        ).SerializeToString(deterministic=True)
        with self._warming:
            for index, image in enumerate(request.images):
                result = response.results.add()
                sha256 = hashlib.sha256(image.inline).hexdigest()
                self.warmed.append(sha256)
                try:
                    Image.open(io.BytesIO(image.inline)).load()
                except OSError:
                    field = f"images[{index}]"
                    result.error.CopyFrom(status("IMAGE_UNDECODABLE", "not a picture", field=field))
                    continue
                result.warmed.cached = (sha256, asked) in self.warm
                self.warm.add((sha256, asked))
        return response

    def GetCacheStats(self, request, context):  # noqa: N802
        self._arrived(request, context)
        return admin_service_pb2.GetCacheStatsResponse(
            memory=[
                admin_service_pb2.CacheKindStats(
                    kind=ACTIVATION,
                    hits=30,
                    misses=10,
                    stored=10,
                    evicted=2,
                    entries=8,
                    bytes=3 * 2**20,
                    max_bytes=2**30,
                ),
                admin_service_pb2.CacheKindStats(kind=IMAGE, max_bytes=2**28),
            ],
            redis=self.redis,
        )

    def ClearCache(self, request, context):  # noqa: N802
        self._arrived(request, context)
        if request.model and request.model not in [model.name for model in self.models]:
            return fails("MODEL_NOT_FOUND", f"no model '{request.model}'")(context)
        return admin_service_pb2.ClearCacheResponse(
            memory_entries=8, redis_entries=20, redis_cleared=self.redis_cleared
        )

    def ReloadModels(self, request, context):  # noqa: N802
        self._arrived(request, context)
        return admin_service_pb2.ReloadModelsResponse(changes=self.changes)

    def Drain(self, request, context):  # noqa: N802
        self._arrived(request, context)
        return admin_service_pb2.DrainResponse(calls_under_way=self.under_way)
