"""What a server serves, remembered, and the model that a call means."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

from pairlens import _steps
from pairlens._known_images import Claims
from pairlens._steps import Deadline, Steps
from pairlens.errors import MethodUnsupportedError, ModelNotFoundError
from pairlens.models import Limits, Method, MethodKind, ModelDetails, ModelInfo

_Known = TypeVar("_Known")

_ALL = ""  # is no model's name


class Catalogue:
    """The served models, asked for once and again when a call finds them outdated.

    Thread-safe: of many calls that need to know, one asks and the others wait.

    Args:
        fetch: Asks the server for all models, within a deadline.
        fetch_details: Asks for one model, by its name.
    """

    def __init__(
        self,
        fetch: Callable[[Deadline], Steps[tuple[ModelInfo, ...]]],
        fetch_details: Callable[[str, Deadline], Steps[ModelDetails]],
    ) -> None:
        self._fetch = fetch
        self._fetch_details = fetch_details
        self._details: dict[str, ModelDetails] = {}
        self._lock = threading.Lock()
        self._asking = Claims()
        self._models: tuple[ModelInfo, ...] | None = None

    def models(self, deadline: Deadline, *, refresh: bool = False) -> Steps[tuple[ModelInfo, ...]]:
        """All served models, in the order of the server's configuration.

        Args:
            deadline: For asking the server.
            refresh: Ask even when the answer is known.
        """
        if refresh:
            return (yield from self._ask(deadline))
        return (
            yield from self._once(_ALL, lambda: self._models, lambda: self._ask(deadline), deadline)
        )

    def forget(self) -> None:
        """Ask the server at the next need."""
        with self._lock:
            self._models = None
            self._details = {}

    def details(
        self, model: str | None, deadline: Deadline, *, refresh: bool = False
    ) -> Steps[ModelDetails]:
        """A model and the server's limits; None for the first model.

        Args:
            model: Its name.
            deadline: For asking the server.
            refresh: Ask even when the answer is known.

        Raises:
            ModelNotFoundError: No such model, or no model at all.
        """
        if model is None:
            model = _some((yield from self.models(deadline)))[0].name
        name = model
        if refresh:
            return (yield from self._ask_about(name, deadline))
        return (
            yield from self._once(
                name,
                lambda: self._details.get(name),
                lambda: self._ask_about(name, deadline),
                deadline,
            )
        )

    def limits(self, model: str, deadline: Deadline) -> Steps[Limits]:
        """The server's limits, which are the same for all models.

        Args:
            model: Any served one, to ask about where nothing is known.
            deadline: For asking the server.

        Raises:
            ModelNotFoundError: No such model.
        """
        with self._lock:
            known = next(iter(self._details.values()), None)
        if known is None:
            known = yield from self.details(model, deadline)
        return known.limits

    def scorer(self, deadline: Deadline, *, similarity: bool) -> Steps[str]:
        """Name of the first model that can score a given map by such a target.

        Args:
            deadline: For asking the server.
            similarity: Whether the target is a similarity, which any model has.

        Raises:
            ModelNotFoundError: No model at all.
        """
        models = _some((yield from self.models(deadline)))
        # Without classes anywhere the server says best what is missing.
        able = (info for info in models if similarity or info.classes)
        return next(able, models[0]).name

    def default(
        self, model: str, kind: MethodKind, deadline: Deadline, *, similarity: bool
    ) -> Steps[Method]:
        """What a model runs when a call names no method, with its parameters.

        Raises:
            ModelNotFoundError: No such model.
            MethodUnsupportedError: It has no default.
        """
        chosen = yield from self._named(model, deadline)
        default = chosen.default_method(kind, similarity=similarity)
        if default is None:
            raise MethodUnsupportedError(_refusals((chosen,), None, kind), field="method")
        return default

    def choose(
        self,
        model: str | None,
        method: str | None,
        kind: MethodKind,
        parameters: Mapping[str, object],
        deadline: Deadline,
        *,
        similarity: bool = False,
    ) -> Steps[tuple[str, str | None]]:
        """Names of the model and the method to ask for.

        Args:
            model: As named by the caller, or None for the first that gives the method.
            method: As named by the caller, or None for the model's default.
            kind: Which call it is.
            parameters: Of the method; without them the server may choose the method.
            deadline: For asking the server, where that is needed at all.
            similarity: Whether the target is the similarity to other pictures, which has
                a default method of its own.

        Raises:
            ModelNotFoundError: No such model, or no model at all.
            MethodUnsupportedError: No model, or not this one, gives the method.
        """
        if model is not None and (method is not None or not parameters):
            return model, method
        if model is None:
            chosen = _first((yield from self.models(deadline)), method, kind, similarity)
        else:
            chosen = yield from self._named(model, deadline)
        if method is None and parameters:
            default = yield from self.default(chosen.name, kind, deadline, similarity=similarity)
            method = default.name
        return chosen.name, method

    def _once(
        self,
        what: str,
        known: Callable[[], _Known | None],
        ask: Callable[[], Steps[_Known]],
        deadline: Deadline,
    ) -> Steps[_Known]:
        """What is known; else what one call asks while others wait for it."""
        found = known()
        if found is None:
            with self._asking.taken({what}) as (mine, others):
                if mine:
                    return (yield from ask())
            for other in others:
                yield from _steps.wait(other, deadline)
            # Where that call failed, the others need not fail one after the other.
            found = known() or (yield from ask())
        return found

    def _ask(self, deadline: Deadline) -> Steps[tuple[ModelInfo, ...]]:
        # Not under the lock: a slow server must hold up no call that needs no list.
        models = yield from self._fetch(deadline)
        with self._lock:
            self._models = models
        return models

    def _ask_about(self, model: str, deadline: Deadline) -> Steps[ModelDetails]:
        details = yield from self._fetch_details(model, deadline)
        with self._lock:
            self._details[model] = details
        return details

    def _named(self, model: str, deadline: Deadline) -> Steps[ModelInfo]:
        for refresh in (False, True):
            models = yield from self.models(deadline, refresh=refresh)
            for info in models:
                if info.name == model:
                    return info
        served = ", ".join(info.name for info in models) or "none"
        raise ModelNotFoundError(f"no model {model!r} is served; served: {served}", field="model")


def _some(models: tuple[ModelInfo, ...]) -> tuple[ModelInfo, ...]:
    if not models:
        raise ModelNotFoundError("the server serves no models", field="model")
    return models


def _first(
    models: tuple[ModelInfo, ...], method: str | None, kind: MethodKind, similarity: bool
) -> ModelInfo:
    """The first model that gives a method, or has a default where none is named."""
    for info in _some(models):
        default = info.default_method(kind, similarity=similarity)
        if default is not None if method is None else info.supports(method, kind):
            return info
    raise MethodUnsupportedError(_refusals(models, method, kind), field="method")


def _refusals(models: tuple[ModelInfo, ...], method: str | None, kind: MethodKind) -> str:
    """Why none of these models gives a method; None for any of that kind."""
    reasons = [
        f"{info.name}: {offered.refusal}"
        for info in models
        for offered in info.methods
        if offered.kind is kind and method in (None, offered.name) and offered.refusal
    ]
    what = f"a method of kind {kind.value}" if method is None else repr(method)
    return "; ".join([f"no model gives {what}", *reasons])
