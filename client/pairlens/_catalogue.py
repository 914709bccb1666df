"""What a server serves, remembered, and the model that a call means."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from pairlens._transport import Deadline
from pairlens.errors import MethodUnsupportedError, ModelNotFoundError
from pairlens.models import Limits, Method, MethodKind, ModelDetails, ModelInfo


class Catalogue:
    """The served models, asked for once and again when a call finds them outdated.

    Args:
        fetch: Asks the server for all models, within a deadline.
        fetch_details: Asks for one model, by its name.
    """

    def __init__(
        self,
        fetch: Callable[[Deadline], tuple[ModelInfo, ...]],
        fetch_details: Callable[[str, Deadline], ModelDetails],
    ) -> None:
        self._fetch = fetch
        self._fetch_details = fetch_details
        self._details: dict[str, ModelDetails] = {}
        self._lock = threading.Lock()
        self._models: tuple[ModelInfo, ...] | None = None

    def models(self, deadline: Deadline, *, refresh: bool = False) -> tuple[ModelInfo, ...]:
        """All served models, in the order of the server's configuration.

        Args:
            deadline: For asking the server.
            refresh: Ask even when the answer is known.
        """
        with self._lock:
            known = self._models
        if known is None or refresh:
            # Not under the lock: a slow server must hold up no call that needs no list.
            known = self._fetch(deadline)
            with self._lock:
                self._models = known
        return known

    def forget(self) -> None:
        """Ask the server at the next need."""
        with self._lock:
            self._models = None
            self._details = {}

    def details(
        self, model: str | None, deadline: Deadline, *, refresh: bool = False
    ) -> ModelDetails:
        """A model and the server's limits; None for the first model.

        Args:
            model: Its name.
            deadline: For asking the server.
            refresh: Ask even when the answer is known.

        Raises:
            ModelNotFoundError: No such model, or no model at all.
        """
        if model is None:
            model = _some(self.models(deadline))[0].name
        with self._lock:
            known = self._details.get(model)
        if known is None or refresh:
            known = self._fetch_details(model, deadline)
            with self._lock:
                self._details[model] = known
        return known

    def limits(self, model: str, deadline: Deadline) -> Limits:
        """The server's limits, which are the same for all models.

        Args:
            model: Any served one, to ask about where nothing is known.
            deadline: For asking the server.

        Raises:
            ModelNotFoundError: No such model.
        """
        with self._lock:
            known = next(iter(self._details.values()), None)
        return (known or self.details(model, deadline)).limits

    def scorer(self, deadline: Deadline, *, similarity: bool) -> str:
        """Name of the first model that can score a given map by such a target.

        Args:
            deadline: For asking the server.
            similarity: Whether the target is a similarity, which any model has.

        Raises:
            ModelNotFoundError: No model at all.
        """
        models = _some(self.models(deadline))
        # Without classes anywhere the server says best what is missing.
        able = (info for info in models if similarity or info.classes)
        return next(able, models[0]).name

    def default(
        self, model: str, kind: MethodKind, deadline: Deadline, *, similarity: bool
    ) -> Method:
        """What a model runs when a call names no method, with its parameters.

        Raises:
            ModelNotFoundError: No such model.
            MethodUnsupportedError: It has no default.
        """
        chosen = self._named(model, deadline)
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
    ) -> tuple[str, str | None]:
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
            chosen = _first(self.models(deadline), method, kind, similarity)
        else:
            chosen = self._named(model, deadline)
        if method is None and parameters:
            method = self.default(chosen.name, kind, deadline, similarity=similarity).name
        return chosen.name, method

    def _named(self, model: str, deadline: Deadline) -> ModelInfo:
        for refresh in (False, True):
            models = self.models(deadline, refresh=refresh)
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
