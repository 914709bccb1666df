"""AdminService: for those who run a server, apart from what its callers may."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from pairlens.v1 import admin_service_pb2, admin_service_pb2_grpc
from pairlens_server.rpc.caller import Context
from pairlens_server.rpc.convert_admin import reload_response
from pairlens_server.rpc.convert_cache import cleared_response, read_kinds, stats_response
from pairlens_server.service.explanations import ExplanationUseCases
from pairlens_server.service.model_changes import ModelChange


class AdminServicer(admin_service_pb2_grpc.AdminServiceServicer):
    """AdminService of the contract.

    Args:
        use_cases: Know the cache.
        reload: Reads the models file again.
        drain: Begins to stop the server; returns how many other calls are under way.
    """

    def __init__(
        self,
        use_cases: ExplanationUseCases,
        *,
        reload: Callable[[], Awaitable[Sequence[ModelChange]]],
        drain: Callable[[], int],
    ):
        self._use_cases = use_cases
        self._reload = reload
        self._drain = drain

    async def GetCacheStats(  # noqa: N802
        self, request: admin_service_pb2.GetCacheStatsRequest, context: Context
    ) -> admin_service_pb2.GetCacheStatsResponse:
        """See the contract."""
        return stats_response(await self._use_cases.cache_stats())

    async def ClearCache(  # noqa: N802
        self, request: admin_service_pb2.ClearCacheRequest, context: Context
    ) -> admin_service_pb2.ClearCacheResponse:
        """See the contract."""
        kinds = read_kinds(request)
        return cleared_response(await self._use_cases.clear_cache(request.model, kinds))

    async def ReloadModels(  # noqa: N802
        self, request: admin_service_pb2.ReloadModelsRequest, context: Context
    ) -> admin_service_pb2.ReloadModelsResponse:
        """See the contract."""
        return reload_response(await self._reload())

    async def Drain(  # noqa: N802
        self, request: admin_service_pb2.DrainRequest, context: Context
    ) -> admin_service_pb2.DrainResponse:
        """See the contract."""
        return admin_service_pb2.DrainResponse(calls_under_way=self._drain())
