"""An entry of the models file, and the models that were loaded for it."""

from __future__ import annotations

from dataclasses import dataclass

from pairlens_server.errors import ConfigurationError
from pairlens_server.models.config import ModelConfig
from pairlens_server.models.file_stamps import FileStamps, stamps_of
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.models.random_twins import load_models


@dataclass(frozen=True, eq=False)
class ServedEntry:
    """What is served for an entry: a model, and its random twin if it has one.

    Attributes:
        number: No two loads of an entry have the same.
        config: The entry.
        files: As they were when the models were loaded.
        models: The model first.
    """

    number: int
    config: ModelConfig
    files: FileStamps
    models: tuple[LoadedModel, ...]

    def is_as(self, other: ServedEntry) -> bool:
        """Whether the models of both are the same in all that callers can tell."""
        return self.config == other.config and [
            (model.fingerprint, model.labels) for model in self.models
        ] == [(model.fingerprint, model.labels) for model in other.models]


def names_of(config: ModelConfig) -> tuple[str, ...]:
    """The names under which an entry is served."""
    return tuple(name for name in (config.name, config.twin_name) if name)


def load_entry(config: ModelConfig, files: FileStamps | None = None) -> tuple[LoadedModel, ...]:
    """Load the models of an entry.

    Args:
        config: The entry.
        files: As its files were a moment ago; None does not ask.

    Raises:
        ConfigurationError: As `load_model`; or the files changed meanwhile, so that what was read
            may be half of the one and half of the other.
    """
    models = load_models([config])
    if files is not None and stamps_of(config) != files:
        raise ConfigurationError(
            f"model {config.name!r}: its files changed while they were read; reload again"
        )
    return models
