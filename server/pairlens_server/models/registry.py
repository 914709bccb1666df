"""The served models by name, and class labels to class indices."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches

from pairlens_server.errors import (
    ConfigurationError,
    InvalidParameterError,
    ModelNotFoundError,
)
from pairlens_server.models.loaded import LoadedModel

_LABEL_FIELD = "target.label"
_LISTED = 10  # of the served models, or the classes that share a label, in a message


class _View:
    """The models that were served at a time, and how many calls look at them.

    Attributes:
        models: By name, in the order of the configuration; none once nobody needs them.
        calls: That have not ended.
        unused: Set while there is none.
    """

    def __init__(self, models: Mapping[str, LoadedModel]):
        self.models = models
        self.calls = 0
        self.unused = asyncio.Event()
        self.unused.set()


_PINNED: ContextVar[_View | None] = ContextVar("pairlens_models", default=None)


class ModelRegistry:
    """All models of a server, in the order of its configuration.

    They may be exchanged while calls go on: a call sees those that were there when it began, to
    its end. Changed by the event loop alone, and read by any thread.
    """

    def __init__(self, models: Iterable[LoadedModel] = ()):
        self._view = _View(_by_name(models))
        self._older: list[_View] = []

    @contextmanager
    def call(self) -> Iterator[None]:
        """For the length of a call: whatever `get` gives stays the same, and stays loaded."""
        view = self._view
        view.calls += 1
        view.unused.clear()
        pinned = _PINNED.set(view)
        try:
            yield
        finally:
            _PINNED.reset(pinned)
            view.calls -= 1
            if not view.calls:
                view.unused.set()
                self._older = self._still_used(self._older)

    def serve(self, models: Iterable[LoadedModel]) -> None:
        """Have these models, and no others, seen by the calls that begin from now on.

        Raises:
            ConfigurationError: Two have the same name.
        """
        new = _View(_by_name(models))
        self._older = self._still_used([*self._older, self._view])
        self._view = new

    async def unused(self, models: Sequence[LoadedModel]) -> None:
        """Wait until no call sees one of some models, which are no longer served."""
        for view in self._older:
            if any(model in models for model in view.models.values()):
                await view.unused.wait()

    def get(self, name: str) -> LoadedModel:
        """Return the model served as `name`.

        Raises:
            ModelNotFoundError: None is; the message names near matches, else some models.
        """
        models = self._seen()
        model = models.get(name)
        if model is None:
            near = get_close_matches(name[:100], models)
            named = near or list(models)
            listed = ", ".join(named[:_LISTED]) or "none"
            if len(named) > _LISTED:
                listed += f", … and {len(named) - _LISTED} more"
            raise ModelNotFoundError(
                f"no model is named {_quoted(name)}; {'near' if near else 'served'}: {listed}",
                field="model",
            )
        return model

    def names(self) -> tuple[str, ...]:
        """Names of all models."""
        return tuple(self._seen())

    def all(self) -> tuple[LoadedModel, ...]:
        """All models."""
        return tuple(self._seen().values())

    @staticmethod
    def _still_used(older: Sequence[_View]) -> list[_View]:
        for view in older:
            if not view.calls:
                # Tasks that calls have left behind hold on to the view.
                view.models = {}
        return [view for view in older if view.calls]

    def _seen(self) -> Mapping[str, LoadedModel]:
        pinned = _PINNED.get()
        if pinned is not None and (pinned is self._view or pinned in self._older):
            return pinned.models
        return self._view.models


def _by_name(models: Iterable[LoadedModel]) -> dict[str, LoadedModel]:
    named: dict[str, LoadedModel] = {}
    for model in models:
        if model.name in named:
            raise ConfigurationError(f"two models are named {model.name}")
        named[model.name] = model
    return named


def resolve_label(model: LoadedModel, label: str) -> int:
    """Return the class whose label is `label`, or has it as one comma-separated part.

    Args:
        model: A model with labels.
        label: A whole label ("tench, Tinca tinca") or a part ("tench"), case-sensitive.
            A whole label goes before a part of another.

    Raises:
        InvalidParameterError: The model has no labels, none is this one (near ones are
            named), or several classes have it (they are listed).
    """
    if not model.labels:
        raise InvalidParameterError(
            f"model {model.name} has no labels; give the class index", field=_LABEL_FIELD
        )
    wanted = label.strip()
    found = [index for index, whole in enumerate(model.labels) if whole == wanted]
    if not found:
        found = [index for index, whole in enumerate(model.labels) if wanted in _parts(whole)]
    if len(found) == 1:
        return found[0]
    if found:
        classes = "; ".join(f"{index}: {model.labels[index]}" for index in found[:_LISTED])
        raise InvalidParameterError(
            f"{_quoted(label)} is the label of {len(found)} classes ({classes}); "
            "give the whole label or the class index",
            field=_LABEL_FIELD,
        )
    raise InvalidParameterError(
        f"no class of {model.name} is labelled {_quoted(label)}{_near(model, wanted)}",
        field=_LABEL_FIELD,
    )


def _parts(label: str) -> list[str]:
    return [part.strip() for part in label.split(",") if part.strip()]


def _near(model: LoadedModel, label: str) -> str:
    # Compared in lower case, since a wrong case is the likeliest slip.
    parts = {part.lower(): part for whole in model.labels for part in _parts(whole)}
    near = get_close_matches(label[:100].lower(), parts, n=3)
    return f"; near: {', '.join(parts[part] for part in near)}" if near else ""


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 100 else text[:100] + "…")
