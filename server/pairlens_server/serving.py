"""The life of a server: it answers, loads its models, serves, drains, and ends."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

import torch

from pairlens_server import torch_threads
from pairlens_server.composition import Parts, compose
from pairlens_server.config import ServerSettings
from pairlens_server.garbage import set_aside
from pairlens_server.idle import give_back_when_idle
from pairlens_server.models.config import ModelConfig, load_model_configs
from pairlens_server.models.loading import is_on_cpu
from pairlens_server.rpc.credentials import ServerTls
from pairlens_server.rpc.exposure import exposures
from pairlens_server.signals import Orders
from pairlens_server.telemetry.state import Phase

_log = logging.getLogger(__name__)

_LAST_WORDS_S = 1.0
# For the batch at hand, which nobody waits for and nothing can stop.
_LAST_STEP_S = 5.0
_EXIT_FAILED = 1
# The device's thread gives the interpreter away at each of hundreds of steps of a pass, and waits
# so long at most to get it back from the event loop: a hundredth of Python's own 5 ms.
_SWITCH_S = 0.00005


async def serve(settings: ServerSettings) -> NoReturn:
    """Serve until told to stop, and end the process.

    Its exit code is 0 after a stop that was asked for, and 1 when the engine died.

    Raises:
        ConfigurationError: The server cannot start as configured.
    """
    orders = Orders()
    # Before the models file is read: a SIGHUP that comes after may mean what it says then.
    orders.listen()
    configs = load_model_configs(settings.models)
    parts = compose(settings, orders)
    try:
        await _start(parts, settings, configs)
    except BaseException:
        await parts.server.close()
        await _end(parts)
        parts.pool.shutdown()
        raise
    orders.ready(parts.models.begin)
    resting = asyncio.create_task(_rest(parts, settings))
    await first_of(orders.stop, parts.engine.broken)
    resting.cancel()
    stopping = asyncio.create_task(_stop(parts, settings, orders))
    await first_of(orders.at_once, stopping)
    if not stopping.done():
        _log.warning("told twice to stop: cutting off %d calls", parts.server.gate.under_way)
    else:
        stopping.result()
    exit_now(_code(parts))


async def _start(parts: Parts, settings: ServerSettings, configs: Sequence[ModelConfig]) -> None:
    """Listen, answer that the server loads, load, and serve."""
    sys.setswitchinterval(_SWITCH_S)
    prepare_device = _share_threads(settings.torch_threads, configs)
    server, telemetry = parts.server, parts.telemetry
    metrics = ""
    if settings.metrics_listen is not None:
        metrics = telemetry.listen(settings.metrics_listen, parts.state)
    credentials = None
    if settings.tls_cert_file is not None and settings.tls_key_file is not None:
        tls = ServerTls(settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file)
        credentials = tls.credentials()
        telemetry.watch_certificate(tls.not_after)
    # Before the models load, so that a taken port is told at once.
    address = server.bind(settings.listen, credentials)
    for exposure in exposures(settings):
        _log.warning("%s", exposure)
    telemetry.watch(
        engine=parts.engine,
        cache=parts.cache,
        registry=parts.registry,
        gate=server.gate,
        state=parts.state,
    )
    await parts.cache.start()
    await server.start(parts.servicers)
    sys.stdout.write(f"listening on {address}\n")
    if metrics:
        sys.stdout.write(f"metrics on {metrics}\n")
    sys.stdout.flush()
    await parts.models.start(configs, prepare_device)
    set_aside()
    server.open()
    parts.state.phase = Phase.SERVING
    names = ", ".join(parts.registry.names())
    _log.info("pairlens-server ready on %s (models: %s)", address, names)


def _share_threads(threads: int | None, configs: Sequence[ModelConfig]) -> Callable[[], None]:
    """Say which threads compute alone.

    Args:
        threads: What a model on the CPU computes with; None for as many as torch takes.
        configs: Of the models.

    Returns:
        What is to be called on the device thread, before all else.
    """
    loop = asyncio.get_running_loop()
    if not any(is_on_cpu(config.device) for config in configs):
        # Then no model has a team that others could disturb.
        return partial(torch.set_num_threads, threads) if threads else lambda: None
    usual = torch_threads.compute_alone()
    loop.set_default_executor(torch_threads.pool(None, "asyncio"))
    return partial(torch_threads.compute_together, threads or usual, loop)


async def _rest(parts: Parts, settings: ServerSettings) -> None:
    if settings.keep_memory:
        await give_back_when_idle(parts.server.gate)


async def first_of(*waits: asyncio.Event | asyncio.Task[None]) -> None:
    """Wait until an event is set or a task is done; tasks are left alone."""
    tasks = [wait if isinstance(wait, asyncio.Task) else _waiting(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in set(tasks).difference(waits):
            task.cancel()


def _waiting(event: asyncio.Event) -> asyncio.Task[Any]:
    return asyncio.create_task(event.wait())


async def _stop(parts: Parts, settings: ServerSettings, orders: Orders) -> None:
    """Say that the server stops, serve on until that is known, let all calls end, and end."""
    server, broken = parts.server, parts.engine.broken
    drain_s = settings.drain_s
    if broken.is_set():
        _log.critical("the engine died; the process ends, to be started anew")
        # Calls that it has failed need no longer than to say so.
        parts.state.phase, drain_s = Phase.DEAD, _LAST_WORDS_S
    else:
        _log.info("stopping: %d calls under way", server.gate.under_way)
        parts.state.phase = Phase.DRAINING
    server.leave()
    await parts.models.stop()
    delay = asyncio.create_task(asyncio.sleep(settings.drain_delay_s))
    await first_of(delay, orders.hurry, broken)
    await server.drain(drain_s)
    with _given_up_after(_LAST_STEP_S, _code(parts)):
        await _end(parts)


def _code(parts: Parts) -> int:
    return _EXIT_FAILED if parts.engine.broken.is_set() else 0


async def _end(parts: Parts) -> None:
    """End all but the gRPC server, which refuses calls for as long as the process lives.

    Nor the threads for pictures: calls that are cut off may still be on their way to them, and
    would be told of a bug.
    """
    await parts.engine.stop()
    await parts.cache.stop()
    await parts.telemetry.stop()


@contextmanager
def _given_up_after(seconds: float, code: int) -> Iterator[None]:
    """End the process if a block takes longer than it may."""

    def give_up() -> None:
        _log.warning("what still runs on the device is given up")
        exit_now(code)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def exit_now(code: int) -> NoReturn:
    """End the process, threads that nothing can stop and open connections included.

    A call that meets the end is told UNAVAILABLE, which may be tried elsewhere, while a gRPC server
    that is stopped tells it CANCELLED.
    """
    sys.stdout.flush()
    logging.shutdown()
    os._exit(code)
