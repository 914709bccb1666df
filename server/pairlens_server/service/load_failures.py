"""Why a model could not be loaded: what an administrator is told, and whose fault it was."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from pairlens_server.engine.worker import is_broken_device, is_out_of_memory
from pairlens_server.errors import (
    ConfigurationError,
    ConfigurationInvalidError,
    NotReadyError,
    OutOfMemoryError,
    PairlensError,
)

_log = logging.getLogger(__name__)


def load_failure(name: str, error: Exception) -> PairlensError:
    """The error that says why a model cannot be served; what nobody foresaw is logged.

    Args:
        name: Of the model.
        error: What loading it, or its first passes, raised.
    """
    if any(map(_did_not_fit, _with_causes(error))):
        return OutOfMemoryError(f"model {name!r} does not fit into memory beside what is served")
    if isinstance(error, ConfigurationError):
        return ConfigurationInvalidError(str(error))
    if isinstance(error, PairlensError):
        return type(error)(f"model {name!r} cannot run: {error.message}")
    _log.error("model %r cannot be loaded", name, exc_info=error)
    return ConfigurationInvalidError(f"model {name!r} cannot be loaded; the server's log says why")


def is_of_the_device(error: Exception) -> bool:
    """Whether the device or its memory is at fault, so that the same may go well another time.

    Args:
        error: What loading a model, or its first passes, raised.
    """
    return any(
        _did_not_fit(cause) or is_broken_device(cause) or isinstance(cause, NotReadyError)
        for cause in _with_causes(error)
    )


def _did_not_fit(error: BaseException) -> bool:
    return is_out_of_memory(error) or isinstance(error, OutOfMemoryError)


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    # A network that does not run as configured is one error, whatever it was that went wrong.
    while error is not None:
        yield error
        error = error.__cause__  # type: ignore[assignment]
