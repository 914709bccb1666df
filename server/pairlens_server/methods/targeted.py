"""What methods with a target share: names of target kinds, refusals, layers."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import ClassVar

from pairlens_server.errors import InvalidParameterError
from pairlens_server.methods.base import ExplanationMethod
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.targets import ScoreTarget

_NEAR = 5  # names that an error about a layer lists


@dataclass(frozen=True)
class TargetedMethod(ExplanationMethod):
    """A method whose map depends on a class, or on the similarity to other pictures."""

    takes_class: ClassVar[bool] = True
    takes_similarity: ClassVar[bool] = True


def given(target: ScoreTarget | None) -> ScoreTarget:
    """The target of a method that has one."""
    assert target is not None
    return target


def resolve_layer(layer: str | None, facts: ModelFacts, method: str) -> str:
    """Name of the module to read: the given one or the model's default.

    Raises:
        InvalidParameterError: The model has no such module, or its output lies on no grid;
            the error lists near names.
    """
    if layer is None:
        return facts.cam_layer
    if layer in facts.layers:
        return layer
    near = get_close_matches(layer, list(facts.layers), n=_NEAR, cutoff=0.4)
    hint = f"; near: {', '.join(near)}" if near else ""
    raise InvalidParameterError(
        f"no layer {layer!r} whose output lies on a grid of places{hint}",
        field=f"method.{method}.layer",
    )


def cam_refusal(facts: ModelFacts) -> str:
    """Why there is no feature map to weigh, or ""."""
    return "" if facts.cam_layer else "none of its layers' outputs lies on a grid by default"
