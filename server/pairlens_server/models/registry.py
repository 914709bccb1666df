"""The served models by name, and class labels to class indices."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from pairlens_server.errors import (
    ConfigurationError,
    InvalidParameterError,
    ModelNotFoundError,
)
from pairlens_server.models.loaded import LoadedModel

_LABEL_FIELD = "target.label"
_LISTED = 10  # of the served models, or the classes that share a label, in a message


class ModelRegistry:
    """All models of a server, in the order of its configuration."""

    def __init__(self, models: Iterable[LoadedModel]):
        self._models: dict[str, LoadedModel] = {}
        for model in models:
            if model.name in self._models:
                raise ConfigurationError(f"two models are named {model.name}")
            self._models[model.name] = model

    def get(self, name: str) -> LoadedModel:
        """Return the model served as `name`.

        Raises:
            ModelNotFoundError: None is; the message names near matches, else some models.
        """
        model = self._models.get(name)
        if model is None:
            near = get_close_matches(name[:100], self._models) or list(self._models)
            served = ", ".join(near[:_LISTED]) or "none"
            if len(near) > _LISTED:
                served += f", … and {len(near) - _LISTED} more"
            raise ModelNotFoundError(
                f"no model is named {_quoted(name)}; served: {served}", field="model"
            )
        return model

    def names(self) -> tuple[str, ...]:
        """Names of all models."""
        return tuple(self._models)

    def all(self) -> tuple[LoadedModel, ...]:
        """All models."""
        return tuple(self._models.values())


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
