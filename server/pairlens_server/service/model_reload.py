"""Models that come, change and go while calls are served."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pairlens_server.engine.engine import Engine
from pairlens_server.engine.warm_up import warm_up
from pairlens_server.errors import (
    ConfigurationError,
    ConfigurationInvalidError,
    DeviceError,
    DrainingError,
    PairlensError,
)
from pairlens_server.models.config import ModelConfig, load_model_configs
from pairlens_server.models.file_stamps import FileStamps, stamps_of
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.models.registry import ModelRegistry
from pairlens_server.service.background import BackgroundTasks
from pairlens_server.service.load_failures import is_of_the_device, load_failure
from pairlens_server.service.model_changes import (
    ChangeKind,
    ModelChange,
    ServedModel,
    changes,
)
from pairlens_server.service.served_entry import ServedEntry, load_entry, names_of

_log = logging.getLogger(__name__)


class ModelReload:
    """Loads the models of a file, and loads them anew as the file changes.

    Used by the event loop alone.

    Args:
        path: The models file.
        registry: Where calls find models.
        engine: Loads and runs them.
        patience_s: After which calls that keep a model from being unloaded are logged.
        served: Called with the names of all models whenever those change.
        changed: Called with each change of a reload, unchanged models left out; with one that
            failed and has no name where the file as a whole is wrong.
    """

    def __init__(
        self,
        path: Path,
        registry: ModelRegistry,
        engine: Engine,
        *,
        patience_s: float = 20.0,
        served: Callable[[Sequence[str]], None] = lambda names: None,
        changed: Callable[[ModelChange], None] = lambda change: None,
    ):
        self._path = path
        self._registry = registry
        self._engine = engine
        self._patience_s = patience_s
        self._served = served
        self._changed = changed
        self._entries: dict[str, ServedEntry] = {}
        self._loads = 0
        self._turn = asyncio.Lock()
        self._next: asyncio.Task[tuple[ModelChange, ...]] | None = None
        self._tasks = BackgroundTasks()
        self._stopped = False

    async def start(
        self, configs: Sequence[ModelConfig], prepare: Callable[[], None] = lambda: None
    ) -> None:
        """Load the first models, all or none, and begin to serve them.

        Args:
            configs: What the file says.
            prepare: Called first, on the device thread.

        Raises:
            ConfigurationError: A model cannot be loaded, or cannot run; names it.
            DeviceError: The same, for want of memory, or of a device that works.
        """
        files = {config.name: stamps_of(config) for config in configs}

        def load() -> list[LoadedModel]:
            prepare()
            return [model for config in configs for model in load_entry(config)]

        try:
            models = await self._engine.start(load)
            for model in models:
                await self._warm_up_first(model)
        except Exception as error:
            if is_of_the_device(error):
                raise DeviceError(str(error)) from error
            raise
        entries = {}
        for config in configs:
            own = tuple(model for model in models if model.name in names_of(config))
            entries[config.name] = self._entry(config, files[config.name], own)
        self._serve_only(entries, configs)

    async def _warm_up_first(self, model: LoadedModel) -> None:
        try:
            await warm_up(self._engine, [model])
        except PairlensError as error:
            message = f"model {model.name!r} cannot run: {error.message}"
            raise ConfigurationError(message) from error

    async def reload(self) -> tuple[ModelChange, ...]:
        """Read the file again and serve what it says now.

        Goes on when its caller gives up. Reloads wait for each other; who asks while one waits
        shares it, since it has not read the file yet.

        Returns:
            What became of each model, in the order of the file, then of those not in it.

        Raises:
            ConfigurationInvalidError: The file as a whole is wrong; nothing changed.
            DrainingError: The server is stopping.
        """
        task = self.begin()
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise DrainingError("the server is stopping") from None
            raise

    def begin(self) -> asyncio.Task[tuple[ModelChange, ...]]:
        """The same, for who does not wait; failures are logged."""
        if self._next is None:
            self._next = asyncio.create_task(self._in_turn(), name="reload")
            self._tasks.keep(self._next)
        return self._next

    async def stop(self) -> None:
        """Begin no reload any more, and give up what is under way."""
        self._stopped = True
        await self._tasks.cancel()

    async def _in_turn(self) -> tuple[ModelChange, ...]:
        async with self._turn:
            # Whoever asks from now on may have changed the file after it is read here.
            self._next = None
            if self._stopped:
                raise DrainingError("the server is stopping")
            try:
                configs = await asyncio.to_thread(load_model_configs, self._path)
            except ConfigurationError as error:
                wrong = ConfigurationInvalidError(str(error))
                _log.error("models are left as they were: %s", error)
                self._changed(ModelChange("", ChangeKind.FAILED, error=wrong))
                raise wrong from error
            return await self._serve(configs)

    async def _serve(self, configs: Sequence[ModelConfig]) -> tuple[ModelChange, ...]:
        before = self._named()
        failed: dict[str, PairlensError] = {}
        # A name that was a twin's is free when that is replaced, and a twin's is the longer one.
        for config in sorted(configs, key=lambda config: len(config.name)):
            error = await self._renew(config, configs)
            if error is not None:
                failed |= dict.fromkeys(names_of(config), error)
        failed |= self._remove_all_but(configs)
        self._serve_only(self._entries, configs)
        names = [*(name for config in configs for name in names_of(config)), *before]
        found = tuple(changes(dict.fromkeys(names), before, self._named(), failed))
        for change in found:
            self._tell(change)
        return found

    async def _renew(
        self, config: ModelConfig, configs: Sequence[ModelConfig]
    ) -> PairlensError | None:
        """Serve an entry as the file has it; returns why that cannot be done."""
        served = self._entries.get(config.name)
        files = await asyncio.to_thread(stamps_of, config)
        if served is not None and (served.config, served.files) == (config, files):
            return None
        stays = {config.name for config in configs} - {config.name}
        for other in self._entries.values():
            taken = {model.name for model in other.models} & set(names_of(config))
            if other.config.name in stays and taken:
                return ConfigurationInvalidError(
                    f"{', '.join(taken)} is still served as the random twin of "
                    f"{other.config.name}, which could not be replaced"
                )
        loaded = await self._loaded(config, files)
        if isinstance(loaded, PairlensError):
            return loaded
        if served is not None and loaded.is_as(served):
            self._entries[config.name] = replace(served, files=files)
            self._retire(loaded.models)
            return None
        self._swap(loaded, configs)
        return None

    async def _loaded(self, config: ModelConfig, files: FileStamps) -> ServedEntry | PairlensError:
        """Load and warm up an entry. Returns failures: raised, they would keep a network alive."""
        failure: PairlensError | None = None
        models: tuple[LoadedModel, ...] = ()
        try:
            models = await self._engine.add(lambda: load_entry(config, files))
            await warm_up(self._engine, models)
        except Exception as error:
            failure = load_failure(config.name, error)
        if failure is None:
            return self._entry(config, files, models)
        unused = list(models)
        models = ()
        await self._engine.remove(unused)
        return failure

    def _swap(self, entry: ServedEntry, configs: Sequence[ModelConfig]) -> None:
        listed = {config.name for config in configs}
        taken = {model.name for model in entry.models}
        kept: dict[str, ServedEntry] = {}
        left: list[LoadedModel] = []
        for name, other in self._entries.items():
            is_gone = name not in listed and taken & {model.name for model in other.models}
            if name == entry.config.name or is_gone:
                left += other.models
            else:
                kept[name] = other
        self._serve_only({**kept, entry.config.name: entry}, configs)
        self._retire(left)

    def _remove_all_but(self, configs: Sequence[ModelConfig]) -> dict[str, PairlensError]:
        """Stop serving what is not in the file; returns what has to stay, and why."""
        listed = {config.name for config in configs}
        kept = {name: entry for name, entry in self._entries.items() if name in listed}
        gone = [entry for name, entry in self._entries.items() if name not in listed]
        left = [model for entry in gone for model in entry.models]
        if not kept:
            why = "it is not in the file any more, but nothing that is could be loaded"
            return {model.name: ConfigurationInvalidError(why) for model in left}
        self._serve_only(kept, configs)
        self._retire(left)
        return {}

    def _serve_only(
        self, entries: Mapping[str, ServedEntry], configs: Sequence[ModelConfig]
    ) -> None:
        """Serve some entries, in the order of the file, and what is not in it after that."""
        place = {config.name: number for number, config in enumerate(configs)}
        names = sorted(entries, key=lambda name: place.get(name, len(place)))
        if [entries[name] for name in names] == list(self._entries.values()):
            return
        self._entries = {name: entries[name] for name in names}
        models = [model for entry in self._entries.values() for model in entry.models]
        self._registry.serve(models)
        self._served([model.name for model in models])

    def _entry(
        self, config: ModelConfig, files: FileStamps, models: tuple[LoadedModel, ...]
    ) -> ServedEntry:
        self._loads += 1
        return ServedEntry(self._loads, config, files, models)

    def _named(self) -> dict[str, ServedModel]:
        return {
            model.name: ServedModel(entry.number, model.fingerprint)
            for entry in self._entries.values()
            for model in entry.models
        }

    def _retire(self, models: Iterable[LoadedModel]) -> None:
        left = list(models)
        if left:
            self._tasks.keep(asyncio.create_task(self._unload(left), name="unload"))

    async def _unload(self, models: list[LoadedModel]) -> None:
        """Unload models that are no longer served as soon as no call uses them."""
        names = ", ".join(model.name for model in models)
        try:
            await asyncio.wait_for(self._registry.unused(models), self._patience_s)
        except asyncio.TimeoutError:
            _log.warning(
                "%s: calls of before still run after %g s, and keep the former model loaded",
                names,
                self._patience_s,
            )
            await self._registry.unused(models)
        await self._engine.remove(models)
        _log.info("%s: the former model is unloaded", names)

    def _tell(self, change: ModelChange) -> None:
        if change.error is not None:
            _log.error("model %s is left as it was: %s", change.model, change.error.message)
        else:
            _log.info("model %s: %s", change.model, change.kind.value)
        if change.kind is not ChangeKind.UNCHANGED:
            self._changed(change)
