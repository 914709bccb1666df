"""The services of the contract: each call a conversion, a use case, and a conversion back.

The conversion back of a large answer runs in a thread: it may hold a hundred megabytes in many
arrays, and health checks and other calls go on between them. A small one is converted in less
time than a thread takes to answer (`rpc/offload.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pairlens.v1 import (
    explanation_service_pb2,
    explanation_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
)
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.models.registry import ModelRegistry
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.rpc.caller import Context, caller_of
from pairlens_server.rpc.convert_requests import explain_command, pair_command, required_model
from pairlens_server.rpc.convert_responses import explain_response, pair_response
from pairlens_server.rpc.convert_scores import (
    embed_command,
    embed_response,
    score_command,
    score_response,
)
from pairlens_server.rpc.convert_warm import warm_command, warm_response
from pairlens_server.rpc.model_info import model_info
from pairlens_server.rpc.offload import (
    embed_bytes,
    encoded,
    explain_bytes,
    inline_or_thread,
    pair_bytes,
    score_bytes,
    score_request_bytes,
    target_bytes,
)
from pairlens_server.service.explanations import ExplanationUseCases
from pairlens_server.telemetry.record import name_call


class ExplanationServicer(explanation_service_pb2_grpc.ExplanationServiceServicer):
    """ExplanationService of the contract."""

    def __init__(self, use_cases: ExplanationUseCases):
        self._use_cases = use_cases

    async def Explain(  # noqa: N802
        self, request: explanation_service_pb2.ExplainRequest, context: Context
    ) -> explanation_service_pb2.ExplainResponse:
        """See the contract."""
        caller, nbytes = caller_of(context), target_bytes(request.target)
        command = await inline_or_thread(nbytes, explain_command, request, caller)
        outcome = await self._use_cases.explain(command)
        return await encoded(explain_bytes(outcome), explain_response, outcome)

    async def PairSimilarity(  # noqa: N802
        self, request: explanation_service_pb2.PairSimilarityRequest, context: Context
    ) -> explanation_service_pb2.PairSimilarityResponse:
        """See the contract."""
        command = pair_command(request, caller_of(context))
        outcome = await self._use_cases.pair(command)
        return await encoded(pair_bytes(outcome), pair_response, outcome)

    async def ScoreSaliency(  # noqa: N802
        self, request: explanation_service_pb2.ScoreSaliencyRequest, context: Context
    ) -> explanation_service_pb2.ScoreSaliencyResponse:
        """See the contract."""
        caller, nbytes = caller_of(context), score_request_bytes(request)
        command = await inline_or_thread(nbytes, score_command, request, caller)
        outcome = await self._use_cases.score(command)
        return await encoded(score_bytes(outcome), score_response, outcome)

    async def Embed(  # noqa: N802
        self, request: explanation_service_pb2.EmbedRequest, context: Context
    ) -> explanation_service_pb2.EmbedResponse:
        """See the contract."""
        outcome = await self._use_cases.embed(embed_command(request, caller_of(context)))
        return await encoded(embed_bytes(outcome), embed_response, outcome)

    async def Warm(  # noqa: N802
        self, request: explanation_service_pb2.WarmRequest, context: Context
    ) -> explanation_service_pb2.WarmResponse:
        """See the contract."""
        outcome = await self._use_cases.warm(warm_command(request, caller_of(context)))
        return await encoded(0, warm_response, outcome)


class ModelServicer(model_service_pb2_grpc.ModelServiceServicer):
    """ModelService of the contract.

    Args:
        registry: The served models.
        facts: What a model can give; called from any thread.
        limits: What a request may hold.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        facts: Callable[[LoadedModel], ModelFacts],
        limits: model_service_pb2.Limits,
    ):
        self._registry = registry
        self._facts = facts
        self._limits = limits

    async def ListModels(  # noqa: N802
        self, request: model_service_pb2.ListModelsRequest, context: Context
    ) -> model_service_pb2.ListModelsResponse:
        """See the contract."""
        with self._registry.call():
            return await asyncio.to_thread(self._all)

    async def GetModel(  # noqa: N802
        self, request: model_service_pb2.GetModelRequest, context: Context
    ) -> model_service_pb2.GetModelResponse:
        """See the contract."""
        with self._registry.call():
            model = self._registry.get(required_model(request.model))
            name_call(model=model.name)
            return await asyncio.to_thread(self._one, model)

    def _all(self) -> model_service_pb2.ListModelsResponse:
        models = self._registry.all()
        return model_service_pb2.ListModelsResponse(models=[self._info(m) for m in models])

    def _one(self, model: LoadedModel) -> model_service_pb2.GetModelResponse:
        return model_service_pb2.GetModelResponse(model=self._info(model), limits=self._limits)

    def _info(self, model: LoadedModel) -> model_service_pb2.ModelInfo:
        return model_info(model, self._facts(model))
