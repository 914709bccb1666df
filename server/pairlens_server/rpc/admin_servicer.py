"""AdminService: for those who run a server, apart from what its callers may."""

from __future__ import annotations

from pairlens.v1 import admin_service_pb2, admin_service_pb2_grpc
from pairlens_server.rpc.caller import Context
from pairlens_server.rpc.convert_cache import cleared_response, read_kinds, stats_response
from pairlens_server.service.explanations import ExplanationUseCases


class AdminServicer(admin_service_pb2_grpc.AdminServiceServicer):
    """AdminService of the contract."""

    def __init__(self, use_cases: ExplanationUseCases):
        self._use_cases = use_cases

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
