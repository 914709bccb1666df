"""Composition root of `pairlens-server`: build the parts, start them, drain them."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from pairlens_server.allocator import give_back_freed_memory, keep_freed_memory
from pairlens_server.cache.memory import MemoryTier
from pairlens_server.cache.redis_tier import RedisTier
from pairlens_server.cache.tiers import Cache
from pairlens_server.command_line import dump, parse_command_line
from pairlens_server.config import ServerSettings
from pairlens_server.engine.engine import Engine
from pairlens_server.errors import ConfigurationError, PairlensError
from pairlens_server.logs import set_up_logging
from pairlens_server.models.config import ModelConfig, load_model_configs
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.models.random_twins import load_models
from pairlens_server.models.registry import ModelRegistry
from pairlens_server.rpc.admin_servicer import AdminServicer
from pairlens_server.rpc.image_servicer import ImageServicer
from pairlens_server.rpc.model_info import limits_message
from pairlens_server.rpc.server import RpcServer, Servicers
from pairlens_server.rpc.servicers import ExplanationServicer, ModelServicer
from pairlens_server.service.explanations import ExplanationUseCases

_log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SAMPLED_S = 1.0
_REST_S = 10.0  # without a call, after which freed memory goes back to the system
_LAST_WORDS_S = 1.0
_EXIT_ENGINE_DIED = 1
_EXIT_CONFIGURATION = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `pairlens-server`.

    Returns:
        0 after a stop by signal, 1 when the engine died, 2 when the server cannot start as
        configured.
    """
    try:
        command = parse_command_line(argv)
        settings = command.settings
        if command.print_config:
            sys.stdout.write(dump(settings))
            return 0
        set_up_logging(settings.log_level, as_json=settings.log_format == "json")
        if settings.keep_memory:
            keep_freed_memory()
        return asyncio.run(_serve(settings))
    except ConfigurationError as error:
        sys.stderr.write(f"pairlens-server: {error}\n")
        return _EXIT_CONFIGURATION


async def _serve(settings: ServerSettings) -> int:
    configs = load_model_configs(settings.models)
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        # While loading there is no call to finish, and a thread that loads cannot be stopped.
        loop.add_signal_handler(number, os._exit, 0)
    server = RpcServer(settings.max_request_bytes)
    # Before the models load, so that a taken port is told at once.
    address = server.bind(settings.listen)
    engine = Engine(settings.engine)
    cache = _cache(settings)
    pool = ThreadPoolExecutor(settings.image_threads, thread_name_prefix="images")
    try:
        registry = ModelRegistry(await engine.start(_loader(configs, settings.torch_threads)))
        await cache.start()
        await server.start(_servicers(settings, registry, engine, cache, pool))
        sys.stdout.write(f"listening on {address}\n")
        sys.stdout.flush()
        await _warm_up(engine)
        stop = asyncio.Event()
        for number in _SIGNALS:
            loop.add_signal_handler(number, stop.set)
        await server.open()
        names = ", ".join(registry.names())
        _log.info("pairlens-server ready on %s (models: %s)", address, names)
        resting = (
            asyncio.create_task(_give_back_when_idle(server)) if settings.keep_memory else None
        )
        code = await _until_stopped(stop, engine)
        if resting is not None:
            resting.cancel()
        _log.info("stopping")
        # The calls of a dead engine have failed, and need no longer than to say so.
        await server.drain(_LAST_WORDS_S if code else settings.drain_s)
        return code
    finally:
        await engine.stop()
        await cache.stop()
        pool.shutdown()


def _loader(
    configs: Sequence[ModelConfig], threads: int | None
) -> Callable[[], Sequence[LoadedModel]]:
    def load() -> Sequence[LoadedModel]:
        # On the device thread, since OpenMP keeps the number by thread.
        if threads is not None:
            torch.set_num_threads(threads)
        return load_models(configs)

    return load


async def _warm_up(engine: Engine) -> None:
    try:
        await engine.warm_up()
    # A model that does not fit on the device with its methods: nothing of a caller's.
    except PairlensError as error:
        raise ConfigurationError(f"a model cannot run: {error.message}") from error


def _cache(settings: ServerSettings) -> Cache:
    redis = settings.redis_settings()
    return Cache(
        MemoryTier(settings.cache_bytes),
        MemoryTier(settings.image_cache_bytes),
        None if redis is None else RedisTier(redis),
        settings.cache_precision,
    )


def _servicers(
    settings: ServerSettings,
    registry: ModelRegistry,
    engine: Engine,
    cache: Cache,
    pool: ThreadPoolExecutor,
) -> Servicers:
    limits = settings.limits
    use_cases = ExplanationUseCases(registry, engine, cache, pool, limits)
    published = limits_message(
        limits,
        settings.max_request_bytes,
        max_queued_cost=settings.max_queued,
        keeps_images=cache.keeps_images,
    )
    return Servicers(
        explanations=ExplanationServicer(use_cases),
        models=ModelServicer(registry, engine.facts, published),
        images=ImageServicer(use_cases),
        admin=AdminServicer(use_cases),
    )


async def _give_back_when_idle(server: RpcServer) -> None:
    """Return freed memory to the system once in every rest between calls."""
    idle_s, given_back, known = 0.0, False, -1
    while True:
        await asyncio.sleep(_SAMPLED_S)
        # Their number too: short calls are hardly ever under way at the moment of a sample.
        known, before = server.calls_admitted, known
        resting = known == before and not server.calls_under_way
        idle_s = idle_s + _SAMPLED_S if resting else 0.0
        if idle_s < _REST_S:
            given_back = False
        elif not given_back:
            await asyncio.to_thread(give_back_freed_memory)
            given_back = True


async def _until_stopped(stop: asyncio.Event, engine: Engine) -> int:
    """Wait for the stop signal (0), or for the engine to die (1)."""
    waits = [asyncio.ensure_future(event.wait()) for event in (stop, engine.broken)]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    if not engine.broken.is_set():
        return 0
    _log.critical("the engine died; the process ends, to be started anew")
    return _EXIT_ENGINE_DIED
