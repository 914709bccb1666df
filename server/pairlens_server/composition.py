"""The parts of a server, made from its settings and put together."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pairlens_server import torch_threads
from pairlens_server.cache.memory import MemoryTier
from pairlens_server.cache.redis_tier import RedisTier
from pairlens_server.cache.tiers import Cache
from pairlens_server.config import ServerSettings
from pairlens_server.engine.engine import Engine
from pairlens_server.models.registry import ModelRegistry
from pairlens_server.rpc.admin_servicer import AdminServicer
from pairlens_server.rpc.auth import Authorizer
from pairlens_server.rpc.image_servicer import ImageServicer
from pairlens_server.rpc.model_info import limits_message
from pairlens_server.rpc.server import RpcServer, Servicers
from pairlens_server.rpc.servicers import ExplanationServicer, ModelServicer
from pairlens_server.service.explanations import ExplanationUseCases
from pairlens_server.service.model_reload import ModelReload
from pairlens_server.signals import Orders
from pairlens_server.telemetry.state import ServerState
from pairlens_server.telemetry.telemetry import Telemetry


@dataclass(frozen=True)
class Parts:
    """What a server is made of; nothing of it has been started.

    Attributes:
        state: Where it is in its life.
        telemetry: Metrics, logs and traces.
        server: The gRPC server.
        engine: Runs the models.
        cache: Both tiers.
        pool: Decodes, draws and encodes pictures.
        registry: The served models.
        models: Loads them, and loads them again.
        servicers: Answer the calls.
    """

    state: ServerState
    telemetry: Telemetry
    server: RpcServer
    engine: Engine
    cache: Cache
    pool: ThreadPoolExecutor
    registry: ModelRegistry
    models: ModelReload
    servicers: Servicers


def compose(settings: ServerSettings, orders: Orders) -> Parts:
    """Make the parts, on the event loop that they will run on.

    Raises:
        ConfigurationError: A file that a setting names cannot be used, or a package is missing.
    """
    telemetry = Telemetry(
        buckets_s=settings.buckets_s, log_calls=settings.log_calls, tracing=settings.tracing
    )
    server = RpcServer(
        settings.max_request_bytes,
        max_bytes_under_way=settings.max_bytes_under_way,
        max_concurrent_streams=settings.max_concurrent_streams,
        max_connections=settings.max_connections,
        reflects=settings.reflection,
        authorizer=Authorizer.from_file(settings.tokens_file),
        call_ended=telemetry.call_ended,
    )
    engine = Engine(settings.engine, observe=telemetry.batch_ended)
    registry = ModelRegistry()
    models = ModelReload(
        settings.models,
        registry,
        engine,
        patience_s=settings.drain_s,
        served=server.show_models,
        changed=lambda change: telemetry.model_changed(change.kind.value),
    )
    cache = _cache(settings, telemetry)
    pool = torch_threads.pool(settings.image_threads, "images")
    use_cases = ExplanationUseCases(registry, engine, cache, pool, settings.limits)

    def drain() -> int:
        orders.drain()
        return server.gate.under_way - 1

    servicers = Servicers(
        explanations=ExplanationServicer(use_cases),
        models=_model_servicer(settings, registry, engine, cache),
        images=ImageServicer(use_cases),
        admin=AdminServicer(use_cases, reload=models.reload, drain=drain),
    )
    state = ServerState(settings.stall_s)
    return Parts(state, telemetry, server, engine, cache, pool, registry, models, servicers)


def _cache(settings: ServerSettings, telemetry: Telemetry) -> Cache:
    redis = settings.redis_settings()
    return Cache(
        MemoryTier(settings.cache_bytes),
        MemoryTier(settings.image_cache_bytes),
        None if redis is None else RedisTier(redis, observe=telemetry.redis_ended),
        settings.cache_precision,
    )


def _model_servicer(
    settings: ServerSettings, registry: ModelRegistry, engine: Engine, cache: Cache
) -> ModelServicer:
    published = limits_message(
        settings.limits,
        settings.max_request_bytes,
        max_queued_cost=settings.max_queued,
        keeps_images=cache.keeps_images,
        max_concurrent_streams=settings.max_concurrent_streams,
        max_bytes_under_way=settings.max_bytes_under_way,
    )
    return ModelServicer(registry, engine.facts, published)
